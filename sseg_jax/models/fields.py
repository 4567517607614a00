"""The fields of a config that a network is made of, and their rules."""

from collections.abc import Callable
from typing import Any

from sseg_jax import field_rules
from sseg_jax.errors import InputError
from sseg_jax.field_rules import (
  RATE,
  SWITCH,
  TEXT,
  Between,
  Rule,
  at_least,
  one_of,
  registered,
  whole_numbers,
)
from sseg_jax.models import (
  backbones,
  query_embedding,
  remat,
  teacher,
  vit_pyramid,
  vit_sizes,
)

PIXEL_DECODERS = ("fpn", "transformer_encoder")
# Values of `model.head`; all but the first know a fixed list of classes.
HEADS = ("text", "classes", "upernet", "linear")
LEVELS = ("res2", "res3", "res4", "res5")  # of every backbone
_POOLED = (*LEVELS, "pixel", "stem")

RULES: dict[str, Rule] = {
  "dtype": one_of("bfloat16", "float32"),
  "model.backbone": Rule(
    lambda x: x in backbones.BACKBONES or x == teacher.NAME,
    f"one of {', '.join(sorted(backbones.BACKBONES))}, {teacher.NAME}",
  ),
  "model.teacher": registered(vit_sizes.VIT_SIZES),
  "model.teacher_features": TEXT,
  "model.teacher_more_k": Rule(
    lambda x: not len(x) or whole_numbers(x, 2),
    "up to four whole numbers, at least 2",
  ),
  "model.teacher_masks": SWITCH,
  "model.teacher_trained": at_least(0),
  "model.region_dropout": RATE,
  "model.weights": TEXT,
  "model.head": one_of(*HEADS),
  "model.frozen": SWITCH,
  "model.drop_path": RATE,
  "model.pixel_decoder": one_of(*PIXEL_DECODERS),
  "model.encoder_layers": at_least(1),
  "model.memory": one_of(*LEVELS),
  "model.hidden_dim": at_least(1),
  "model.mask_dim": at_least(1),
  "model.num_queries": at_least(1),
  "model.decoder_layers": at_least(1),
  "model.num_heads": at_least(1),
  "model.ffn_dim": at_least(1),
  "model.dropout": RATE,
  "model.remat": one_of(*remat.POLICIES),
  "model.deep_supervision": SWITCH,
  "model.query_embedding": one_of(*query_embedding.EMBEDDINGS),
  "model.pool_feature": Rule(
    lambda x: all(level in _POOLED for level in x.split("+")),
    f"of {', '.join(_POOLED)}, several joined by +",
  ),
  "model.stem_widths": Rule(
    lambda x: whole_numbers(x, 1), "one to four whole numbers, at least 1"
  ),
  "model.stem_depths": Rule(
    lambda x: whole_numbers(x, 0), "one to four whole numbers, at least 0"
  ),
  "model.pool_masks": one_of(*query_embedding.POOL_MASKS),
  "model.pool_outline": SWITCH,
  "model.pool_place": SWITCH,
  "model.region_hidden": at_least(0),
  "model.pool_stride": at_least(1),
  "model.counted_queries": one_of("all", "owners"),
  "model.mean": one_of("before", "after"),
  "model.normalize_queries": SWITCH,
  "model.embed_dim": at_least(1),
  "model.proj_hidden": at_least(1),
  "model.proj_norm": one_of("bn", "ln", "none"),
  "model.proj_heads": at_least(1),
  "text.layers": at_least(0),
  "text.width": at_least(1),
  "text.num_heads": at_least(1),
  "text.context_length": at_least(2),  # the start and end tokens
  "text.dropout": RATE,
  "text.letter_groups": at_least(0),
  "text.weights": TEXT,
  "loss.init_temperature": field_rules.POSITIVE,
  "loss.max_logit_scale": field_rules.POSITIVE,
}


def _heads(part: str, width: str) -> Callable[[Any], str | None]:
  def broken(c: Any) -> str | None:
    size, heads = c[part][width], c[part].num_heads
    if not size % heads:
      return None
    return (
      f"{part}.{width}={size}: must be a multiple of {part}.num_heads={heads}"
    )

  return broken


def _proj_heads(c: Any) -> str | None:
  heads = c.model.proj_heads
  for name in ("proj_hidden", "embed_dim"):
    if c.model[name] % heads:
      return (
        f"model.{name}={c.model[name]}: must be a multiple of"
        f" model.proj_heads={heads}"
      )
  return None


def _stem(c: Any) -> str | None:
  widths, depths = c.model.stem_widths, c.model.stem_depths
  if len(widths) == len(depths):
    return None
  return (
    f"model.stem_widths={widths} and model.stem_depths={depths}: give as many"
    " numbers in both"
  )


