"""ONNX, by jax2onnx."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sseg_jax.exporting.towers import Towers

OPSET = 21


def write(towers: Towers, folder: Path, fields: dict) -> None:
  """Writes both functions with the weights inside."""
  del fields
  side, length = towers.image_size, towers.context_length
  width, weights = towers.width, towers.weights
  _write(
    folder / "embed_classes.onnx",
    lambda tokens: towers.embed_classes(weights, tokens),
    {"tokens": (("words", "templates", length), np.int32)},
    ["classes"],
  )
  _write(
    folder / "segment.onnx",
    lambda *x: towers.segment(weights, *x),
    {
      "images": (("pictures", side, side, 3), np.float32),
      "classes": (("words", width), np.float32),
      "threshold": ((), np.float32),
    },
    list(towers.outputs),
  )


def _write(path: Path, function, inputs: dict, outputs: list[str]) -> None:
  import onnx

  # The converter's own layers need JAX's usual rule for ranks.
  with _quiet(), _unpatched(), jax.numpy_rank_promotion("allow"):
    import jax2onnx

    model = jax2onnx.to_onnx(
      function,
      [jax.ShapeDtypeStruct(*given) for given in inputs.values()],
      model_name=path.stem,
      opset=OPSET,
      input_names=list(inputs),
      output_names=outputs,
    )
  _corrected(model.graph)
  onnx.save(model, path)


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
  """Puts back what the converter (0.17) leaves changed in JAX.

  After a conversion `jax.numpy.cumsum` takes no position for its axis.
  """
  before = jax.numpy.cumsum
  try:
    yield
  finally:
    jax.numpy.cumsum = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops warnings of the converter that a user can do nothing about.

  Those of onnx_ir are about shapes. The converter itself warns of each batch
  norm that was built for training, and exports it for inference, as it is
  called.
  """
  logger, root = logging.getLogger("onnx_ir"), logging.getLogger()
  before = logger.level
  logger.setLevel(logging.ERROR)
  root.addFilter(_of_no_batch_norm)
  try:
    yield
  finally:
    logger.setLevel(before)
    root.removeFilter(_of_no_batch_norm)


def _of_no_batch_norm(record: logging.LogRecord) -> bool:
  return not str(record.msg).startswith("BatchNorm exported")


def _corrected(graph: Any) -> set[str]:
  """Corrects what the converter (0.17) writes, so that onnxruntime takes it.

  Before some concatenations it writes a cast to double, where the other input
  is a float, as all of the network is. Its notes about shapes in between are
  wrong for a batch of unknown size. It leaves constants that nothing reads.

  Returns:
    The names that the graph's nodes read.
  """
  from onnx import TensorProto

  del graph.value_info[:]
  read = {value.name for value in graph.output}
  for node in graph.node:
    read.update(node.input)
    for attribute in node.attribute:
      if node.op_type == "Cast" and attribute.i == TensorProto.DOUBLE:
        attribute.i = TensorProto.FLOAT
      if attribute.HasField("g"):  # the body of a loop
        read |= _corrected(attribute.g)
  kept = [constant for constant in graph.initializer if constant.name in read]
  del graph.initializer[:]
  graph.initializer.extend(kept)
  return read
