"""A SavedModel, by TensorFlow."""


def load(folder):
  import tensorflow

  model = tensorflow.saved_model.load(str(folder / "model"))
  # A function does not keep its model alive.
  return lambda ids, model=model: model.embed_classes(ids), model.segment
