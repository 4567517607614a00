"""Builds the parts of the image tower."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from sseg_jax.models import backbones, maskformer, query_embedding, teacher
from sseg_jax.models.conv import ConvNet
from sseg_jax.models.layers import RegionLayer
from sseg_jax.models.teacher_masks import TeacherMasks
from sseg_jax.models.teacher_tail import Tail


class Tower(NamedTuple):
  """A backbone with a MaskFormer, or what a frozen eye needs.

  The parts of the other kind are None. Where pseudo-masks are the masks, there
  is a backbone alone.

  Attributes:
    width: features of a query or region, before the projection.
    backbone: see `backbones`.
    maskformer: decoders of masks.
    stem: a small network whose features are pooled, or None.
    region: a layer that pooled features pass, or None.
    eye: the parameters of the eye.
    region_input: scales what the eye sees.
    teacher_masks: learns masks from what the eye sees, or None.
    tail: blocks of the eye that are trained, or None.
  """

  width: int
  backbone: Any = None
  maskformer: Any = None
  stem: ConvNet | None = None
  region: RegionLayer | None = None
  eye: teacher.FrozenArrays | None = None
  region_input: teacher.RegionInput | None = None
  teacher_masks: TeacherMasks | None = None
  tail: Tail | None = None


def build(
  config: Any, embedding: query_embedding.QueryEmbedding, *, rngs: nnx.Rngs
) -> Tower:
  """Builds the image tower of a whole config from random weights."""
  c = config.model
  if teacher.is_eye(config):
    width = teacher.width(config)
    return Tower(
      width,
      eye=teacher.holder(config),
      region_input=teacher.RegionInput(width, c.region_dropout, rngs=rngs),
      teacher_masks=TeacherMasks(config, rngs=rngs)
      if c.teacher_masks
      else None,
      tail=Tail(config, rngs=rngs) if c.teacher_trained else None,
    )
  dtype = jnp.dtype(config.dtype)
  how: dict[str, Any] = dict(
    drop_path=c.drop_path, remat=c.remat, dtype=dtype, rngs=rngs
  )
  if isinstance(embedding, query_embedding.Segments):
    of_tokens = backbones.tokens(c.backbone, **how)
    return Tower(embedding.width(of_tokens.channels), of_tokens)
  backbone = backbones.build(c.backbone, **how)
  masks = maskformer.build(c, backbone.channels, dtype=dtype, rngs=rngs)
  channels = {
    **backbone.channels,
    "pixel": c.hidden_dim,
    "decoder": c.hidden_dim,
    "stem": sum(c.stem_widths),
  }
  width = embedding.width(channels)
  stem: ConvNet | None = None
  if "stem" in embedding.levels:
    # A config that was read from JSON has lists.
    stem = ConvNet(
      widths=tuple(c.stem_widths),
      depths=tuple(c.stem_depths),
      remat=c.remat,
      dtype=dtype,
      rngs=rngs,
    )
  region: RegionLayer | None = None
  if hidden := embedding.region_hidden:
    region = RegionLayer(width, hidden, dtype=dtype, rngs=rngs)
    width = hidden
  return Tower(width, backbone, masks, stem, region)
