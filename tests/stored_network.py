"""A small network stored with its outputs: later code must restore the same.

`python tests/stored_network.py` draws new weights and writes `PATH` anew. Do so
only where a change of the networks makes old checkpoints useless on purpose.
"""

import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sseg_jax import default_config
from sseg_jax.models import sseg

PATH = pathlib.Path(__file__).parent / "data" / "stored_network.npz"
TEXT = np.array([[1, 5, 7, 2, 0], [1, 3, 2, 0, 0]], np.int32)
IMAGE = np.random.default_rng(0).integers(
  0, 256, (2, 32, 64, 3), dtype=np.uint8
)
# Both forms have the same parameters, but for a stem and a layer that only
# "mask_pooled" has.
FORMS = {
  "decoder": {},
  "mask_pooled": {
    "query_embedding": "mask_pooled",
    "pool_feature": "stem",
    "pool_masks": "pseudo",
    "pool_place": True,
    "region_hidden": 8,
    "mean": "after",
    "normalize_queries": True,
    "counted_queries": "owners",
  },
}


def config(form: str) -> ml_collections.ConfigDict:
  """Returns the config of a network with few parameters."""
  c = default_config.get_config()
  c.dtype = "float32"
  c.model.update(
    backbone="conv_tiny",
    drop_path=0.0,
    hidden_dim=8,
    mask_dim=8,
    num_queries=4,
    decoder_layers=1,
    num_heads=2,
    ffn_dim=8,
    embed_dim=8,
    proj_hidden=16,
    stem_widths=(8,),
    stem_depths=(1,),
    **FORMS[form],
  )
  c.text.update(layers=1, width=8, num_heads=2, context_length=5)
  c.pseudo_masks.k = 3
  return c


def names(tree: dict) -> dict[str, jax.Array]:
  """Returns the leaves of nested dictionaries by their paths."""
  return {
    "/".join(str(key.key) for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def filled(tree: dict, stored: dict[str, np.ndarray]) -> dict:
  """Returns the stored arrays in the structure of `tree`."""
  arrays = [jnp.asarray(stored[name], jnp.float32) for name in names(tree)]
  return jax.tree.unflatten(jax.tree.structure(tree), arrays)


def outputs(form: str, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns what the network gives for `IMAGE` and `TEXT`."""
  graphdef, *shapes = sseg.build(config(form))
  params, state = (filled(tree, stored) for tree in shapes)
  image = jax.jit(sseg.apply_image, static_argnums=0)(
    graphdef, params, state, IMAGE
  )
  text = jax.jit(sseg.apply_text, static_argnums=0)(
    graphdef, params, state, TEXT
  )
  fields = ("mask_logits", "query_embeddings", "image_embedding")
  found = {name: np.asarray(getattr(image, name)) for name in fields}
  return found | {"text_embedding": np.asarray(text)}


def main() -> None:
  """Draws parameters, and writes them with what they give."""
  rng = np.random.default_rng(1)
  _, params, state = sseg.build(config("mask_pooled"))
  stored = {}
  for name, leaf in (names(params) | names(state)).items():
    center = 1.0 if name.endswith(("scale", "var")) else 0.0
    spread = 2.0 if "query_positions" in name else 0.2
    drawn = rng.normal(center, spread, leaf.shape)
    # Few different values, and zeros for unused words, make a small file.
    drawn = np.round(16 * drawn) / 16
    if "token_embedding" in name:
      drawn[TEXT.max() + 1 :] = 0
    if name.endswith("var"):
      drawn = np.maximum(np.abs(drawn), 0.5)
    stored[name] = drawn.astype(np.float16)
  for form in FORMS:
    for name, value in outputs(form, stored).items():
      stored[f"{form}:{name}"] = value
  PATH.parent.mkdir(exist_ok=True)
  np.savez_compressed(PATH, **stored)


if __name__ == "__main__":
  main()
