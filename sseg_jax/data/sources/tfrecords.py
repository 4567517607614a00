"""TFRecords of img2dataset: `key`, `jpg`, `txt` and columns of metadata."""

from collections.abc import Iterator
from typing import Any

from sseg_jax.data import import_tensorflow
from sseg_jax.data.sources.rows import encodable
from sseg_jax.data.sources.samples import Part, Sample, from_fields

_PICTURES = ("jpg", "jpeg", "png", "webp", "image")


def read(part: Part) -> Iterator[Sample]:
  """Yields the samples of a file in their order.

  Only a picture and a caption are needed; all other fields are optional. After
  a record with a wrong checksum nothing can be read: what comes before is
  taken, and one sample has the reason `damaged_file`.
  """
  tf = import_tensorflow()
  records = tf.data.TFRecordDataset(part.path).as_numpy_iterator()
  number = 0
  while True:
    try:
      data = next(records)
    except StopIteration:
      return
    except tf.errors.OpError:
      yield Sample("", reason="damaged_file")
      return
    try:
      features = tf.train.Example.FromString(data).features.feature
    except Exception:  # protobuf's DecodeError has no stable home
      yield Sample(f"{number:07d}", reason="not_an_example")
    else:
      yield _sample(features, number, part.field)
    number += 1


def _sample(features: Any, number: int, field: str) -> Sample:
  fields: dict[str, object] = {}
  image = b""
  for name, feature in features.items():
    values = list(feature.bytes_list.value)
    if not values:
      continue
    if name in _PICTURES:
      image = image or values[0]
      continue
    texts = [v.decode("utf-8", "surrogateescape") for v in values]
    fields[name] = texts if len(texts) > 1 else texts[0]
  key = encodable(fields.get("key") or f"{number:07d}")
  return from_fields(key, image, fields, field)