def _eye(c: Any) -> str | None:
  if not teacher.is_eye(c):
    return None
  try:
    teacher.features(c)
  except InputError as error:
    return str(error)
  if c.model.weights:
    return (
      f"model.weights={c.model.weights!r}: the weights of"
      " model.backbone='teacher' are pseudo_masks.weights; leave it empty"
    )
  wanted = {"query_embedding": "decoder", "mean": "after"}
  for name, value in wanted.items():
    if c.model[name] != value:
      return (
        f"model.{name}={c.model[name]!r}: model.backbone='teacher' embeds each"
        f" region by itself; use {value!r}"
      )
  return None


def _teacher_trained(c: Any) -> str | None:
  count = c.model.teacher_trained
  if not count:
    return None
  start = f"model.teacher_trained={count}: "
  if not teacher.is_eye(c):
    return f"{start}only model.backbone='teacher' has such blocks; use 0"
  depth = teacher.sizes(c)["depth"]
  if count >= depth:
    return (
      f"{start}model.teacher={c.model.teacher!r} has {depth} blocks; use fewer"
    )
  first = depth - count
  try:
    found = teacher.features(c)
  except InputError:
    return None  # which `_eye` tells
  if not any(layer >= first for _, layer in found):
    return (
      f"{start}model.teacher_features={c.model.teacher_features!r} has nothing"
      f" of the blocks from {first} on; add 'tokens', or use 0"
    )
  if c.pseudo_masks.mode == "cached":
    return (
      f"{start}stored features of regions cannot be trained; use"
      " pseudo_masks.mode='online', or 0"
    )
  return None


def _teacher_masks(c: Any) -> str | None:
  if not c.model.teacher_masks or teacher.is_eye(c):
    return None
  return (
    f"model.teacher_masks=True: model.backbone={c.model.backbone!r} has a"
    " MaskFormer already; use False, or model.backbone='teacher'"
  )


def _head(c: Any) -> str | None:
  head, backbone = c.model.head, c.model.backbone
  if head == "upernet" and backbone not in vit_pyramid.PYRAMID_SIZES:
    return (
      f"model.backbone={backbone!r}: model.head='upernet' needs one of"
      f" {', '.join(vit_pyramid.PYRAMID_SIZES)}"
    )
  if head == "classes" and backbone == teacher.NAME:
    return (
      f"model.head={head!r}: model.backbone='teacher' knows classes by text;"
      " use 'text'"
    )
  return None


def _tokens(c: Any) -> str | None:
  """Which networks need the tokens of a ViT, and which cannot do with them."""
  name = c.model.backbone
  needs = ""
  if c.model.query_embedding == "segments":
    needs = "model.query_embedding='segments'"
  if c.model.head == "linear":
    needs = "model.head='linear'"
  if needs and not backbones.has_tokens(name):
    known = filter(backbones.has_tokens, backbones.BACKBONES)
    return f"model.backbone={name!r}: {needs} needs one of {', '.join(known)}"
  if not needs and name in vit_pyramid.TOKEN_SIZES:
    return (
      f"model.backbone={name!r}: gives tokens alone, for"
      " model.query_embedding='segments' and model.head='linear'"
    )
  return None


def _frozen(c: Any) -> str | None:
  if not c.model.frozen or c.model.head == "linear":
    return None
  return (
    f"model.frozen=True: model.head={c.model.head!r} trains its backbone; use"
    " False, or model.head='linear'"
  )


BETWEEN: tuple[Between, ...] = (
  Between(("model.backbone", "model.query_embedding", "model.head"), _tokens),
  Between(("model.frozen", "model.head"), _frozen),
  Between(
    ("model.hidden_dim", "model.num_heads"), _heads("model", "hidden_dim")
  ),
  Between(("text.width", "text.num_heads"), _heads("text", "width")),
  Between(
    ("model.proj_heads", "model.proj_hidden", "model.embed_dim"), _proj_heads
  ),
  Between(("model.stem_widths", "model.stem_depths"), _stem),
  Between(("model.head", "model.backbone"), _head),
  Between(("model.teacher_masks", "model.backbone"), _teacher_masks),
  Between(
    (
      "model.teacher_trained",
      "model.backbone",
      "model.teacher",
      "model.teacher_features",
      "pseudo_masks.mode",
    ),
    _teacher_trained,
  ),
  Between(
    (
      "model.backbone",
      "model.teacher",
      "model.teacher_features",
      "model.weights",
      "model.query_embedding",
      "model.mean",
    ),
    _eye,
  ),
)


def check(config: Any) -> None:
  """Raises InputError, which names the fields, unless a network can be made.

  Args:
    config: fields as in `default_config.py`.
  """
  field_rules.check(config, RULES, BETWEEN)
