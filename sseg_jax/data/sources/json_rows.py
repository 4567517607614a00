"""Makes a row of a JSON object, whose fields may have different names."""

import re
from collections.abc import Iterable, Iterator, Mapping

from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import (
  Row,
  clean_all,
  encodable,
  is_url,
  shown,
)

# As `canonical` writes them. The most reliable name is first.
FILE_NAMES = tuple(
  "filename filepath imagepath imagefile imagefilename imagefilepath imagename"
  " imgpath imgfile imgname img file path image picture picturepath photo"
  " localpath relativepath".split()
)
CAPTION_NAMES = tuple(
  "captions caption captiontext imagecaption imgcaption text texts title"
  " sentences sentence description descriptions prompt alttext alt comment"
  " comments raw txt".split()
)
SOURCE_NAMES = ("source", "url", "imageurl", "flickrurl", "cocourl")
LICENSE_NAMES = ("license", "licence")

EXPECTED = (
  "a field or column `file_name` (also: path, image, …) and `caption` or"
  " `captions` (also: text, title, …)"
)


def canonical(name: object) -> str:
  """Returns a field's name in small letters, without "_", "-" and spaces."""
  return re.sub(r"[\W_]+", "", str(name)).lower()


def captions_of(value: object) -> list[object]:
  """Returns the captions in a value: the value itself, or a list's members.

  Members may be objects with a field of `CAPTION_NAMES`, as the `sentences` of
  Karpathy's splits are.
  """
  values = value if isinstance(value, list) else [value]
  found: list[object] = []
  for member in values:
    if isinstance(member, Mapping):
      known = {canonical(key): inner for key, inner in member.items()}
      # A sentence has tokens beside its text, which is `raw`.
      names = ("raw", *CAPTION_NAMES)
      member = next((known[n] for n in names if n in known), member)
    found.append(member)
  return found


def from_object(row: object, where: str, listing: Listing) -> Row:
  """Returns the row of a JSON object, or of what stands in its place."""
  if not isinstance(row, Mapping):
    return Row(
      where,
      reason="no_file_name",
      detail=f"it holds no object with fields; expected {EXPECTED}",
    )
  known: dict[str, object] = {}
  for key, value in row.items():
    known.setdefault(canonical(key), value)
  detail = (
    f"fields found: {shown(', '.join(map(str, row)) or 'none')};"
    f" expected {EXPECTED}"
  )
  names = list(_names(known))
  files = [name for name in names if not is_url(name)]
  if not names:
    return Row(where, reason="no_file_name", detail=detail)
  if not files:
    return Row(where, reason="url_not_file")
  name = next(filter(listing.names_picture, files), files[0])
  captions, left_out = clean_all(captions_of(captions_field(known)))
  return Row(
    where,
    name,
    captions,
    left_out or (() if captions else ("no_caption",)),
    source=first_of(known, SOURCE_NAMES),
    license=first_of(known, LICENSE_NAMES),
    detail="" if any(n in known for n in CAPTION_NAMES) else detail,
  )


def _names(known: Mapping[str, object]) -> Iterator[str]:
  for field in FILE_NAMES:
    value = known.get(field)
    if isinstance(value, Mapping):  # Hugging Face's {"path": …, "bytes": …}
      value = value.get("path")
    if isinstance(value, str) and value.strip():
      yield value


def _usable(value: object) -> object:
  return value if clean_all(captions_of(value))[0] else None


def captions_field(known: Mapping[str, object]) -> object:
  """Returns the captions' value in fields of canonical names; else None."""
  fields = [known[n] for n in CAPTION_NAMES if n in known]
  # An empty field gives way to another one.
  return next(filter(None, map(_usable, fields)), fields[0] if fields else None)


def first_of(known: Mapping[str, object], names: Iterable[str]) -> str:
  """Returns the first of the named values that is not empty, as text."""
  return next(
    (encodable(known[name]) for name in names if name in known and known[name]),
    "",
  )
