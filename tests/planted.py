"""Sources in which one record of twenty is faulty, and what is to be counted.

Each kind of fault has the reason under which `prepare` must count it, or None
where the record must be kept although it is odd.
"""

import dataclasses
import io
import json

import numpy as np
import webdata
from PIL import Image

SHARE = 20  # one record in so many is faulty
RULES = {
  "min_size": 16,
  "max_aspect": 8.0,
  "min_words": 2,
  "max_words": 30,
  "duplicates": "near",
}


def picture(number, size=(45, 40)):
  """9x8 random greys: no two are alike to the eye."""
  blocks = np.random.default_rng(number).integers(0, 256, (8, 9), np.uint8)
  return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encoded(number, kind="JPEG", size=(45, 40), mode="RGB", **kwargs):
  out = io.BytesIO()
  picture(number, size).convert(mode).save(out, kind, **kwargs)
  return out.getvalue()


def again(data):
  """The same pixels in other bytes."""
  out = io.BytesIO()
  Image.open(io.BytesIO(data)).save(out, "PNG")
  return out.getvalue()


def _bomb(_):
  """A PNG whose first bytes state 400 million pixels."""
  data = encoded(0, "PNG")
  size = (20_000).to_bytes(4, "big") * 2
  head = data[12:16] + size + data[24:29]
  import zlib

  return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


@dataclasses.dataclass(frozen=True)
class Fault:
  """One kind of fault.

  Attributes:
    reason: under which it is counted; None if the record is kept.
    line: from the row of captions.jsonl to what is written there.
    image: from the number to the picture's bytes; None: no file.
    left_out: reason of a caption that is left out of a record that is kept.
  """

  reason: str | None
  line: object = None
  image: object = encoded
  left_out: str = ""


def _row(**fields):
  return lambda row: json.dumps(row | fields).encode()


def _caption(value):
  return _row(captions=value)


def _cut(share, kind="JPEG", **kwargs):
  def made(number):
    data = encoded(number, kind, (135, 120), **kwargs)
    return data[: int(len(data) * share)]

  return made


def _zeros(number):
  data = encoded(number, "JPEG", (135, 120))
  return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def _bytes(data):
  return lambda number: data


