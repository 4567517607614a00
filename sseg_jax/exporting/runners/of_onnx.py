"""ONNX, by onnxruntime."""

import numpy as np


def load(folder):
  import onnxruntime

  def function(name):
    session = onnxruntime.InferenceSession(folder / name)
    names = [given.name for given in session.get_inputs()]
    return lambda *x: session.run(
      None, {n: np.asarray(v) for n, v in zip(names, x, strict=True)}
    )

  text, image = function("embed_classes.onnx"), function("segment.onnx")
  return lambda ids: text(ids)[0], image
