"""The range of every field, and the rules between fields, checked at once.

`check` needs no data and no devices, and runs before anything is read, drawn or
compiled. What depends on them is checked where they are known: the mesh
(`sharding`), the number of processes and the records (`data.pipeline`), the
layers of a frozen network (`pseudo_masks`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from sseg_jax import config_files, default_config, prompts
from sseg_jax.errors import InputError
from sseg_jax.inference import scoring, segmenter, sliding_window
from sseg_jax.models import (
  backbones,
  fields,
  positions,
  query_embedding,
  remat,
)
from sseg_jax.pseudo_masks import generator, kmeans, tokens
from sseg_jax.tasks import TASKS

_LARGEST = 2**31 - 1  # of whole numbers: steps are int32 on the device


class Rule(NamedTuple):
  """What a field's value must be: a test, and how a message says it."""

  fits: Callable[[Any], bool]
  wanted: str


def _at_least(low: int) -> Rule:
  return Rule(lambda x: low <= x <= _LARGEST, f"at least {low}")


def _one_of(*names: str) -> Rule:
  return Rule(lambda x: x in names, f"one of {', '.join(names)}")


def _feature(text: str) -> bool:
  try:
    return bool(tokens.parse_features(text, 1000))
  except InputError:
    return False


def _numbers(x: Any, low: float) -> bool:
  """Whether these are a low and a high number, both over `low`."""
  numbers = all(type(v) in (int, float) and math.isfinite(v) for v in x)
  return len(x) == 2 and numbers and low < x[0] <= x[1]


def _whole(x: Any, low: int) -> bool:
  return 1 <= len(x) <= 4 and all(type(v) is int and v >= low for v in x)


def _is_text(x: str) -> bool:
  try:
    return b"\0" not in x.encode()
  except UnicodeEncodeError:  # half a character
    return False


_SWITCH = Rule(lambda x: True, "true or false")
_TEXT = Rule(_is_text, "a text that can be the name of a file")
_POSITIVE = Rule(lambda x: x > 0, "over 0")
_NOT_NEGATIVE = Rule(lambda x: x >= 0, "at least 0")
_SHARE = Rule(lambda x: 0 <= x <= 1, "from 0 to 1")
_RATE = Rule(lambda x: 0 <= x < 1, "from 0 to below 1")
_LEVELS = ("res2", "res3", "res4", "res5")
_POOLED = (*_LEVELS, "pixel", "stem")

