"""What a frozen transformer sees in a picture: regions, and their features.

One forward pass gives the tokens that are clustered to regions and the features
of which each region gets the mean. `models/teacher.py` says what for.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sseg_jax.errors import InputError
from sseg_jax.models import teacher, teacher_tail, vit, vit_weights
from sseg_jax.models.layers import normalize_pixels, unit
from sseg_jax.pseudo_masks.tokens import Tokens

# `evaluate.refine` -> `Eye.masks`, of a network that learned masks.
_MASKS = {"none": "own", "pseudo_masks": "snapped", "clusters": "clusters"}
# Mask logit of cells inside a region; outside it is negative. So large that
# the share of a pixel between two regions depends on its place alone.
_INSIDE = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Eye:
  """Sees regions; has the interface of `generator.PseudoMasks` as well.

  Attributes:
    tokens: clusters the tokens.
    parts: kind and layer of each feature.
    more_k: how many clusters other clusterings of the same picture have.
    masks: what the network's masks shall be: "clusters"; "own", those of
      `models/teacher_masks.py`; or "snapped", the same snapped to clusters.
    tail: the structure of `teacher_tail.Tail`, if there is one.
    frozen: the transformer's parameters as `teacher.load` gives them; {} where
      the caller has them, for example from a checkpoint.
  """

  tokens: Tokens
  parts: tuple[tuple[str, int], ...]
  more_k: tuple[int, ...]
  frozen: dict[str, Any]
  masks: str = "clusters"
  tail: nnx.GraphDef | None = None

  @property
  def k(self) -> int:
    """Regions of the first clustering, whose labels `generate` gives."""
    return self.tokens.k

  @property
  def stride(self) -> int:
    """Side of a patch in pixels of the picture that is given, rounded."""
    return self.tokens.stride

  def generate(
    self, frozen: Any, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps and which labels occur; image values 0..255."""
    labels, _ = self.look(frozen, image, keys)
    present = labels[:, None] == jnp.arange(self.k)[None, :, None, None]
    return labels, present.any((2, 3))

  def see(
    self,
    frozen: Any,
    image: Num[Array, "b h w 3"],
    keys: Key[Array, "b"] | None,
    trained: Any = None,
  ) -> teacher.Regions:
    """Returns the regions of all clusterings; see `look`."""
    return self.look(frozen, image, keys, trained)[1]

  def look(
    self,
    frozen: Any,
    image: Num[Array, "b h w 3"],
    keys: Key[Array, "b"] | None,
    trained: Any = None,
  ) -> tuple[Int[Array, "b cells_y cells_x"], teacher.Regions]:
    """Returns the labels of the first clustering, and the regions of all.

    Args:
      frozen: parameters as `teacher.load` gives them.
      image: RGB in 0..255; sides are multiples of the patch, unless
        `pseudo_masks.scale` is other than 1.
      keys: one for each picture, of the start of K-means. None: the clustering
        of `tokens` reads none.
      trained: parameters of the `tail`; without it None.
    """
    of_clusters, of_features = self._cells(frozen, image, trained)
    labels, _ = self.tokens.cluster(of_clusters, image, keys)
    maps = [_masks(labels, self.k)]
    b, y, x, _ = of_clusters.shape
    for k in self.more_k:
      more = self.tokens.grouped(of_clusters, keys, k, folded=k)
      found = _masks(more.labels.reshape(b, y, x), k)
      maps.append(_enlarged(found, labels.shape[1] // y))
    masks = jnp.concatenate(maps, 1)
    logits = (2 * masks - 1) * _INSIDE
    fine = labels.shape[1] // y
    shares = masks.reshape(b, -1, y, fine, x, fine).mean((3, 5))
    area = shares.sum((2, 3))  # [b, n]
    means = (
      jnp.einsum(
        "bnyx,byxd->bnd",
        shares,
        of_features,
        precision=jax.lax.Precision.HIGHEST,
      )
      / jnp.maximum(area, 1e-6)[..., None]
    )
    seen = teacher.Regions(logits, means, area > 0)
    if self.masks != "clusters":
      seen = seen._replace(tokens=of_clusters, cells=of_features)
    if self.masks == "snapped":
      seen = seen._replace(labels=labels)
    return labels, seen

  def tokens_of(
    self, frozen: Any, image: Num[Array, "b h w 3"]
  ) -> Float[Array, "b y x d"]:
    """Returns `teacher.Regions.tokens` alone; image values 0..255."""
    return self._cells(frozen, image)[0]

  def _cells(
    self, frozen: Any, image: Num[Array, "b h w 3"], trained: Any = None
  ) -> tuple[Float[Array, "b y x d"], Float[Array, "b y x e"]]:
    """Returns what is clustered, and what regions have the mean of."""
    dtype = self.tokens.dtype
    model = nnx.merge(self.tokens.graphdef, teacher.parameters(frozen, dtype))
    image = self.tokens.scaled(image)
    pixels = normalize_pixels(image, dtype)
    wanted = list(dict.fromkeys((*self.tokens.parts, *self.parts)))
    of_regions: dict[tuple[str, int], Array] = {}
    if self.tail is None or trained is None:
      found = dict(zip(wanted, model.features(pixels, wanted), strict=True))
    else:
      tail, blocks = nnx.merge(self.tail, trained), list(model.blocks)
      x, found = vit.read_blocks(
        *(model.embed(pixels), blocks[: tail.first], model.norm, wanted),
        to_end=True,
      )
      of_regions = tail.features(x, [p for p in wanted if p[1] >= tail.first])
      later = (blocks[tail.first :], model.norm, self.tokens.parts, tail.first)
      found |= vit.read_blocks(x, *later)[1]
    b, height, width, _ = image.shape
    patch = self.tokens.patch
    size = (b, height // patch, width // patch, -1)

    def joined(parts, keep, found=found):
      values = [found[part][:, model.prefix :] for part in parts]
      values = [value.astype(jnp.float32) for value in values]
      if not keep:
        values = [unit(value) for value in values]
      return jnp.concatenate(values, -1).reshape(size)

    # As `tokens.read_features`: a single part keeps its length.
    alone = len(self.tokens.parts) == 1
    clustered = joined(self.tokens.parts, alone)
    return clustered, joined(self.parts, False, found | of_regions)


def build(config: Any, *, load: bool = False) -> Eye:
  """Builds the eye of a config whose `model.backbone` is "teacher".

  Args:
    config: a whole config.
    load: whether to read the weights too. Without them they are the model's
      state: `model_state["teacher"]`.

  Raises:
    InputError: for a feature that the network does not have, and weights that
      do not fit.
  """
  sizes = teacher.sizes(config)
  graphdef, shapes = vit_weights.build(sizes, jnp.dtype(config.dtype))
  return Eye(
    Tokens.of(config, graphdef, shapes, sizes["depth"]),
    teacher.features(config),
    tuple(config.model.teacher_more_k),
    teacher.load(config) if load else {},
    "own" if config.model.teacher_masks else "clusters",
    teacher_tail.build(config),
  )


def for_pictures(config: Any, refine: str) -> Eye:
  """Returns the eye at test: with `evaluate.regions` regions, if that is set.

  The weights are not read; see `build`.

  Args:
    config: a whole config.
    refine: one of `field_rules.REFINEMENTS`.

  Raises:
    InputError: for a refinement that needs `model.teacher_masks`.
  """
  built = build(config)
  if config.evaluate.regions:
    tokens = dataclasses.replace(built.tokens, k=config.evaluate.regions)
    built = dataclasses.replace(built, tokens=tokens, more_k=())
  if not config.model.teacher_masks:
    if refine == "none":
      return built
    raise InputError(
      f"evaluate.refine={refine!r}: the masks of model.backbone='teacher' are"
      " clusters already; use 'none', or train with model.teacher_masks=True"
    )
  return dataclasses.replace(built, masks=_MASKS[refine])


def _masks(labels: Int[Array, "b y x"], k: int) -> Float[Array, "b k y x"]:
  return jax.nn.one_hot(labels, k, axis=1, dtype=jnp.float32)


def _enlarged(masks: Array, times: int) -> Array:
  return jnp.repeat(jnp.repeat(masks, times, 2), times, 3)
