"""The messages of a `tf.train.Example`, without TensorFlow.

They have the names and numbers of tensorflow/core/example/example.proto and
feature.proto, so they read and write the same bytes. To import TensorFlow takes
about five seconds of a processor: half the time of a short `prepare`.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto


@functools.cache
def example() -> Any:
  """Returns the class of `tf.train.Example`, of which only bytes are known."""
  file = descriptor_pb2.FileDescriptorProto(
    name="sseg_jax/example.proto", package="tensorflow", syntax="proto3"
  )
  _add(file, "BytesList", ("value", 1, _Field.TYPE_BYTES, True))
  _add(file, "Feature", ("bytes_list", 1, "BytesList", False))
  features = _add(
    file, "Features", ("feature", 1, "Features.FeatureEntry", True)
  )
  # How a map is written: a list of entries.
  entry = features.nested_type.add(name="FeatureEntry")
  entry.options.map_entry = True
  _field(entry, "key", 1, _Field.TYPE_STRING, False)
  _field(entry, "value", 2, "Feature", False)
  _add(file, "Example", ("features", 1, "Features", False))
  # A pool of its own, because TensorFlow's are in the one of all programs.
  pool = descriptor_pool.DescriptorPool()
  pool.AddSerializedFile(file.SerializeToString())
  found = pool.FindMessageTypeByName("tensorflow.Example")
  return message_factory.GetMessageClass(found)


def _add(file: Any, name: str, field: tuple) -> Any:
  """Adds a message with one field to a file of messages."""
  message = file.message_type.add(name=name)
  _field(message, *field)
  return message


def _field(
  message: Any, name: str, number: int, kind: int | str, repeated: bool
) -> None:
  """Adds a field; `kind` is a type of values, or the name of a message."""
  field = message.field.add(name=name, number=number)
  field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
  if isinstance(kind, str):
    field.type, field.type_name = _Field.TYPE_MESSAGE, f".tensorflow.{kind}"
  else:
    field.type = kind
