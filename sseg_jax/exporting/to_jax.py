"""Programs of `jax.export`: with the weights inside, or as arguments."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from sseg_jax.checkpoints import exported, named_arrays
from sseg_jax.exporting.towers import Towers

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(towers: Towers, folder: Path, fields: dict) -> None:
  """Writes both functions with the weights inside."""
  del fields
  weights = named_arrays.on_device(dict(towers.weights))
  tokens, *picture = shapes(towers)
  _write(
    folder / "embed_classes.jax_export",
    lambda *x: towers.embed_classes(weights, *x),
    tokens,
  )
  _write(
    folder / "segment.jax_export",
    lambda *x: towers.segment(weights, *x),
    *picture,
  )


def write_safetensors(towers: Towers, folder: Path, fields: dict) -> None:
  """Writes the weights, and both functions that take them."""
  exported.save(folder, named_arrays.nested(towers.weights), fields)
  weights = {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for name, leaf in towers.weights.items()
  }
  tokens, *picture = shapes(towers)
  _write(
    folder / "embed_classes.jax_export", towers.embed_classes, weights, tokens
  )
  _write(folder / "segment.jax_export", towers.segment, weights, *picture)


def shapes(towers: Towers) -> list[jax.ShapeDtypeStruct]:
  """Returns shapes of tokens, pictures, classes and the threshold.

  Numbers of classes, templates and pictures are unknown.
  """
  from jax import export

  c, t, b = export.symbolic_shape("c, t, b")
  side, length = towers.image_size, towers.context_length
  return [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in (
      ((c, t, length), np.int32),
      ((b, side, side, 3), np.float32),
      ((c, towers.width), np.float32),
      ((), np.float32),
    )
  ]


def _write(path: Path, function: Any, *inputs: Any) -> None:
  from jax import export

  program = export.export(jax.jit(function), platforms=PLATFORMS)(*inputs)
  path.write_bytes(program.serialize())
