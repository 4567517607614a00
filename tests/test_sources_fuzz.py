"""Arbitrary captions: an InputError of one line, or rows that are counted."""

import csv
import io
import json

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_jax.data import sources
from sseg_jax.errors import InputError

PICTURES = ("a.jpg", "é.png", "0001.webp", "sub/B.JPG", "images/c d.jpg")
FILES = (
  "captions.jsonl",
  "captions.json",
  "captions.tsv",
  "captions.csv",
  "captions_x.json",
  "metadata.jsonl",
  "captions.txt",
  "a.txt",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("source")
  for name in PICTURES:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
  return folder


def _share(part):
  """All tests of this file together try `fuzz.COUNT` examples."""
  return settings(fuzz.examples, max_examples=max(1, int(fuzz.COUNT * part)))


def _read(folder, name, data, captions="auto"):
  path = folder / name
  path.write_bytes(data)
  try:
    return sources.read_items(folder, captions)
  finally:
    path.unlink()


# All code points, half surrogates and NUL among them.
_any_text = st.text(st.characters(exclude_categories=()), max_size=20)
_names = st.one_of(
  st.sampled_from(
    (
      *PICTURES,
      *("A.jpg", "e\u0301.png", ".\\sub\\B.JPG", "c%20d.jpg", "1", "../x.jpg"),
      *("/", ".", "..", "", "a.jpg/", "file://a.jpg", "http://x/a.jpg", "#0"),
      "n" * 300 + ".jpg",
    )
  ),
  _any_text,
)
_scalars = st.one_of(
  st.none(), st.booleans(), st.integers(), st.floats(), _any_text, _names
)
_keys = st.sampled_from(
  "file_name image path caption captions text sentences raw id images "
  "annotations image_id licenses license url data".split()
)
_values = st.recursive(
  _scalars,
  lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.dictionaries(st.one_of(_keys, _names), inner, max_size=4),
  ),
  max_leaves=6,
)
_rows = st.fixed_dictionaries(
  {"file_name": st.one_of(_names, _values)},
  optional={"caption": _values, "captions": st.lists(_values, max_size=3)},
)
_ids = st.one_of(st.integers(0, 2), _scalars)
_coco = st.fixed_dictionaries(
  {
    "images": st.lists(
      st.one_of(
        st.fixed_dictionaries(
          {"id": _ids}, optional={"file_name": _names, "license": _values}
        ),
        _values,
      ),
      max_size=3,
    ),
    "annotations": st.lists(
      st.one_of(
        st.fixed_dictionaries({"image_id": _ids, "caption": _values}), _values
      ),
      max_size=3,
    ),
  },
  optional={"licenses": _values},
)
_cells = st.one_of(
  _names,
  st.text('ab",;\t |\n\r', max_size=8),
  st.sampled_from(("image", "caption", "nan", "['x', 'y']", "[", "5", '"')),
)
_tables = st.builds(
  lambda rows, between, end: end.join(between.join(row) for row in rows),
  st.lists(st.lists(_cells, min_size=1, max_size=4), max_size=6),
  st.sampled_from("\t,;|"),
  st.sampled_from(("\n", "\r\n", "\r")),
)
_texts = st.one_of(
  st.builds(json.dumps, st.one_of(_values, _coco, st.lists(_rows, max_size=3))),
  st.lists(st.builds(json.dumps, st.one_of(_rows, _values)), max_size=4).map(
    "\n".join
  ),
  _tables,
  _any_text,
)
_contents = st.one_of(
  st.binary(max_size=60),
  st.builds(
    lambda text, bom, encoding: bom + text.encode(encoding, "surrogatepass"),
    _texts,
    st.sampled_from((b"", b"\xef\xbb\xbf", b"\xff\xfe")),
    st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-16-le")),
  ),
  st.builds(lambda text: text.encode("latin-1", "replace"), _texts),
)