_NOT_UTF8 = b"caf\xe9 latin one"
FOLDER = {
  "null": Fault("no_caption", _caption(None)),
  "nan": Fault("no_caption", _caption([float("nan")])),
  "a word for nothing": Fault("no_caption", _caption(["NaN"])),
  "no field": Fault(
    "no_caption",
    lambda row: json.dumps({"file_name": row["file_name"]}).encode(),
  ),
  "empty list": Fault("no_caption", _caption([])),
  "blank": Fault("empty_caption", _caption([" \t "])),
  "a number": Fault("caption_not_text", _caption([7])),
  "latin-1": Fault(
    "not_utf8",
    lambda row: (
      json.dumps(row | {"captions": ["@"]}).encode().replace(b"@", _NOT_UTF8)
    ),
  ),
  "nul": Fault("not_utf8", _caption(["two\0 words"])),
  "half an emoji": Fault("not_unicode", _caption(["two \ud83d"])),
  "cut line": Fault("not_json", lambda row: json.dumps(row).encode()[:-5]),
  "no name": Fault("no_file_name", lambda row: b'{"captions": ["two words"]}'),
  "no object": Fault("no_file_name", lambda row: b"[1, 2]"),
  "address": Fault("url_not_file", _row(file_name="http://127.0.0.1:9/x.jpg")),
  "missing": Fault("missing_image", image=None),
  "one word": Fault("caption_too_short", _caption(["word"])),
  "a tale": Fault("caption_too_long", _caption(["many words " * 20])),
  "no bytes": Fault("empty_file", image=_bytes(b"")),
  "a text": Fault("unreadable", image=_bytes(b"nothing to see here")),
  "a page": Fault("unreadable", image=_bytes(b"<!doctype html><p>gone")),
  "svg": Fault("unreadable", image=_bytes(b"<svg xmlns='x'></svg>")),
  "heic": Fault("unreadable", image=_bytes(b"\0\0\0\x18ftypheic" + bytes(99))),
  "half a jpeg": Fault("unreadable", image=_cut(0.5)),
  "head of a jpeg": Fault("unreadable", image=_cut(0.05)),
  "half in zeros": Fault("unreadable", image=_zeros),
  "progressive cut": Fault("unreadable", image=_cut(0.5, progressive=True)),
  "half a png": Fault("unreadable", image=_cut(0.5, "PNG")),
  "half a webp": Fault("unreadable", image=_cut(0.5, "WEBP", lossless=True)),
  "half a gif": Fault("unreadable", image=_cut(0.3, "GIF")),
  "bomb": Fault("too_large", image=_bomb),
  "tiny": Fault("too_small", image=lambda n: encoded(n, size=(9, 8))),
  "a line": Fault("too_narrow", image=lambda n: encoded(n, size=(180, 16))),
  # These are odd and good.
  "png": Fault(None, image=lambda n: encoded(n, "PNG")),
  "cmyk": Fault(None, image=lambda n: encoded(n, mode="CMYK")),
  "grey": Fault(None, image=lambda n: encoded(n, mode="L")),
  "palette": Fault(None, image=lambda n: encoded(n, "GIF", mode="P")),
  "no end": Fault(None, image=lambda n: encoded(n)[:-2]),
  "tail": Fault(None, image=lambda n: encoded(n) + b"more"),
  "one good caption": Fault(
    None, _caption(["two words", None]), left_out="no_caption"
  ),
  "one long caption": Fault(
    None, _caption(["w " * 99, "two words"]), left_out="caption_too_long"
  ),
}
# Faults that need another record or folder; see `folder`.
_TOGETHER = {
  "same bytes": "duplicate_picture",
  "same to the eye": "near_duplicate",
  "for evaluation": "excluded_picture",
  "leads outside": "outside_source",
  "two files fit": "ambiguous_name",
  "named twice": None,
}
KINDS = {k: f.reason for k, f in FOLDER.items()} | _TOGETHER


@dataclasses.dataclass
class Truth:
  """What must be found.

  Attributes:
    kept: key -> picture's number, of every record that must be there.
    read: number of pictures and of entries that name none.
    rejected: reason -> number.
    left_out: the same for captions.
    planted: kind -> number of faults.
  """

  kept: dict = dataclasses.field(default_factory=dict)
  read: int = 0
  rejected: dict = dataclasses.field(default_factory=dict)
  left_out: dict = dataclasses.field(default_factory=dict)
  planted: dict = dataclasses.field(default_factory=dict)


def _add(counts, key):
  counts[key] = counts.get(key, 0) + 1


def folder(place, count):
  """Writes PLACE/source, a folder with captions.jsonl; returns the truth."""
  source, outside = place / "source", place / "evaluation"
  (source / "images").mkdir(parents=True)
  outside.mkdir()
  truth, lines, kinds = Truth(), [], list(KINDS)
  for number in range(count):
    # At another place of each twenty, and never the first record.
    block, at = divmod(number, SHARE)
    kind = kinds[block % len(kinds)] if at == 1 + block % (SHARE - 1) else ""
    name = f"{number:06d}.jpg"
    row = {"file_name": f"images/{name}", "captions": [f"picture {number}"]}
    path = source / "images" / name
    truth.read += 1
    if kind:
      _add(truth.planted, kind)
    if kind in _TOGETHER:
      lines += _together(kind, number, row, path, outside)
    else:
      fault = FOLDER.get(kind, Fault(None))
      if fault.image is not None:
        path.write_bytes(fault.image(number))
      lines.append(fault.line(row) if fault.line else json.dumps(row).encode())
      if fault.left_out:
        _add(truth.left_out, fault.left_out)
    reason = KINDS.get(kind)
    if reason:
      _add(truth.rejected, reason)
    else:
      truth.kept[row["file_name"]] = number
  (source / "captions.jsonl").write_bytes(b"\n".join(lines) + b"\n")
  return truth


