"""GroupViT: a vision transformer whose tokens are grouped twice.

Patches are encoded together with group tokens. At the end of a stage each token
is assigned to a group, and the groups are the tokens of the next stage. So the
last tokens are segments, and the product of the assignments says which patch
belongs to which.

Source: NVlabs/GroupViT `models/group_vit.py`, and `modeling_groupvit.py` of
`transformers`, whose files are read.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from sseg_jax.errors import InputError
from sseg_jax.models import hf_files, pretrained
from sseg_jax.models.flax_versions import List
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.layers import Projection, gelu
from sseg_jax.models.positions import resize_positions
from sseg_jax.models.text import TextTower
from sseg_jax.models.transformer import Attention
from sseg_jax.models.vit import Block

_EPS = 1e-5

_IMAGE = (
  (r"^vision_model\.", ""),
  (r"^embeddings\.position_embeddings$", "positions"),
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embedding."),
  (r"^embeddings\.layernorm\.", "patch_norm."),
  (r"^encoder\.stages\.", "stages."),
  (r"^layernorm\.", "norm."),
  (r"\.layers\.", ".blocks."),
  (r"\.layer_norm(\d)\.", r".norm\1."),
  (r"\.self_attn\.([qkv])_proj\.", r".self.\1."),
  (r"\.self_attn\.out_proj\.", ".out."),
  (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
  (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
  (r"\.group_projector\.0\.", ".group_norm."),
  (r"\.group_projector\.1\.", ".group_mlp."),
  (r"\.downsample\.", ".assign."),
  (r"\.pre_assign_attn\.attn\.", ".cross."),
  (r"\.pre_assign_attn\.", "."),
  (r"\.assign\.assign\.", ".assign."),
  (r"\.q_proj\.", ".query."),
  (r"\.k_proj\.", ".key."),
  (r"\.v_proj\.", ".value."),
  (r"\.out_proj\.", ".out."),
)


class _MLP(nnx.Module):
  """Two linear layers with GELU between them."""

  def __init__(self, d_in: int, hidden: int, d_out: int, *, rngs: nnx.Rngs):
    self.fc1 = nnx.Linear(d_in, hidden, rngs=rngs)
    self.fc2 = nnx.Linear(hidden, d_out, rngs=rngs)

  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    """Maps the last axis."""
    return self.fc2(gelu(self.fc1(x)))

  def over_tokens(self, x: Float[Array, "b t d"]) -> Float[Array, "b u d"]:
    """Maps the axis of the tokens."""
    return self(x.swapaxes(1, 2)).swapaxes(1, 2)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
  return nnx.LayerNorm(width, epsilon=_EPS, use_fast_variance=False, rngs=rngs)


class Assign(nnx.Module):
  """The end of a stage: makes groups, and assigns tokens to them."""

  def __init__(self, s: "Sizes", tokens: int, groups: int, *, rngs: nnx.Rngs):
    self.norm_tokens = _norm(s.width, rngs)
    self.mlp_inter = _MLP(tokens, s.mixer_hidden, groups, rngs=rngs)
    self.norm_post_tokens = _norm(s.width, rngs)
    self.norm_x = _norm(s.width, rngs)
    self.cross = Attention(
      s.width, s.num_heads, 0.0, dtype=jnp.float32, rngs=rngs
    )
    self.norm2 = _norm(s.width, rngs)
    self.mlp = _MLP(s.width, s.mlp_hidden, s.width, rngs=rngs)
    self.norm_post = _norm(s.width, rngs)
    self.query = nnx.Linear(s.width, s.width, rngs=rngs)
    self.key = nnx.Linear(s.width, s.width, rngs=rngs)
    self.value = nnx.Linear(s.width, s.width, rngs=rngs)
    self.proj = nnx.Linear(s.width, s.width, rngs=rngs)
    self.norm_new_x = _norm(s.width, rngs)
    self.mlp_channels = _MLP(s.width, s.channels_hidden, s.width, rngs=rngs)
    self._epsilon = s.assign_eps

  def __call__(
    self, x: Float[Array, "b t d"], group_tokens: Float[Array, "b n d"]
  ) -> tuple[Float[Array, "b g d"], Float[Array, "b g t"]]:
    """Returns the groups, and how much of each token belongs to each.

    The groups themselves take each token as a whole, in its likeliest group.
    """
    groups = self.mlp_inter.over_tokens(self.norm_tokens(group_tokens))
    groups = self.norm_post_tokens(groups)
    x = self.norm_x(x)
    groups = groups + self.cross(groups, x, x)
    groups = self.norm_post(groups + self.mlp(self.norm2(groups)))
    scores = jnp.einsum(
      "bgd,btd->bgt",
      self.query(groups),
      self.key(x),
      precision=jax.lax.Precision.HIGHEST,
    )
    soft = jax.nn.softmax(scores * x.shape[-1] ** -0.5, axis=1)
    hard = jax.nn.one_hot(soft.argmax(1), soft.shape[1], axis=1)
    weights = hard / (hard.sum(-1, keepdims=True) + self._epsilon)
    new = self.proj(weights @ self.value(x)) + groups
    return new + self.mlp_channels(self.norm_new_x(new)), soft


class Stage(nnx.Module):
  """Blocks over tokens and group tokens; the last stage has no groups."""

  def __init__(self, s: "Sizes", index: int, *, rngs: nnx.Rngs):
    count = s.group_tokens[index]
    before = s.output_groups[index - 1] if index else 0
    # NNX wants each of them assigned once.
    token: nnx.Param | None = None
    assign: Assign | None = None
    norm: nnx.LayerNorm | None = None
    mlp: _MLP | None = None
    if count:
      token = nnx.Param(jnp.zeros((count, s.width)))
      assign = Assign(s, count, s.output_groups[index], rngs=rngs)
    if count and before:
      norm = _norm(s.width, rngs)
      mlp = _MLP(before, s.width // 2, count, rngs=rngs)
    self.group_token, self.assign = token, assign
    self.group_norm, self.group_mlp = norm, mlp
    self.blocks = List(
      Block(
        s.width,
        s.num_heads,
        mlp_ratio=s.mlp_hidden / s.width,
        layer_scale=False,
        epsilon=_EPS,
        dtype=jnp.float32,
        rngs=rngs,
      )
      for _ in range(s.depths[index])
    )

  def __call__(
    self, x: Float[Array, "b t d"], before: Float[Array, "b m d"] | None
  ) -> tuple[Array, Array | None, Array | None]:
    """Returns tokens, group tokens and assignments; None where none are."""
    tokens = x.shape[1]
    if self.group_token is not None:
      groups = jnp.broadcast_to(
        self.group_token[...], (len(x), *self.group_token.shape)
      )
      if self.group_mlp is not None and self.group_norm is not None:
        assert before is not None  # the stage before has group tokens
        groups = groups + self.group_mlp.over_tokens(self.group_norm(before))
      x = jnp.concatenate([x, groups], 1)
    for block in self.blocks:
      x = block(x)
    x, groups = x[:, :tokens], x[:, tokens:]
    if self.assign is None:
      return x, None, None
    x, share = self.assign(x, groups)
    return x, groups, share


class Sizes(NamedTuple):
  """Sizes of the image tower, named as in config.json where not clear."""

  patch: int
  grid: int
  width: int
  num_heads: int
  mlp_hidden: int
  depths: tuple[int, ...]
  group_tokens: tuple[int, ...]
  output_groups: tuple[int, ...]
  mixer_hidden: int
  channels_hidden: int
  assign_eps: float


class GroupViTImage(nnx.Module):
  """The image tower."""

  def __init__(self, s: Sizes, *, rngs: nnx.Rngs):
    self.patch, self.grid = s.patch, s.grid
    self.patch_embedding = nnx.Conv(
      3,
      s.width,
      (s.patch, s.patch),
      strides=s.patch,
      padding="VALID",
      rngs=rngs,
    )
    self.patch_norm = _norm(s.width, rngs)
    self.positions = nnx.Param(jnp.zeros((s.grid**2, s.width)))
    self.stages = List(Stage(s, i, rngs=rngs) for i in range(len(s.depths)))
    self.norm = _norm(s.width, rngs)

  def __call__(
    self, image: Float[Array, "b h w 3"]
  ) -> tuple[Float[Array, "b g d"], Float[Array, "b g ph pw"]]:
    """Returns the groups' features, and how much of each patch they have.

    Args:
      image: normalised; sides are multiples of the patch.
    """
    x = self.patch_norm(self.patch_embedding(image))
    b, h, w, d = x.shape
    table = self.positions[...].reshape(self.grid, self.grid, d)
    x = (x + resize_positions(table, (h, w), "size")[None]).reshape(b, h * w, d)
    groups, share = None, None
    for stage in self.stages:
      x, groups, found = stage(x, groups)
      if found is not None:
        share = found if share is None else found @ share
    assert share is not None  # `load` asks for group tokens
    return self.norm(x), share.reshape(b, -1, h, w)


class GroupViT(nnx.Module):
  """Both towers, their projections, and the logarithm of the scale."""

  def __init__(
    self, sizes: Sizes, text: dict[str, Any], hidden: int, joint: int
  ):
    """Builds both towers.

    Args:
      sizes: of the image tower.
      text: arguments of `TextTower`.
      hidden: inner width of both projections.
      joint: size of the common space.
    """
    rngs = parameter_keys(0)
    how: Any = dict(norm="bn", dtype=jnp.float32, rngs=rngs)
    self.image = GroupViTImage(sizes, rngs=rngs)
    self.text = TextTower(rngs=rngs, **text)
    self.image_projection = Projection(sizes.width, hidden, joint, **how)
    self.text_projection = Projection(text["width"], hidden, joint, **how)
    self.logit_scale = nnx.Param(jnp.zeros(()))

  def encode_text(self, tokens: Int[Array, "b l"]) -> Float[Array, "b e"]:
    """Returns the embeddings of texts, given as the tokenizer's ids."""
    return self.text_projection(self.text(tokens))

  def encode_image(
    self, image: Float[Array, "b h w 3"]
  ) -> tuple[
    Float[Array, "b e"], Float[Array, "b g e"], Float[Array, "b g ph pw"]
  ]:
    """Returns embeddings of pictures and of their groups, and the groups."""
    groups, share = self.image(image)
    whole = self.image_projection(groups.mean(1))
    return whole, self.image_projection(groups), share