@pytest.mark.slow
@_share(0.5)
@given(name=st.sampled_from(FILES), data=_contents)
def test_any_content(folder, name, data):
  try:
    found = _read(folder, name, data)
  except InputError as error:
    message = str(error)
    assert message.isprintable(), message  # one line, without surrogates
    assert name in message or str(folder) in message
    return
  assert found.items
  assert found.read == len(found.items) + len(found.rejected)
  keys = [item.key for item in found]
  assert len({*keys}) == len(keys)
  assert len({item.image for item in found}) == len(keys)
  for item in found:
    assert item.image.read_bytes() == b"x"
    assert item.captions and all(item.captions)
    for text in (item.key, *item.captions, item.source, item.license):
      text.encode()
      assert text is item.source or "\0" not in text or text is item.license
  for reason, where in found.rejected + found.left_out:
    assert reason.isidentifier() and where
    where.encode()
  assert all(note.isprintable() for note in found.notes)


_bad = st.sampled_from(
  (
    b"{",
    b"\xff",
    b"[]",
    b"{}",
    b'{"file_name": "a.jpg"',
    b'{"caption": "x"}',
    b'{"file_name": "", "caption": "x"}',
    b'{"file_name": "http://x/a.jpg", "caption": "x"}',
  )
)


@_share(0.1)
@given(
  good=st.dictionaries(st.sampled_from(PICTURES), st.just("x"), min_size=1),
  bad=st.lists(_bad, max_size=5),
  data=st.data(),
)
def test_bad_lines_cost_no_good_ones(folder, good, bad, data):
  lines = [
    json.dumps({"file_name": name, "caption": text}).encode()
    for name, text in good.items()
  ]
  lines = data.draw(st.permutations(lines + bad))
  found = _read(folder, "captions.jsonl", b"\n".join(lines))
  assert {item.key for item in found} == {*good}
  assert len(found.rejected) == len(bad)


_captions = st.lists(
  st.text("ab\",;\t |\n\r'", max_size=12), min_size=3, max_size=3
)


@pytest.mark.slow
@_share(0.15)
@given(
  captions=_captions,
  delimiter=st.sampled_from("\t,;"),
  quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
)
def test_quoted_captions_come_back(folder, captions, delimiter, quoting):
  out = io.StringIO()
  writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
  writer.writerow(["image", "caption"])
  writer.writerows(zip(PICTURES, [*captions, "last"], strict=False))
  name = "captions.tsv" if delimiter == "\t" else "captions.csv"
  found = _read(folder, name, out.getvalue().encode())
  expected = {
    name: (" ".join(text.split()),)
    for name, text in zip(PICTURES, [*captions, "last"], strict=False)
    if text.split()
  }
  assert {item.key: item.captions for item in found} == expected
  assert len(found) + len(found.rejected) == 4


@pytest.mark.slow
@_share(0.15)
@given(captions=st.lists(st.text('ab" ,', min_size=1), min_size=3, max_size=3))
def test_quotes_without_quoting_swallow_no_row(folder, captions):
  texts = [f"x{text}" if not text.strip('" ') else text for text in captions]
  rows = zip(PICTURES, [*texts, "last"], strict=False)
  data = "\n".join(f"{name}\t{text}" for name, text in rows)
  found = _read(folder, "captions.tsv", data.encode())
  assert {item.key for item in found} == {*PICTURES[:4]}
  for item, text in zip(found, texts, strict=False):
    (caption,) = item.captions
    plain = " ".join(text.split())
    assert caption == plain or text.lstrip().startswith('"')
    assert caption.replace('"', "").split() == text.replace('"', "").split()


_odd = st.text(
  st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
  min_size=1,
  max_size=20,
).filter(lambda name: name not in (".", ".."))


@_share(0.1)
@given(name=_odd, suffix=st.sampled_from((".jpg", ".PNG")))
def test_any_file_name(tmp_path_factory, name, suffix):
  """Found by its .txt, and by its own name in a list."""
  folder = tmp_path_factory.mktemp("names")
  (folder / f"{name}{suffix}").write_bytes(b"x")
  (folder / f"{name}.txt").write_bytes(b"one")
  if name.startswith("._"):
    return  # attributes of macOS
  (item,) = sources.read_items(folder)
  assert item.image.read_bytes() == b"x"
  row = {"file_name": f"{name}{suffix}", "caption": "two"}
  (folder / "captions.jsonl").write_text(json.dumps(row))
  found = sources.read_items(folder)
  assert [item.captions for item in found] == [("two",)]
