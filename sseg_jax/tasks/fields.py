"""The fields of a config that a step is made of, and their rules."""

from typing import Any

from sseg_jax import contrastive
from sseg_jax.field_rules import (
  NOT_NEGATIVE,
  POSITIVE,
  SHARE,
  SWITCH,
  Between,
  Rule,
  at_least,
  one_of,
)
from sseg_jax.models import (
  backbones,
  query_embedding,
  teacher,
  vit_pyramid,
)
from sseg_jax.tasks import TASKS

RULES: dict[str, Rule] = {
  "task": one_of(*TASKS),
  "accumulate_steps": at_least(1),
  "loss.classes": NOT_NEGATIVE,
  "loss.no_object": NOT_NEGATIVE,
  "loss.auxiliary": NOT_NEGATIVE,
  "optim.schedule": one_of("cosine", "poly"),
  "optim.power": POSITIVE,
  "optim.layer_decay": Rule(lambda x: 0 < x <= 1, "over 0 and at most 1"),
  "loss.mask_stride": Rule(lambda x: x in (1, 2, 4), "1, 2 or 4"),
  "loss.mask_every": at_least(1),
  "loss.label_regions": one_of("classes", "pseudo_masks"),
  "loss.contrastive_block": at_least(0),
  "loss.contrastive_form": one_of(*contrastive.FORMS),
  "loss.sharpness": NOT_NEGATIVE,
  "loss.max_words": at_least(1),
  "loss.region_words": NOT_NEGATIVE,
  "loss.region_words_q": SHARE,
  "text.frozen": SWITCH,
}


def _mask_every(c: Any) -> str | None:
  every = c.loss.mask_every
  if c.batch_size % every:
    return f"loss.mask_every={every}: must divide batch_size={c.batch_size}"
  by_regions = query_embedding.by_regions(c.model)
  if every == 1 or (by_regions and c.model.pool_feature == "stem"):
    return None
  if c.model.teacher_masks:
    return None  # words are learned from the clusters of every picture
  if c.task == "supervised" and not by_regions:
    return None  # every picture learns masks
  return (
    f"loss.mask_every={every}: words need every picture's masks or backbone;"
    " use 1, or model.query_embedding='mask_pooled' with"
    " model.pool_masks='pseudo' and model.pool_feature='stem'"
  )


def _accumulation(c: Any) -> str | None:
  steps, every = c.accumulate_steps, c.loss.mask_every
  if steps == 1:
    return None
  if c.batch_size % (steps * every):
    return (
      f"accumulate_steps={steps}: its product with loss.mask_every={every} must"
      f" divide batch_size={c.batch_size}"
    )
  if TASKS[c.task].in_parts is None:
    return (
      f"accumulate_steps={steps}: task={c.task!r} takes its batch in one piece;"
      " use 1"
    )
  return None


def _block(c: Any) -> str | None:
  block = c.loss.contrastive_block
  if not block or not c.batch_size % block:
    return None
  return (
    f"loss.contrastive_block={block}: must divide batch_size={c.batch_size},"
    " or be 0"
  )


def _form(c: Any) -> str | None:
  form = c.loss.contrastive_form
  if form != "global" and c.model.mean == "before":
    return (
      f"loss.contrastive_form={form!r}: compares each region by itself, so it"
      " needs model.mean='after'"
    )
  if form == "global" and c.model.proj_heads > 1:
    return (
      f"model.proj_heads={c.model.proj_heads}: loss.contrastive_form='global'"
      " compares whole embeddings; use 1, or another form"
    )
  if form != "words" and not c.text.layers:
    return (
      "text.layers=0: only loss.contrastive_form='words' can learn from words"
      " without layers; use at least 1"
    )
  return None


def _region_words(c: Any) -> str | None:
  """Words are compared once each, which not every network can do."""
  if not c.loss.region_words:
    return None
  wanted: tuple[tuple[str, bool, str], ...] = (
    ("loss.contrastive_form", c.loss.contrastive_form == "words", "'words'"),
    ("text.layers", not c.text.layers, "0"),
    ("model.proj_norm", c.model.proj_norm != "bn", "'ln' or 'none'"),
  )
  wrong = [f"{name}={to}" for name, fits, to in wanted if not fits]
  if not wrong:
    return None
  return (
    f"loss.region_words={c.loss.region_words}: needs {' and '.join(wrong)}; set"
    " them, or loss.region_words=0"
  )


def _frozen_text(c: Any) -> str | None:
  if c.task == "supervised" or not c.text.frozen:
    return None
  return (
    f"text.frozen=True: task={c.task!r} learns words from captions; use False,"
    ' or task="supervised"'
  )


def _label_regions(c: Any) -> str | None:
  if c.loss.label_regions == "classes":
    return None
  start = f"loss.label_regions={c.loss.label_regions!r}: "
  if c.task != "supervised":
    return f"{start}task={c.task!r} learns no label maps; use 'classes'"
  if c.model.head == "text" and query_embedding.by_regions(c.model):
    return None
  return (
    f"{start}the network has to embed pseudo-masks; use 'classes', or"
    " model.head='text', model.query_embedding='mask_pooled' and"
    " model.pool_masks='pseudo'"
  )