RULES: dict[str, Rule] = {
  "task": _one_of(*TASKS),
  "seed": Rule(lambda x: 0 <= x < 2**32, "from 0 to 4294967295"),
  "total_steps": _at_least(1),
  "batch_size": _at_least(1),
  "accumulate_steps": _at_least(1),
  "image_size": Rule(
    lambda x: 0 < x <= _LARGEST and not x % backbones.LARGEST_STRIDE,
    f"a multiple of {backbones.LARGEST_STRIDE}, the backbone's largest stride",
  ),
  "dtype": _one_of("bfloat16", "float32"),
  "pallas": _SWITCH,
  "model.backbone": _one_of(*sorted(backbones.BACKBONES)),
  "model.weights": _TEXT,
  "model.drop_path": _RATE,
  "model.pixel_decoder": _one_of(*fields.PIXEL_DECODERS),
  "model.encoder_layers": _at_least(1),
  "model.memory": _one_of(*_LEVELS),
  "model.hidden_dim": _at_least(1),
  "model.mask_dim": _at_least(1),
  "model.num_queries": _at_least(1),
  "model.decoder_layers": _at_least(1),
  "model.num_heads": _at_least(1),
  "model.ffn_dim": _at_least(1),
  "model.dropout": _RATE,
  "model.remat": _one_of(*remat.POLICIES),
  "model.deep_supervision": _SWITCH,
  "model.query_embedding": _one_of(*query_embedding.EMBEDDINGS),
  "model.pool_feature": Rule(
    lambda x: all(level in _POOLED for level in x.split("+")),
    f"of {', '.join(_POOLED)}, several joined by +",
  ),
  "model.stem_widths": Rule(
    lambda x: _whole(x, 1), "one to four whole numbers, at least 1"
  ),
  "model.stem_depths": Rule(
    lambda x: _whole(x, 0), "one to four whole numbers, at least 0"
  ),
  "model.pool_masks": _one_of(*query_embedding.POOL_MASKS),
  "model.pool_outline": _SWITCH,
  "model.pool_place": _SWITCH,
  "model.region_hidden": _at_least(0),
  "model.pool_stride": _at_least(1),
  "model.counted_queries": _one_of("all", "owners"),
  "model.mean": _one_of("before", "after"),
  "model.normalize_queries": _SWITCH,
  "model.embed_dim": _at_least(1),
  "model.proj_hidden": _at_least(1),
  "model.proj_norm": _one_of("bn", "ln", "none"),
  "text.layers": _at_least(1),
  "text.width": _at_least(1),
  "text.num_heads": _at_least(1),
  "text.context_length": _at_least(2),  # the start and end tokens
  "text.dropout": _RATE,
  "text.weights": _TEXT,
  "pseudo_masks.generator": _one_of(*generator.GENERATORS),
  "pseudo_masks.k": _at_least(1),
  "pseudo_masks.stride": _at_least(1),
  "pseudo_masks.mode": _one_of("online", "cached"),
  "pseudo_masks.weights": _TEXT,
  "pseudo_masks.position_rule": _one_of("", *positions.RULES),
  "pseudo_masks.num_heads": _at_least(0),
  "pseudo_masks.scale": _POSITIVE,
  "pseudo_masks.feature": Rule(
    _feature, 'kinds of features joined by +, as "tokens" or "keys:10"'
  ),
  "pseudo_masks.restarts": _at_least(1),
  "pseudo_masks.smooth_radius": _NOT_NEGATIVE,
  "pseudo_masks.smooth_temperature": _POSITIVE,
  "pseudo_masks.upsample": _at_least(1),
  "pseudo_masks.colour_steps": _at_least(0),
  "pseudo_masks.iterations": _at_least(1),
  "pseudo_masks.metric": _one_of(*kmeans.METRICS),
  "pseudo_masks.init": _one_of(*kmeans.INITS),
  "pseudo_masks.position_weight": _NOT_NEGATIVE,
  "pseudo_masks.majority_passes": _at_least(0),
  "pseudo_masks.merge_distance": _NOT_NEGATIVE,
  "pseudo_masks.fit_every": _at_least(1),
  "pseudo_masks.median_passes": _at_least(0),
  "loss.mask": _NOT_NEGATIVE,
  "loss.contrastive": _NOT_NEGATIVE,
  "loss.dice": _NOT_NEGATIVE,
  "loss.focal": _NOT_NEGATIVE,
  "loss.mask_stride": Rule(lambda x: x in (1, 2, 4), "1, 2 or 4"),
  "loss.mask_every": _at_least(1),
  "loss.init_temperature": _POSITIVE,
  "loss.max_logit_scale": _POSITIVE,
  "loss.contrastive_block": _at_least(0),
  "optim.peak_lr": _POSITIVE,
  "optim.start_lr": _NOT_NEGATIVE,
  "optim.end_lr": _NOT_NEGATIVE,
  "optim.warmup_steps": _at_least(0),
  "optim.b1": _RATE,
  "optim.b2": _RATE,
  "optim.eps": _NOT_NEGATIVE,
  "optim.weight_decay": _NOT_NEGATIVE,
  "optim.clip_norm": _NOT_NEGATIVE,
  "data.source": _one_of("records", "shapes"),
  "data.train": _TEXT,
  "data.val": _TEXT,
  "data.lanes": _at_least(1),
  "data.shuffle_window": _at_least(1),
  "data.crop_scale": Rule(
    lambda x: _numbers(x, 0) and x[1] <= 1, "two shares over 0, the lower first"
  ),
  "data.crop_ratio": Rule(
    lambda x: _numbers(x, 0), "two numbers over 0, the lower first"
  ),
  "data.flip": _SHARE,
  "data.photometric": _SHARE,
  "data.word_dropout": _RATE,
  "data.max_bad_share": _SHARE,
  "data.threads": _at_least(1),
  "data.shapes.train_size": _at_least(1),
  "data.shapes.eval_size": _at_least(1),
  "data.shapes.hard_share": _SHARE,
  "mesh.data": Rule(
    lambda x: x == -1 or 1 <= x <= _LARGEST, "-1, or at least 1"
  ),
  "mesh.fsdp": _at_least(1),
  "checkpoint.every_steps": _at_least(0),
  "checkpoint.every_minutes": _NOT_NEGATIVE,
  "checkpoint.keep": _at_least(1),
  "checkpoint.keep_best": _at_least(0),
  "checkpoint.best_score": _TEXT,
  "log_every_steps": _at_least(1),
  "max_bad_steps": _at_least(1),
  "watchdog_minutes": _NOT_NEGATIVE,
  "evaluate.every_steps": _at_least(0),
  "evaluate.benchmarks": _TEXT,
  "evaluate.max_images": _at_least(0),
  "evaluate.image_size": Rule(
    lambda x: 0 < x <= _LARGEST and not x % sliding_window.PAD,
    f"a multiple of {sliding_window.PAD}",
  ),
  "evaluate.stride": _at_least(1),
  "evaluate.combiner": _one_of(*scoring.COMBINERS),
  "evaluate.refine": _one_of(*segmenter.REFINEMENTS),
  "evaluate.background_threshold": _NOT_NEGATIVE,
  "evaluate.threshold_images": _at_least(0),
  "evaluate.templates": _one_of(*prompts.TEMPLATES),
  "evaluate.retrieval_size": _at_least(0),
  "evaluate.retrieval_captions": _at_least(1),
}


