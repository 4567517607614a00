"""B1 of Table 3: pseudo-masks first, then CLIP names each masked region.

The paper's argument against it: a mask cut out of its picture is no picture
that CLIP has seen. Of a masked region the rest is the mean pixel, which is 0
after normalisation; the paper does not say what it takes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from sseg_jax.baselines import towers
from sseg_jax.baselines.options import Options
from sseg_jax.benchmarks import table1_rows
from sseg_jax.errors import InputError
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.sliding_window import multiple_for
from sseg_jax.models import clip
from sseg_jax.models.layers import resize_bilinear, resize_labels
from sseg_jax.pseudo_masks import generator


class MasksThenClip:
  """B1 as a `by_protocol.System`.

  Args:
    model: CLIP; the paper takes ViT-L/14.
    masks: what makes the pseudo-masks of a window.
  """

  def __init__(self, model: clip.Clip, masks: generator.PseudoMasks):
    self._words = towers.Words(model, unit_first=True)
    self._masks = masks
    graphdef, self._state = nnx.split(model)
    side = model.image.vit.grid * model.image.vit.patch

    def see(state, frozen, window, classes):
      return self._scores(
        nnx.merge(graphdef, state), frozen, window, classes, side
      )

    self._see = jax.jit(see)

  @classmethod
  def build(cls, options: Options) -> "MasksThenClip":
    """Loads the weights that the options name."""
    rows = table1_rows.ROWS
    if options.mask_generator not in rows:
      raise InputError(
        f"mask_generator={options.mask_generator!r} is unknown; use one of"
        f" {', '.join(rows)}"
      )
    weights = options.needed_weights("CLIPModel")
    fields: dict[str, object] = {"k": options.k}
    if options.mask_weights:
      fields["weights"] = options.mask_weights
    config = table1_rows.config_of(options.mask_generator, fields)
    return cls(clip.load(weights), generator.build(config))

  def score_windows(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """The probabilities of each pixel's mask, at the windows' size."""
    classes = self._words.of(class_set)

    def one(window: np.ndarray) -> np.ndarray:
      return towers.by_patches(
        window[None],
        multiple_for(self._masks.stride),
        lambda x: self._see(self._state, self._masks.frozen, x, classes),
      )

    return np.concatenate([one(window) for window in windows])

  def _scores(
    self,
    model: clip.Clip,
    frozen: dict,
    window: Float[Array, "1 h w 3"],
    classes: Float[Array, "c e"],
    side: int,
  ) -> Float[Array, "1 h w c"]:
    # One key for all: the masks of a window must not depend on its place.
    labels, _ = self._masks.generate(frozen, window, jax.random.key(0)[None])
    _, h, w, _ = window.shape
    labels = resize_labels(labels, (h, w))[0]
    masks = jnp.arange(self._masks.k)[:, None, None] == labels[None]
    image = towers.normalized(window[0], clip.PIXEL_MEAN, clip.PIXEL_STD)
    cut = masked(image, masks, side)
    embeddings = model.image(cut)[:, 0]
    chances = towers.probabilities(embeddings, classes, model.logit_scale[...])
    return chances[labels][None]


def masked(
  image: Float[Array, "h w 3"], masks: Bool[Array, "k h w"], side: int
) -> Float[Array, "k side side 3"]:
  """Returns the picture under each mask, 0 elsewhere, as a square."""
  cut = jnp.where(masks[..., None], image[None], 0)
  cut = resize_bilinear(jnp.moveaxis(cut, -1, 1), (side, side))
  return jnp.moveaxis(cut, 1, -1)
