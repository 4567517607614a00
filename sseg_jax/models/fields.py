"""The fields of a config that a network is made of: which values can work."""

from typing import Any

from sseg_jax import errors
from sseg_jax.models import query_embedding, remat

PIXEL_DECODERS = ("fpn", "transformer_encoder")
LEVELS = ("res2", "res3", "res4", "res5")  # of every backbone


def check(config: Any) -> None:
  """Raises InputError, which names the field, unless a network can be made.

  Args:
    config: fields as in `default_config.py`.
  """
  _check_ranges(config)
  c = config.model
  _one_of("model.pixel_decoder", c.pixel_decoder, PIXEL_DECODERS)
  _one_of(
    "model.query_embedding", c.query_embedding, query_embedding.EMBEDDINGS
  )
  _one_of("model.pool_masks", c.pool_masks, query_embedding.POOL_MASKS)
  _one_of("model.counted_queries", c.counted_queries, ("all", "owners"))
  _one_of("model.mean", c.mean, ("before", "after"))
  _one_of("model.proj_norm", c.proj_norm, ("bn", "ln", "none"))
  _one_of("model.memory", c.memory, LEVELS)
  _one_of("dtype", config.dtype, ("bfloat16", "float32"))
  if c.hidden_dim % c.num_heads:
    raise errors.InputError(
      f"model.hidden_dim={c.hidden_dim} is not a multiple of"
      f" model.num_heads={c.num_heads}"
    )
  remat.check(c.remat)
  if c.query_embedding == "mask_pooled":
    _check_pooled(c)


def _check_pooled(c: Any) -> None:
  levels = c.pool_feature.split("+")
  for level in levels:
    _one_of("model.pool_feature", level, (*LEVELS, "pixel", "stem"))
  stages = len(c.stem_widths)
  if "stem" in levels and not 1 <= stages == len(c.stem_depths) <= 4:
    raise errors.InputError(
      f"model.stem_widths={c.stem_widths} and model.stem_depths="
      f"{c.stem_depths}: give one to four stages, as many in both"
    )


def _check_ranges(config: Any) -> None:
  """Raises InputError for sizes, rates and scales that make no network."""
  sizes = {
    "model": (
      "hidden_dim",
      "mask_dim",
      "num_queries",
      "decoder_layers",
      "num_heads",
      "ffn_dim",
      "embed_dim",
      "proj_hidden",
    ),
    "text": ("width", "layers", "num_heads", "context_length"),
  }
  if config.model.pixel_decoder == "transformer_encoder":
    sizes["model"] += ("encoder_layers",)
  rates = {"model": ("dropout", "drop_path"), "text": ("dropout",)}
  scales = {"loss": ("init_temperature", "max_logit_scale")}
  for fields, fits, wanted in (
    (sizes, lambda x: x >= 1, "at least 1"),
    (rates, lambda x: 0 <= x < 1, "from 0 to below 1"),
    (scales, lambda x: x > 0, "over 0"),
  ):
    for part, names in fields.items():
      for name in names:
        value = config[part][name]
        if not fits(value):
          raise errors.InputError(f"{part}.{name}={value}: must be {wanted}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise errors.InputError(
      f"{name}={value!r} is not one of {', '.join(allowed)}"
    )
