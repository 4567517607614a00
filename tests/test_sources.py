"""Tests of the readers of captioned folders."""

import json

import pytest

from sseg_jax.data import sources
from sseg_jax.errors import InputError


def _touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")


def _jsonl(folder, *rows, name="captions.jsonl"):
  (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


def test_jsonl_with_images_folder(tmp_path):
  _touch(tmp_path, "images/a.jpg", "b.jpg")
  _jsonl(
    tmp_path,
    {"file_name": "a.jpg", "captions": ["one", " two \n"], "license": 4},
    {"file_name": "b.jpg", "caption": "three", "flickr_url": "http://x"},
    {"file_name": "c.jpg", "captions": ["", " "]},
  )
  a, b, c = sources.read_items(tmp_path)
  assert a.image == tmp_path / "images" / "a.jpg"
  assert a.captions == ("one", "two")
  assert a.license == "4"
  assert b.image == tmp_path / "b.jpg"
  assert b.captions == ("three",)
  assert b.source == "http://x"
  assert c.captions == ()
  assert not c.image.exists()


def test_jsonl_joins_a_repeated_name(tmp_path):
  _jsonl(
    tmp_path,
    {"file_name": "a.jpg", "caption": "one"},
    {"file_name": "a.jpg", "captions": ["two", "one"]},
  )
  (item,) = sources.read_items(tmp_path)
  assert item.captions == ("one", "two")


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("{", "not JSON"),
    ("[1]", "file_name"),
    ('{"caption": "x"}', "file_name"),
    ('{"file_name": "a", "captions": [1]}', "list of strings"),
    ('{"file_name": "a", "captions": {"x": 1}}', "list of strings"),
  ],
)
def test_jsonl_names_the_malformed_line(tmp_path, line, message):
  good = '{"file_name": "a.jpg", "caption": "one"}\n\n'
  (tmp_path / "captions.jsonl").write_text(good + line)
  with pytest.raises(InputError, match=f"line 3: .*{message}"):
    sources.read_items(tmp_path)


@pytest.mark.parametrize("header", ["", "filepath\tcaption\n"])
def test_tsv_repeats_and_header(tmp_path, header):
  (tmp_path / "pairs.tsv").write_text(
    header + "x/a.jpg\tone\nb.jpg\ttwo\nx/a.jpg\tthree\n"
  )
  a, b = sources.read_items(tmp_path)
  assert (a.key, a.captions) == ("x/a.jpg", ("one", "three"))
  assert (b.key, b.captions) == ("b.jpg", ("two",))


def test_tsv_header_gives_the_columns(tmp_path):
  (tmp_path / "captions.tsv").write_text("title\tfilepath\none\ta.jpg\n")
  (item,) = sources.read_items(tmp_path)
  assert (item.key, item.captions) == ("a.jpg", ("one",))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (b"a.jpg one\n", "line 1: no tab"),
    (b"a.jpg\tone\n\ttwo\n", "line 2: no path"),
    (b"http://x/a.jpg\tone\n", "line 1: a URL"),
    (b"a.jpg\tone\nb.jpg\t\xff\n", "line 2: not UTF-8"),
  ],
)
def test_tsv_names_the_malformed_line(tmp_path, text, message):
  (tmp_path / "captions.tsv").write_bytes(text)
  with pytest.raises(InputError, match=message):
    sources.read_items(tmp_path)


def test_txt_one_a_picture(tmp_path):
  _touch(tmp_path, "b.jpg", "sub/a.PNG", "c.jpg", "readme.md")
  (tmp_path / "b.txt").write_text("one\n\ntwo\n")
  (tmp_path / "sub/a.txt").write_text("three")
  b, c, a = sources.read_items(tmp_path)
  assert (b.key, b.captions) == ("b.jpg", ("one", "two"))
  assert (c.key, c.captions) == ("c.jpg", ())
  assert (a.key, a.captions) == ("sub/a.PNG", ("three",))


def test_nothing_to_read(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    sources.read_items(tmp_path / "none")
  _touch(tmp_path, "a.jpg")
  with pytest.raises(InputError, match="no captions"):
    sources.read_items(tmp_path)
  with pytest.raises(InputError, match="no such file"):
    sources.read_items(tmp_path, str(tmp_path / "x.tsv"))
  with pytest.raises(InputError, match=r"\.jsonl or \.tsv"):
    sources.read_items(tmp_path, str(tmp_path / "a.jpg"))


def test_several_tables_need_a_choice(tmp_path):
  for name in ("x.tsv", "y.tsv"):
    (tmp_path / name).write_text("a.jpg\tone\n")
  with pytest.raises(InputError, match="several"):
    sources.read_items(tmp_path)
  assert sources.read_items(tmp_path, str(tmp_path / "y.tsv"))