def load(source: str) -> GroupViT:
  """Loads GroupViT from a folder or file that `transformers` saved.

  Raises InputError for files that are missing, damaged, or of another network.
  """
  config, arrays, place = hf_files.read(source, "groupvit")
  vision, text = (
    config.part("vision_config", **_USUAL),
    config.part(
      "text_config",
      hidden_size=256,
      intermediate_size=1024,
      num_attention_heads=4,
    ),
  )
  vision.choice("hidden_act", ("gelu",))
  width, patch = vision.number("hidden_size"), vision.number("patch_size")
  ratios = vision.fields.get("assign_mlp_ratio", (0.5, 4))
  if not (
    isinstance(ratios, list | tuple)
    and len(ratios) == 2
    and all(isinstance(r, int | float) and 0 < r < 100 for r in ratios)
  ):
    raise InputError(f"{vision.place}: assign_mlp_ratio must be two numbers")
  sizes = Sizes(
    patch=patch,
    grid=vision.number("image_size") // patch,
    width=width,
    num_heads=vision.number("num_attention_heads"),
    mlp_hidden=vision.number("intermediate_size"),
    depths=tuple(vision.numbers("depths")),
    group_tokens=tuple(vision.numbers("num_group_tokens", 0)),
    output_groups=tuple(vision.numbers("num_output_groups", 0)),
    mixer_hidden=int(ratios[0] * width),
    channels_hidden=int(ratios[1] * width),
    assign_eps=float(vision.fields.get("assign_eps", 1.0)),
  )
  same = len(sizes.depths) == len(sizes.group_tokens)
  if (
    not same
    or len(sizes.depths) != len(sizes.output_groups)
    or not sizes.group_tokens[0]
    or width % sizes.num_heads
  ):
    raise InputError(
      f"{vision.place}: depths, num_group_tokens, num_output_groups or"
      f" num_attention_heads do not fit each other; give {hf_files.HOW}"
    )
  return hf_files.filled(
    lambda: GroupViT(
      sizes,
      hf_files.text_sizes(text),
      config.number("projection_intermediate_dim"),
      config.number("projection_dim"),
    ),
    lambda leaves: _leaves(arrays, leaves, place),
    place,
  )