def _together(kind, number, row, path, outside):
  before = path.with_name(f"{number - 1:06d}.jpg")
  line = json.dumps(row).encode()
  if kind == "same bytes":
    path.write_bytes(before.read_bytes())
  elif kind == "same to the eye":
    path.write_bytes(again(before.read_bytes()))
  elif kind == "for evaluation":
    path.write_bytes(encoded(number))
    (outside / f"{number}.png").write_bytes(again(encoded(number)))
  elif kind == "leads outside":
    return [json.dumps(row | {"file_name": f"../../{number}.jpg"}).encode()]
  elif kind == "two files fit":
    for stem in ("aB", "Ab"):
      path.with_name(f"{stem}{number}.jpg").write_bytes(encoded(number))
    name = f"images/AB{number}.jpg"
    return [json.dumps(row | {"file_name": name}).encode()]
  else:
    path.write_bytes(encoded(number))
    return [line, line]
  return [line]


# Of a tar: kind -> reason, and from (name, number) to the members.
def _members(name, number, **files):
  made = {"jpg": encoded(number), "txt": f"picture {number}".encode()} | files
  return [(f"{name}.{s}", d) for s, d in made.items() if d is not None]


TARS = {
  "no picture": ("no_picture", {"jpg": None}),
  "no text": ("no_caption", {"txt": None}),
  "blank text": ("empty_caption", {"txt": b"\n"}),
  "latin-1 text": ("not_utf8", {"txt": _NOT_UTF8}),
  "one word": ("caption_too_short", {"txt": b"word"}),
  "no bytes": ("empty_file", {"jpg": b""}),
  "a page": ("unreadable", {"jpg": b"<!doctype html>"}),
  "half a jpeg": ("unreadable", {"jpg": _cut(0.5)(1)}),
  "bomb": ("too_large", {"jpg": _bomb(0)}),
  "tiny": ("too_small", {"jpg": encoded(1, size=(9, 8))}),
  "bad json": ("not_json", {"json": b"{"}),
  "mask beside": (None, {"seg.png": b"no picture"}),
}


def tars(place, count, size=100):
  """Writes PLACE/source, a folder of tars; the last one is cut."""
  truth, kinds = Truth(), [*TARS, "named twice", "second picture"]
  for shard in range(-(-count // size)):
    members = []
    for number in range(shard * size, min(count, (shard + 1) * size)):
      block, at = divmod(number, SHARE)
      kind = kinds[block % len(kinds)] if at == 1 + block % (SHARE - 1) else ""
      name, key = f"{number:06d}", f"{shard:05d}/{number:06d}"
      reason, files = TARS.get(kind, (None, {}))
      truth.read += 1
      if kind:
        _add(truth.planted, kind)
      if kind == "named twice":
        name, key = f"{number - 1:06d}", f"{shard:05d}/{number - 1:06d}+"
      members += _members(name, number, **files)
      if kind == "second picture":  # counted besides the one that is kept
        members.append((f"{name}.png", encoded(number, "PNG")))
        truth.read += 1
        _add(truth.rejected, "second_picture")
      if reason:
        _add(truth.rejected, reason)
      else:
        truth.kept[key] = number
    path = webdata.write_tar(place / f"source/{shard:05d}.tar", members)
  data = path.read_bytes()
  end = sum(512 + -(-len(d) // 512) * 512 for _, d in members)
  path.write_bytes(data[:end])  # without the blocks that end a tar
  truth.read += 1
  _add(truth.rejected, "damaged_file")
  _add(truth.planted, "cut tar")
  return truth