def _head(c: Any) -> str | None:
  """What a network with a fixed list of classes cannot do."""
  if c.model.head == "text":
    return None
  wanted: tuple[tuple[str, Any, Any], ...] = (
    ("task", c.task, "supervised"),
    ("loss.mask_every", c.loss.mask_every, 1),
    ("text.frozen", c.text.frozen, False),
    ("text.weights", c.text.weights, ""),
    ("evaluate.refine", c.evaluate.refine, "none"),
  )
  for name, value, needed in wanted:
    if value != needed:
      return (
        f"{name}={value!r}: model.head={c.model.head!r} has a fixed list of"
        f" classes and needs {needed!r}"
      )
  return None


def _segments(c: Any) -> str | None:
  """What a network without a decoder of masks needs."""
  if c.model.query_embedding != "segments" or c.model.head != "text":
    return None
  wanted: tuple[tuple[str, Any, Any], ...] = (
    ("task", c.task, "sseg"),
    ("loss.mask_every", c.loss.mask_every, 1),
    ("evaluate.refine", c.evaluate.refine, "pseudo_masks"),
  )
  for name, value, needed in wanted:
    if value != needed:
      return (
        f"{name}={value!r}: model.query_embedding='segments' has the"
        f" pseudo-masks for masks and needs {needed!r}"
      )
  if not c.loss.contrastive:
    return (
      "loss.contrastive=0.0: model.query_embedding='segments' learns nothing"
      " else; use a number over 0"
    )
  patch = backbones.BACKBONES[c.model.backbone][1].get("patch", 0)
  if patch % c.model.pool_stride:
    return (
      f"model.pool_stride={c.model.pool_stride}: must divide the patch {patch}"
      f" of model.backbone={c.model.backbone!r}"
    )
  return None


def _layer_decay(c: Any) -> str | None:
  if c.optim.layer_decay == 1 or c.model.backbone in vit_pyramid.PYRAMID_SIZES:
    return None
  if c.model.teacher_trained:
    return None
  return (
    f"optim.layer_decay={c.optim.layer_decay}: needs the blocks of a ViT, and"
    f" model.backbone={c.model.backbone!r} is none; use 1"
  )


def _eye(c: Any) -> str | None:
  if not teacher.is_eye(c):
    return None
  if c.task != "sseg":
    return f"task={c.task!r}: model.backbone='teacher' has task='sseg' alone"
  if c.accumulate_steps != 1:
    return (
      f"accumulate_steps={c.accumulate_steps}: model.backbone='teacher' takes"
      " its batch in one piece; use 1"
    )
  if not c.loss.contrastive:
    return (
      "loss.contrastive=0.0: the words of model.backbone='teacher' are learned"
      " from it alone; use a number over 0"
    )
  return None


def _refine(c: Any) -> str | None:
  refine, own = c.evaluate.refine, c.model.teacher_masks
  start = f"evaluate.refine={refine!r}: "
  if teacher.is_eye(c) and refine != "none" and not own:
    return (
      f"{start}the masks of model.backbone='teacher' are clusters already; use"
      " 'none', or model.teacher_masks=True"
    )
  if refine == "clusters" and not teacher.is_eye(c):
    return (
      f"{start}only model.backbone='teacher' has features of clusters; use"
      " 'pseudo_masks' or 'none'"
    )
  return None


BETWEEN: tuple[Between, ...] = (
  Between(
    (
      "loss.mask_every",
      "batch_size",
      "task",
      "model.query_embedding",
      "model.pool_masks",
      "model.pool_feature",
      "model.teacher_masks",
    ),
    _mask_every,
  ),
  Between(
    ("accumulate_steps", "loss.mask_every", "batch_size", "task"),
    _accumulation,
  ),
  Between(("loss.contrastive_block", "batch_size"), _block),
  Between(
    ("evaluate.refine", "model.teacher_masks", "model.backbone"), _refine
  ),
  Between(
    ("model.backbone", "task", "accumulate_steps", "loss.contrastive"), _eye
  ),
  Between(
    (
      "loss.contrastive_form",
      "model.mean",
      "model.proj_heads",
      "text.layers",
    ),
    _form,
  ),
  Between(
    (
      "loss.region_words",
      "loss.contrastive_form",
      "text.layers",
      "model.proj_norm",
    ),
    _region_words,
  ),
  Between(("task", "text.frozen"), _frozen_text),
  Between(
    (
      "loss.label_regions",
      "task",
      "model.head",
      "model.query_embedding",
      "model.pool_masks",
    ),
    _label_regions,
  ),
  Between(
    (
      "model.head",
      "task",
      "loss.mask_every",
      "text.frozen",
      "text.weights",
      "evaluate.refine",
    ),
    _head,
  ),
  Between(
    (
      "model.query_embedding",
      "model.head",
      "model.backbone",
      "model.pool_stride",
      "task",
      "loss.mask_every",
      "loss.contrastive",
      "evaluate.refine",
    ),
    _segments,
  ),
  Between(
    ("optim.layer_decay", "model.backbone", "model.teacher_trained"),
    _layer_decay,
  ),
)