_USUAL_TEXT: dict[str, Any] = {
  "hidden_size": 256,
  "intermediate_size": 1024,
  "num_attention_heads": 4,
}
_USUAL: dict[str, Any] = {
  "hidden_size": 384,
  "intermediate_size": 1536,
  "num_attention_heads": 6,
  "patch_size": 16,
  "hidden_act": "gelu",
  "depths": (6, 3, 3),
  "num_group_tokens": (64, 8, 0),
  "num_output_groups": (64, 8, 8),
}


def _leaves(
  arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any], place: object
) -> dict[str, np.ndarray]:
  """Returns the parameters of `GroupViT` by name."""
  image = {
    pretrained.tensors.renamed(k, _IMAGE): v[0] if v.ndim == 3 else v
    for k, v in arrays.items()
    if k.startswith("vision_model.")
  }
  image = pretrained.tensors.join_qkv(image, ".self.", place)
  image = {k.replace(".self.qkv.", ".qkv."): v for k, v in image.items()}
  found = hf_files.prefixed(
    "image",
    pretrained.converted(image, hf_files.part(leaves, "image"), place),
  )
  found |= hf_files.text_tower(arrays, leaves, place)
  for ours, theirs in (("image", "visual"), ("text", "text")):
    own = {
      pretrained.tensors.renamed(k, _PROJECTION): v
      for k, v in arrays.items()
      if k.startswith(f"{theirs}_projection.") and "num_batches" not in k
    }
    name = f"{ours}_projection"
    found |= hf_files.prefixed(
      name, pretrained.converted(own, hf_files.part(leaves, name), place)
    )
  return found | hf_files.logit_scale(arrays, place)


_PROJECTION = (
  (r"^\w+_projection\.", ""),
  (r"^0\.", "fc1."),
  (r"^1\.", "norm."),
  (r"^3\.", "fc2."),
)
