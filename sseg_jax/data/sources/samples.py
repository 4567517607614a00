"""What a source that is read piece by piece gives: parts, and their samples."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from sseg_jax.data import import_tensorflow
from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.rows import clean_all, encodable
from sseg_jax.errors import InputError
from sseg_jax.images import reader

TEXTS = ("txt", "text", "caption", "captions")


@dataclasses.dataclass(frozen=True)
class Part:
  """One piece of a source, which one process reads alone.

  Attributes:
    kind: key of `streams.READERS`.
    path: file or folder.
    name: unique within the source; the first part of its samples' keys.
    field: field or column of the captions; "" finds it by its name.
    count: number of samples, where known without reading; else 0.
    first: number of the first sample, where a file has several parts.
    of: what the reader needs to know besides, as `Item`s.
  """

  kind: str
  path: str
  name: str
  field: str = ""
  count: int = 0
  first: int = 0
  of: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample:
  """One picture with captions, or the reason why it cannot be used.

  Attributes:
    key: unique within its part, valid UTF-8.
    image: the encoded picture; empty where `reason` says why.
    captions: clean, none empty; possibly none at all.
    left_out: one reason for each caption that cannot be used.
    source: URL or other origin, where stated.
    license: where stated.
    reason: why there is no picture; "" where there is one.
  """

  key: str
  image: bytes = b""
  captions: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()
  source: str = ""
  license: str = ""
  reason: str = ""


def open_file(path: str) -> IO[bytes]:
  """Opens a local or remote file; raises OSError."""
  if "://" not in path:
    return open(path, "rb")
  tf = import_tensorflow()
  try:
    file = tf.io.gfile.GFile(path, "rb")
    file.size()  # raises here, and not at the first read
  except tf.errors.OpError as error:
    raise OSError(error.message) from error
  return file


def from_fields(
  key: str, image: bytes, fields: Mapping[str, object], field: str = ""
) -> Sample:
  """Makes a sample of a picture and of named values, as a row of a table.

  Args:
    key: of the sample.
    image: the encoded picture; empty for none.
    fields: captions, and where present URL, licence and the `status` that
      img2dataset writes.
    field: the captions' field; "" takes the first usable one of
      `json_rows.CAPTION_NAMES`.
  """
  known: dict[str, object] = {}
  for name, value in fields.items():
    known.setdefault(json_rows.canonical(name), value)
  if field:
    values = fields.get(field)
  else:
    values = json_rows.captions_field(known)
  captions, left_out = clean_all(json_rows.captions_of(values))
  status = known.get("status")
  reason = "" if image else "missing_image"
  if isinstance(status, str) and status not in ("", "success"):
    reason = reason_of_failure(status, str(known.get("errormessage") or ""))
  return Sample(
    key,
    image,
    captions,
    left_out or (() if captions else ("no_caption",)),
    source=json_rows.first_of(known, json_rows.SOURCE_NAMES),
    license=json_rows.first_of(known, json_rows.LICENSE_NAMES),
    reason=reason,
  )


def reason_of_failure(status: str, message: str) -> str:
  """Returns a short reason for a row that img2dataset could not fetch.

  Its messages hold hosts and numbers; a reason stands for many of them.
  """
  text = message.lower()
  if (start := text.find("http error ")) >= 0:
    code = text[start + 11 : start + 14]
    if code.isdigit():
      return f"http_{code}"
  for words, reason in (
    (("image decoding",), "not_a_picture"),
    (("image too small",), "too_small"),
    (("aspect ratio",), "too_narrow"),
    (("timed out", "timeout"), "timed_out"),
    (("name or service", "name resolution", "getaddrinfo"), "unknown_host"),
    (("refused",), "connection_refused"),
    (("certificate", "ssl"), "bad_certificate"),
    (("reset by", "without response", "incomplete"), "connection_lost"),
    (("x-robots-tag",), "disallowed_by_site"),
    (("hash mismatch",), "hash_mismatch"),
    (("unknown url", "unknown protocol", "url type"), "bad_url"),
  ):
    if any(word in text for word in words):
      return reason
  return encodable(status)[:60]


class Members:
  """The files of one sample, by their suffix: `jpg`, `txt`, `json`, ….

  Args:
    key: of the sample.
  """

  def __init__(self, key: str):
    self.key = key
    self._read: dict[str, Callable[[], bytes]] = {}

  def add(self, suffix: str, read: Callable[[], bytes]) -> bool:
    """Takes a file; False if there is one of this suffix already."""
    if suffix in self._read:
      return False
    self._read[suffix] = read
    return True

  def samples(self, field: str) -> Iterator[Sample]:
    """Yields the sample, and one more for each picture too many.

    Files of suffixes that say neither picture nor caption are left aside.
    """
    pictures = [s for s in self._read if reader.has_suffix(f"x.{s}")]
    pictures.sort(key=lambda suffix: suffix.count("."))  # `jpg`, then `seg.png`
    if len(pictures) > 1 and "." in pictures[1]:
      pictures = pictures[:1]
    try:
      yield self._sample(pictures[0] if pictures else "", field)
    except OSError:
      yield Sample(self.key, reason="unreadable_file")
    for suffix in pictures[1:]:
      yield Sample(f"{self.key}.{suffix}", reason="second_picture")

  def _sample(self, picture: str, field: str) -> Sample:
    fields: dict[str, object] = {}
    if "json" in self._read:
      try:
        found = json.loads(self._read["json"]())
      except (ValueError, RecursionError):
        return Sample(self.key, reason="not_json")
      if isinstance(found, Mapping):
        fields = dict(found)
    text = next((s for s in TEXTS if s in self._read), "")
    if text and not field:
      written = self._read[text]().decode("utf-8-sig", "surrogateescape")
      # An empty text gives way to the fields.
      if written.strip() or not fields:
        fields = {"captions": written} | {
          name: value
          for name, value in fields.items()
          if json_rows.canonical(name) not in json_rows.CAPTION_NAMES
        }
    image = self._read[picture]() if picture else b""
    sample = from_fields(self.key, image, fields, field)
    if picture and not image and sample.reason == "missing_image":
      return dataclasses.replace(sample, reason="empty_file")
    if not picture and sample.reason == "missing_image":
      return dataclasses.replace(sample, reason="no_picture")
    return sample


def split_name(name: str) -> tuple[str, str]:
  """Returns key and suffix of a member: up to the base name's first point."""
  folder, slash, base = name.rpartition("/")
  stem, _, suffix = base.partition(".")
  return f"{folder}{slash}{stem}", suffix.lower()


def need_pyarrow() -> Any:
  """Returns `pyarrow.parquet`; InputError says how to install it."""
  try:
    import pyarrow.parquet as parquet
  except ImportError:
    raise InputError(
      "Parquet files are read with pyarrow, which is not installed: run"
      " `pip install pyarrow`"
    ) from None
  return parquet