def check(config: Any, *, data: bool = True) -> None:
  """Raises InputError if a field cannot work; names all such fields.

  Args:
    config: as `default_config.get_config` makes, with changes.
    data: False leaves out the rules between `data` and other fields, for a step
      whose pictures are never read.
  """
  default_config.check_batch(config)  # first: other fields may depend on it
  types = _types()
  found = config_files.names(config)
  if missing := [name for name in types if name not in found]:
    raise InputError(
      f"the config has no field {', '.join(missing[:3])}; begin with"
      " sseg_jax.default_config.get_config()"
    )
  wrong = {name: text for name in found if (text := _wrong(config, name))}
  messages = [*wrong.values()] + [
    message
    for fields, rule in BETWEEN
    if not wrong.keys() & set(fields)
    and (data or not any(field.startswith("data.") for field in fields))
    and (message := rule(config))
  ]
  if messages:
    raise InputError("; ".join(messages))


def _wrong(config: Any, name: str) -> str | None:
  """Says what is wrong with a field by itself."""
  kind = _types().get(name)
  if kind is None:
    return f"{name}: there is no such field; {config_files.hint(name)}"
  try:
    # JSON has lists where a config has tuples.
    value = config_files.convert(
      name, _value(config, name), kind, name in config_files.optional()
    )
  except InputError as error:
    return str(error)
  if value is None:
    return None
  rule = RULES[name]
  finite = kind is not float or math.isfinite(value)
  if finite and rule.fits(value):
    return None
  wanted = rule.wanted if finite else "a finite number"
  return f"{name}={config_files.shown(value, True)}: must be {wanted}"


@functools.cache
def _types() -> dict[str, type]:
  """Returns the type of each field by its dotted name."""
  default = default_config.get_config()
  found = {}
  for name in config_files.names(default):
    *path, last = name.split(".")
    part = _value(default, ".".join(path)) if path else default
    found[name] = part.get_type(last)
  return found


def _value(config: Any, name: str) -> Any:
  for part in name.split("."):
    config = config[part]
  return config


# --- Rules between fields: each returns a message, or None --------------------


def _warmup(c: Any) -> str | None:
  if c.optim.warmup_steps < c.total_steps:
    return None
  return (
    f"optim.warmup_steps={c.optim.warmup_steps}: must be below"
    f" total_steps={c.total_steps}"
  )


def _lanes(c: Any) -> str | None:
  if not c.batch_size % c.data.lanes:
    return None
  return (
    f"data.lanes={c.data.lanes}: must divide batch_size={c.batch_size};"
    " choose a divisor"
  )


def _queries(c: Any) -> str | None:
  if c.pseudo_masks.k <= c.model.num_queries:
    return None
  return (
    f"pseudo_masks.k={c.pseudo_masks.k} is more than"
    f" model.num_queries={c.model.num_queries}: each mask needs a query"
  )


def _heads(part: str, width: str) -> Callable[[Any], str | None]:
  def rule(c: Any) -> str | None:
    size, heads = c[part][width], c[part].num_heads
    if not size % heads:
      return None
    return (
      f"{part}.{width}={size}: must be a multiple of {part}.num_heads={heads}"
    )

  return rule


