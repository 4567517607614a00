"""Data sets of TensorFlow Datasets that lie on this machine or in a bucket."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from sseg_jax import files
from sseg_jax.data import import_tensorflow
from sseg_jax.data.sources.rows import encodable, shown
from sseg_jax.data.sources.samples import Part, Sample, from_fields
from sseg_jax.errors import InputError

PREFIX = "tfds:"
_SLICE = 2000  # examples of a part


def is_folder(path: str) -> bool:
  """Whether a folder holds a data set that `tfds build` has written."""
  return all(
    import_tensorflow().io.gfile.exists(f"{path.rstrip('/')}/{name}")
    for name in ("features.json", "dataset_info.json")
  )


def parts(source: str, field: str) -> list[Part]:
  """Returns parts of equal size of a split.

  Args:
    source: `tfds:NAME`, `tfds:NAME:VERSION` or a data set's folder, and after
      an `@` the split; without it the split `train`.
    field: of the captions.

  Raises:
    InputError: no such data set, or it is not prepared yet.
  """
  name, _, split = source.partition("@")
  split = split or "train"
  builder = _builder(name)
  if split not in builder.info.splits:
    raise InputError(
      f"--source={shown(source)}: no split {split!r}; it has"
      f" {', '.join(builder.info.splits) or 'none'}"
    )
  total = builder.info.splits[split].num_examples
  _picture(builder)
  return [
    Part(
      "tfds",
      name,
      f"{split}-{start:09d}",
      field,
      count=min(_SLICE, total - start),
      first=start,
      of=(split,),
    )
    for start in range(0, total, _SLICE)
  ]


def _builder(name: str) -> Any:
  import_tensorflow()
  import tensorflow_datasets as tfds

  try:
    if name.startswith(PREFIX):
      # None stands for ~/tensorflow_datasets. TFDS itself reads the variable
      # only once, when it is imported.
      folder = os.environ.get("TFDS_DATA_DIR") or None
      builder = tfds.builder(name.removeprefix(PREFIX), data_dir=folder)
    else:
      builder = tfds.builder_from_directory(files.expand(name))
    if not builder.info.splits:
      raise InputError(
        f"--source={shown(name)}: the data set is not prepared on this machine;"
        f" run `tfds build {shown(name.removeprefix(PREFIX))}` first, or set"
        " TFDS_DATA_DIR to the folder that holds it"
      )
  except InputError:
    raise
  # Whatever a data set's own code raises.
  except Exception as error:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    raise InputError(
      f"--source={shown(name)}: cannot be opened by TensorFlow Datasets"
      f" ({shown(reason, 200)}); give tfds:NAME, or the folder of a version"
    ) from error
  return builder


def _picture(builder: Any) -> str:
  """Returns the feature that holds the picture."""
  import tensorflow_datasets as tfds

  found = [
    name
    for name, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  ]
  if not found:
    raise InputError(
      f"TFDS data set {builder.info.full_name}: no feature holds a picture"
      f" (features: {shown(', '.join(builder.info.features))})"
    )
  return "image" if "image" in found else found[0]


def read(part: Part) -> Iterator[Sample]:
  """Yields the samples of a part in the order of the data set's files."""
  builder = _builder(part.path)
  import tensorflow_datasets as tfds

  picture = _picture(builder)
  data = builder.as_dataset(
    split=f"{part.of[0]}[{part.first}:{part.first + part.count}]",
    decoders={picture: tfds.decode.SkipDecoding()},
    shuffle_files=False,
  )
  number = part.first
  for example in tfds.as_numpy(data):
    image = example.pop(picture)
    fields = {name: _plain(value) for name, value in example.items()}
    key = os.path.basename(encodable(_text(fields.get("image/filename", ""))))
    key = f"{number:09d}-{key}" if key else f"{number:09d}"
    yield from_fields(key, image, fields, part.field)
    number += 1


def _text(value: object) -> str:
  return value if isinstance(value, str) else ""


def _plain(value: object) -> object:
  """Returns arrays of bytes as text, sequences of features as lists."""
  if isinstance(value, bytes):
    return value.decode("utf-8", "surrogateescape")
  if isinstance(value, np.ndarray) and value.dtype == object:
    return [_plain(member) for member in value.ravel().tolist()]
  if isinstance(value, dict):  # Sequence({"text": …, "id": …})
    columns = {name: _plain(inner) for name, inner in value.items()}
    lists = {n: c for n, c in columns.items() if isinstance(c, list)}
    if lists:
      size = min(map(len, lists.values()))
      return [{n: c[i] for n, c in lists.items()} for i in range(size)]
    return columns
  return value