def _stem(c: Any) -> str | None:
  widths, depths = c.model.stem_widths, c.model.stem_depths
  if len(widths) == len(depths):
    return None
  return (
    f"model.stem_widths={widths} and model.stem_depths={depths}: give as many"
    " numbers in both"
  )


def _supervised(c: Any) -> str | None:
  if c.task != "supervised" or c.data.source == "shapes":
    return None
  return (
    'task="supervised" needs class names, which only data.source="shapes" has'
    " yet"
  )


def _cells(c: Any) -> str | None:
  stride = c.pseudo_masks.stride
  by_stride = c.pseudo_masks.generator in ("pixels", "spectral")
  if not by_stride and c.pseudo_masks.mode == "online":
    return None  # a network's patch
  if c.image_size % stride:
    return (
      f"pseudo_masks.stride={stride}: must divide image_size={c.image_size}"
    )
  every = c.pseudo_masks.fit_every
  if every // 2 >= c.image_size // stride:
    return (
      f"pseudo_masks.fit_every={every}: too many for the"
      f" {c.image_size // stride} cells along a side (image_size over"
      " pseudo_masks.stride)"
    )
  return None


def _pool_stride(c: Any) -> str | None:
  stride = c.model.pool_stride
  if c.model.pool_masks != "pseudo" or not c.image_size % stride:
    return None
  return f"model.pool_stride={stride}: must divide image_size={c.image_size}"


def _mask_every(c: Any) -> str | None:
  every = c.loss.mask_every
  if c.batch_size % every:
    return f"loss.mask_every={every}: must divide batch_size={c.batch_size}"
  by_regions = query_embedding.by_regions(c.model)
  if every == 1 or (by_regions and c.model.pool_feature == "stem"):
    return None
  if c.task == "supervised" and not by_regions:
    return None  # takes every picture
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
      f"accumulate_steps={steps}: must, times loss.mask_every={every}, divide"
      f" batch_size={c.batch_size}"
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


def _shapes(c: Any) -> str | None:
  size = c.data.shapes.train_size
  if c.data.source != "shapes" or size >= c.batch_size:
    return None
  return (
    f"data.shapes.train_size={size}: must be at least batch_size={c.batch_size}"
  )


def _window(c: Any) -> str | None:
  if c.evaluate.stride <= c.evaluate.image_size:
    return None
  return (
    f"evaluate.stride={c.evaluate.stride}: must be at most"
    f" evaluate.image_size={c.evaluate.image_size}, or windows leave gaps"
  )


def _losses(c: Any) -> str | None:
  if c.task != "sseg" or c.loss.mask or c.loss.contrastive:
    return None
  return "loss.mask=0.0 and loss.contrastive=0.0: one must be over 0"


# Fields that a rule reads, and the rule; skipped if one of them is wrong.
BETWEEN: tuple[tuple[tuple[str, ...], Callable[[Any], str | None]], ...] = (
  (("optim.warmup_steps", "total_steps"), _warmup),
  (("data.lanes", "batch_size"), _lanes),
  (("pseudo_masks.k", "model.num_queries"), _queries),
  (("model.hidden_dim", "model.num_heads"), _heads("model", "hidden_dim")),
  (("text.width", "text.num_heads"), _heads("text", "width")),
  (("model.stem_widths", "model.stem_depths"), _stem),
  (("task", "data.source"), _supervised),
  (
    (
      "image_size",
      "pseudo_masks.stride",
      "pseudo_masks.fit_every",
      "pseudo_masks.generator",
      "pseudo_masks.mode",
    ),
    _cells,
  ),
  (("image_size", "model.pool_stride", "model.pool_masks"), _pool_stride),
  (
    (
      "loss.mask_every",
      "batch_size",
      "task",
      "model.query_embedding",
      "model.pool_masks",
      "model.pool_feature",
    ),
    _mask_every,
  ),
  (
    ("accumulate_steps", "loss.mask_every", "batch_size", "task"),
    _accumulation,
  ),
  (("loss.contrastive_block", "batch_size"), _block),
  (("data.source", "data.shapes.train_size", "batch_size"), _shapes),
  (("evaluate.stride", "evaluate.image_size"), _window),
  (("task", "loss.mask", "loss.contrastive"), _losses),
)
