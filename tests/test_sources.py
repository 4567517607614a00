"""Tests of the readers of captioned folders: which file, JSON, .txt, merging.

Tables are tested in test_tables.py, names of pictures in test_listing.py.
"""

import json
import os
import unicodedata

import pytest

from sseg_jax.data import sources
from sseg_jax.errors import InputError


def _touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")


def _jsonl(folder, *rows, name="captions.jsonl"):
  (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


def _captions(found):
  return {item.key: item.captions for item in found}


def test_jsonl_with_images_folder(tmp_path):
  _touch(tmp_path, "images/a.jpg", "b.jpg")
  _jsonl(
    tmp_path,
    {"file_name": "a.jpg", "captions": ["one", " two \n"], "license": 4},
    {"file_name": "b.jpg", "caption": "three", "flickr_url": "http://x"},
    {"file_name": "c.jpg", "captions": ["", " "]},
    {"file_name": "d.jpg", "caption": "four"},
  )
  found = sources.read_items(tmp_path)
  a, b = found
  assert a.image == tmp_path / "images" / "a.jpg"
  assert a.captions == ("one", "two")
  assert a.license == "4"
  assert b.image == tmp_path / "b.jpg"
  assert b.captions == ("three",)
  assert b.source == "http://x"
  assert found.rejected == [
    ("empty_caption", "c.jpg"),
    ("missing_image", "d.jpg"),
  ]
  assert found.read == 4


def test_jsonl_joins_a_repeated_picture(tmp_path):
  _touch(tmp_path, "a.jpg")
  _jsonl(
    tmp_path,
    {"file_name": "a.jpg", "caption": "one"},
    {"file_name": "./a.jpg", "captions": ["two", "one"]},
    {"file_name": str(tmp_path / "a.jpg"), "caption": "three"},
  )
  (item,) = sources.read_items(tmp_path)
  assert (item.key, item.captions) == ("a.jpg", ("one", "two", "three"))


@pytest.mark.parametrize(
  ("line", "reason", "name"),
  [
    (b"{", "not_json", "captions.jsonl:3"),
    (b"[" * 100_000, "not_json", "captions.jsonl:3"),
    (b"1" * 5000, "not_json", "captions.jsonl:3"),
    (b"\xe9", "not_utf8", "captions.jsonl:3"),
    (b"[1]", "no_file_name", "captions.jsonl:3"),
    (b'{"caption": "x"}', "no_file_name", "captions.jsonl:3"),
    (b'{"file_name": null, "caption": "x"}', "no_file_name", None),
    (b'{"image": "https://x/b.jpg", "caption": "x"}', "url_not_file", None),
    (b'{"file_name": "b.jpg"}', "no_caption", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": null}', "no_caption", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": NaN}', "no_caption", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": "NaN"}', "no_caption", "b.jpg"),
    (b'{"file_name": "b.jpg", "captions": []}', "no_caption", "b.jpg"),
    (b'{"file_name": "b.jpg", "captions": [1]}', "caption_not_text", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": "\\ud83d"}', "not_unicode", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": "caf\xe9"}', "not_utf8", "b.jpg"),
    (b'{"file_name": "b.jpg", "caption": "a\\u0000"}', "not_utf8", "b.jpg"),
    (b'{"file_name": "\\ud83d.jpg", "caption": "x"}', "missing_image", None),
    (b'{"file_name": "b\\u0000", "caption": "x"}', "missing_image", None),
    (
      b'{"file_name": "%s", "caption": "x"}' % (b"n" * 9000),
      "missing_image",
      None,
    ),
  ],
)
def test_one_bad_line_is_counted_and_named(tmp_path, line, reason, name):
  _touch(tmp_path, "a.jpg", "b.jpg")
  good = b'{"file_name": "a.jpg", "caption": "one"}\n\n'
  (tmp_path / "captions.jsonl").write_bytes(good + line)
  found = sources.read_items(tmp_path)
  assert [item.key for item in found] == ["a.jpg"]
  assert [r for r, _ in found.rejected] == [reason]
  assert name is None or found.rejected[0][1] == name
  found.rejected[0][1].encode()


def test_bad_captions_beside_good_ones_are_counted(tmp_path):
  _touch(tmp_path, "a.jpg")
  _jsonl(
    tmp_path, {"file_name": "a.jpg", "captions": ["a cat", None, "\ud83d"]}
  )
  found = sources.read_items(tmp_path)
  assert _captions(found) == {"a.jpg": ("a cat",)}
  assert found.left_out == [("no_caption", "a.jpg"), ("not_unicode", "a.jpg")]


def test_control_characters_are_spaces(tmp_path):
  _touch(tmp_path, "a.jpg")
  _jsonl(tmp_path, {"file_name": "a.jpg", "caption": "a\x07cat\x85\u00a0here"})
  assert _captions(sources.read_items(tmp_path)) == {"a.jpg": ("a cat here",)}


@pytest.mark.parametrize(
  "row",
  [
    {"file_name": "a.jpg", "text": "one"},  # Hugging Face's ImageFolder
    {"image": "a.jpg", "caption": "one"},
    {"Image Path": "a.jpg", "Caption": "one"},
    {"image": {"path": "a.jpg", "bytes": None}, "text": "one"},
    {"id": 7, "image": "a.jpg", "caption": None, "description": "one"},
    {"filename": "a.jpg", "sentences": [{"tokens": ["x"], "raw": "one"}]},
    {"url": "http://x/a.jpg", "file": "a.jpg", "title": "one"},
  ],
)
def test_fields_as_people_name_them(tmp_path, row):
  _touch(tmp_path, "a.jpg")
  _jsonl(tmp_path, row, name="metadata.jsonl")
  assert _captions(sources.read_items(tmp_path)) == {"a.jpg": ("one",)}


def test_unknown_fields_are_named(tmp_path):
  _touch(tmp_path, "a.jpg")
  _jsonl(tmp_path, {"file_name": "a.jpg", "legend": "one"})
  with pytest.raises(InputError, match="fields found: file_name, legend;") as e:
    sources.read_items(tmp_path)
  assert "captions.jsonl:1" in str(e.value)
  _jsonl(tmp_path, {"bild": "a.jpg", "caption": "one"})
  with pytest.raises(InputError, match="no_file_name.*found: bild, caption;"):
    sources.read_items(tmp_path)


COCO = {
  "images": [
    {"id": 1, "file_name": "01.jpg", "license": 3, "coco_url": "http://x/1"},
    {"id": "2", "file_name": "02.jpg"},
    {"id": 3, "file_name": "03.jpg"},
    {"id": 4},
    7,
  ],
  "annotations": [
    {"id": 1, "image_id": 1, "caption": "one"},
    {"id": 2, "image_id": 2, "caption": None},
    {"id": 3, "image_id": 1, "caption": "two\n"},
    {"id": 4, "image_id": 9, "caption": "three"},
    {"id": 5, "image_id": 2, "caption": "four"},
    None,
  ],
  "licenses": [{"id": 3, "name": "CC BY"}],
}


def test_coco_captions(tmp_path):
  """As COCO is unpacked: annotations/ beside the folder of the pictures."""
  _touch(tmp_path, "val2017/01.jpg", "val2017/02.jpg", "val2017/03.jpg")
  (tmp_path / "annotations").mkdir()
  path = tmp_path / "annotations/captions_val2017.json"
  path.write_text(json.dumps(COCO))
  for captions in ("auto", str(path), "annotations/captions_val2017.json"):
    found = sources.read_items(tmp_path, captions)
    assert _captions(found) == {"01.jpg": ("one", "two"), "02.jpg": ("four",)}
    assert found.items[0].image == tmp_path / "val2017/01.jpg"
    assert (found.items[0].license, found.items[0].source) == (
      "CC BY",
      "http://x/1",
    )
    assert found.left_out == [("no_caption", "02.jpg")]
    assert sorted(found.rejected) == [
      ("no_caption", "03.jpg"),
      ("no_caption", "captions_val2017.json: annotation 6"),
      ("no_file_name", "captions_val2017.json: image 4"),
      ("no_file_name", "captions_val2017.json: image 5"),
      ("unknown_image_id", "captions_val2017.json: annotation 4"),
    ]
    assert any("val2017/" in note for note in found.notes)


def test_coco_instances_are_no_captions(tmp_path):
  _touch(tmp_path, "01.jpg")
  boxes = [{"image_id": 1, "bbox": [0, 0, 1, 1], "id": 4}]
  (tmp_path / "captions.json").write_text(
    json.dumps({**COCO, "annotations": boxes})
  )
  with pytest.raises(InputError, match=r"captions\.json: .*image_id, bbox, id"):
    sources.read_items(tmp_path)


@pytest.mark.parametrize(
  "data",
  [
    [{"image": "a.jpg", "caption": "one"}],
    {"info": {}, "data": [{"image": "a.jpg", "caption": "one"}]},
    {"a.jpg": "one"},
    {"a.jpg": ["one"]},
    {"a.jpg": {"caption": "one", "tags": "x"}},
    {"file_name": "a.jpg", "caption": "one"},
    {"dataset": "x", "images": [{"filename": "a.jpg", "sentences": ["one"]}]},
  ],
)
@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl"])
def test_json_documents(tmp_path, data, name):
  _touch(tmp_path, "a.jpg")
  (tmp_path / name).write_text(json.dumps(data, indent=1))
  assert _captions(sources.read_items(tmp_path)) == {"a.jpg": ("one",)}


def test_json_lines_called_json(tmp_path):
  _touch(tmp_path, "a.jpg", "b.jpg")
  rows = [{"image": f"{n}.jpg", "caption": n} for n in "ab"]
  _jsonl(tmp_path, *rows, name="captions.json")
  assert len(sources.read_items(tmp_path)) == 2


@pytest.mark.parametrize(
  "text", ["7", "null", '{"x": 1}', "[]", "", "{}", '[{"image": "a.jpg"', "["]
)
def test_json_without_captions(tmp_path, text):
  _touch(tmp_path, "a.jpg")
  (tmp_path / "captions.json").write_text(text)
  with pytest.raises(InputError, match=r"captions\.json.*expected"):
    sources.read_items(tmp_path)


@pytest.mark.parametrize("bom", ["", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["captions.jsonl", "captions.tsv", "a.txt"])
def test_byte_order_marks(tmp_path, name, bom):
  _touch(tmp_path, "a.jpg")
  text = {
    "captions.jsonl": '{"file_name": "a.jpg", "caption": "café"}\n',
    "captions.tsv": "file_name\tcaption\na.jpg\tcafé\n",
    "a.txt": "café\n",
  }[name]
  (tmp_path / name).write_text(text, encoding=bom or "utf-8")
  assert _captions(sources.read_items(tmp_path)) == {"a.jpg": ("café",)}


def test_utf16_without_a_mark_is_told(tmp_path):
  _touch(tmp_path, "a.jpg")
  (tmp_path / "captions.tsv").write_text("a.jpg\tx\n", encoding="utf-16-le")
  with pytest.raises(InputError, match=r"captions\.tsv is not UTF-8"):
    sources.read_items(tmp_path)


def test_txt_one_a_picture(tmp_path):
  _touch(
    tmp_path, "b.jpg", "sub/a.PNG", "c.jpg", "readme.md", "d.heix", "e.jpg"
  )
  _touch(tmp_path, "._b.jpg", "f.jpeg")
  (tmp_path / "b.txt").write_text("one\n\ntwo\n")
  (tmp_path / "sub/a.TXT").write_text("three")
  (tmp_path / "d.txt").write_text("four")
  (tmp_path / "e.txt").write_bytes(b"caf\xe9")
  (tmp_path / "f.jpeg.txt").write_bytes(b"caf\xe9\nfive")
  (tmp_path / "licence.txt").write_text("MIT")
  found = sources.read_items(tmp_path)
  assert _captions(found) == {
    "b.jpg": ("one", "two"),
    "f.jpeg": ("five",),
    "sub/a.PNG": ("three",),
  }
  assert found.rejected == [
    ("unknown_suffix", "d.heix"),
    ("no_caption", "c.jpg"),
    ("not_utf8", "e.jpg"),
  ]
  assert found.left_out == [("not_utf8", "f.jpeg")]
  notes = "; ".join(found.notes)
  assert "licence.txt" in notes
  assert "._b.jpg" in notes


def test_txt_above_images(tmp_path):
  _touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png")
  (tmp_path / "images/a.txt").write_text("one")
  (tmp_path / "b.txt").write_text("two")
  found = sources.read_items(tmp_path)
  assert _captions(found) == {"a.jpg": ("one",), "b.jpg": ("two",)}
  assert not found.rejected
  assert any("masks/a.png" in note for note in found.notes)


def test_linked_folders_and_files(tmp_path):
  source, real = tmp_path / "source", tmp_path / "real"
  _touch(source, "a.jpg")
  _touch(real, "0.jpg", "deep/1.jpg")
  for picture in [source / "a", real / "0", real / "deep/1"]:
    picture.with_suffix(".txt").write_text("one")
  (source / "link").symlink_to(real)
  (source / "again").symlink_to(real)
  (source / "b.jpg").symlink_to(source / "a.jpg")
  (source / "up").symlink_to(tmp_path)
  (real / "deep/circle").symlink_to(real)
  found = sources.read_items(source)
  # Each file once, so that none is held out and trained on as well.
  keys = {item.key.split("/", 1)[1] for item in found.items[1:]}
  assert found.items[0].key == "a.jpg"
  assert keys == {"0.jpg", "deep/1.jpg"}
  assert len(found) == 3
  assert any("the link up " in note for note in found.notes)
  # By the name of either link.
  _jsonl(
    source,
    {"file_name": "again/0.jpg", "caption": "two"},
    {"file_name": "link/0.jpg", "caption": "three"},
    {"file_name": "up/real/0.jpg", "caption": "four"},
  )
  (item,) = sources.read_items(source)
  assert item.captions == ("two", "three", "four")


def test_links_that_were_stored_as_text(tmp_path):
  _touch(tmp_path, "real/0.jpg", "source/a.jpg")
  (tmp_path / "source/a.txt").write_text("one")
  (tmp_path / "source/link").write_text("../real")
  found = sources.read_items(tmp_path / "source")
  assert any("(link)" in note for note in found.notes)


def test_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  _touch(tmp_path, "photos/a.jpg")
  _jsonl(tmp_path, {"file_name": "a.jpg", "caption": "one"}, name="c.jsonl")
  assert len(sources.read_items("~/photos", "~/c.jsonl")) == 1


@pytest.mark.parametrize(
  ("present", "read"),
  [
    (["captions.JSONL", "captions.csv", "x.tsv"], "captions.JSONL"),
    (["captions.csv", "metadata.jsonl"], "captions.csv"),
    (["metadata.csv"], "metadata.csv"),
    (["x.tsv", "a.txt", "x.csv"], "x.tsv"),
    (["a.txt", "x.csv", "stats.json"], "one .txt beside each picture"),
    (["captions.txt"], "captions.txt"),
    (["captions_x.json", "package.json"], "captions_x.json"),
    (["x.csv"], "x.csv"),
    (["x.jsonl"], "x.jsonl"),
    (["train/metadata.jsonl"], "train/metadata.jsonl"),
  ],
)
def test_the_order_of_the_files(tmp_path, present, read):
  _touch(tmp_path, "a.jpg")
  row = json.dumps({"file_name": "a.jpg", "caption": "one"})
  content = {
    ".tsv": "a.jpg\tone",
    ".csv": "path,caption\na.jpg,one",
    ".txt": "image,caption\na.jpg,one",
  }
  for name in present:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content.get(path.suffix.lower(), row))
  if "train/metadata.jsonl" in present:
    _touch(tmp_path, "train/a.jpg")
  found = sources.read_items(tmp_path)
  assert found.captions == (
    read if read.startswith("one") else str(tmp_path / read)
  )
  if "/" in read:  # its names are relative to it
    assert found.items[0].image == tmp_path / "train/a.jpg"


def test_captions_that_are_not_read_are_told(tmp_path):
  _touch(tmp_path, "a.jpg", "b.jpg")
  _jsonl(tmp_path, {"file_name": "a.jpg", "caption": "one"})
  (tmp_path / "captions.csv").write_text("path,caption\nb.jpg,one")
  (tmp_path / "b.txt").write_text("two")
  notes = "; ".join(sources.read_items(tmp_path).notes)
  assert "captions.csv were not read" in notes
  assert ".txt beside pictures were not read" in notes
  assert "do not name: 1 (b.jpg)" in notes


def test_nothing_to_read(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    sources.read_items(tmp_path / "none")
  with pytest.raises(InputError, match="no such folder"):
    sources.read_items(tmp_path / ("n" * 300))
  with pytest.raises(InputError, match="no pictures and no captions"):
    sources.read_items(tmp_path)
  _touch(tmp_path, "a.jpg", "x.parquet")
  with pytest.raises(InputError, match=r"1 pictures and 1 \.parquet; expected"):
    sources.read_items(tmp_path)
  for name in ("x.tsv", "x" * 300 + ".tsv", "\0.tsv"):
    with pytest.raises(InputError, match="no such file"):
      sources.read_items(tmp_path, name)
  with pytest.raises(InputError, match=r"x\.parquet: captions are read from"):
    sources.read_items(tmp_path, str(tmp_path / "x.parquet"))
  with pytest.raises(InputError, match="this machine"):
    sources.read_items("gs://bucket/photos")
  with pytest.raises(InputError, match="is a file; give the folder"):
    sources.read_items(tmp_path / "a.jpg")


def test_several_tables_need_a_choice(tmp_path):
  _touch(tmp_path, "a.jpg")
  for name in ("x.tsv", "y.tsv"):
    (tmp_path / name).write_text("a.jpg\tone\n")
  with pytest.raises(InputError, match=r"several .*x\.tsv, y\.tsv"):
    sources.read_items(tmp_path)
  assert sources.read_items(tmp_path, str(tmp_path / "y.tsv"))
  assert sources.read_items(tmp_path, "y.tsv")


@pytest.mark.parametrize(
  ("file", "name"),
  [
    ("sub/a.jpg", "sub\\a.jpg"),
    ("sub/a.jpg", ".\\sub\\a.jpg"),
    ("sub/a.jpg", "./sub//a.jpg"),
    ("sub/a.jpg", "/sub/a.jpg"),
    ("sub/a.jpg", "sub/../sub/a.jpg"),
    ("images/a.jpg", "a.jpg"),
    ("images/a.jpg", "images/a.jpg"),
    ("a b.jpg", "a%20b.jpg"),
    ("a%20b.jpg", "a%20b.jpg"),
    ("a#0.jpg", "a#0.jpg"),
    ("a.jpg", "a.jpg#3"),
    ("a.jpg", " a.jpg "),
    (" a.jpg", " a.jpg"),
    ("a.jpg", "A.JPG"),
    ("IMG.JPG", "img.jpg"),
    ("0001.jpg", "0001"),
    ("images/0001.png", "0001"),
    ("\u00e9.jpg", "e\u0301.jpg"),
    ("e\u0301.jpg", "\u00e9.jpg"),
    ("a\\b.jpg", "a\\b.jpg"),
    ("deep/er/a.jpg", "er/a.jpg"),
  ],
)
def test_a_name_finds_its_file(tmp_path, file, name):
  _touch(tmp_path, file)
  _jsonl(tmp_path, {"file_name": name, "caption": "one"})
  (item,) = sources.read_items(tmp_path)
  assert item.image == tmp_path / file


@pytest.mark.parametrize(
  ("start", "files"),
  [
    ("/home/other/photos/", ""),
    ("/home/other/photos/", "images/"),
    ("C:\\Users\\me\\", ""),
    ("photos/", ""),  # relative to the folder above the source
    ("", "train/deep/"),
    ("x/", "y/z/"),
  ],
)
def test_names_of_another_place(tmp_path, start, files):
  names = ["a.jpg", "sub/a.jpg", "b.jpg"]
  _touch(tmp_path, *(files + name for name in names), "other/b.jpg")
  rows = [{"file_name": start + n, "caption": n} for n in [*names, "c.jpg"]]
  _jsonl(tmp_path, *rows, {"file_name": "/else/where/a.jpg", "caption": "x"})
  found = sources.read_items(tmp_path)
  assert {
    i.image.relative_to(tmp_path).as_posix(): i.captions for i in found
  } == {files + name: (name,) for name in names}
  assert [reason for reason, _ in found.rejected] == ["missing_image"] * 2
  assert len(found.notes) >= 1


def test_names_that_fit_several_folders(tmp_path):
  _touch(tmp_path, "x/0.jpg", "x/1.jpg", "y/0.jpg", "y/1.jpg")
  _jsonl(tmp_path, *({"image": f"{i}.jpg", "text": "one"} for i in (0, 1)))
  with pytest.raises(InputError, match="missing_image: 2"):
    sources.read_items(tmp_path)


def test_similar_names_are_not_confused(tmp_path):
  composed, apart = "\u00e9.jpg", unicodedata.normalize("NFD", "\u00e9.jpg")
  _touch(tmp_path, "a.jpg", "A.jpg", composed, apart, "x/0.jpg", "y/0.jpg")
  names = ["a.jpg", "A.jpg", "a.JPG", composed, apart, "0.jpg"]
  _jsonl(tmp_path, *({"file_name": n, "caption": n + "!"} for n in names))
  found = sources.read_items(tmp_path)
  assert _captions(found) == {
    n: (n + "!",) for n in ("a.jpg", "A.jpg", composed, apart)
  }
  assert found.rejected == [
    ("ambiguous_name", "a.JPG"),
    ("missing_image", "0.jpg"),
  ]


def test_names_that_lead_outside(tmp_path):
  _touch(tmp_path, "source/a.jpg", "b.jpg", "lists/c.jpg")
  source = tmp_path / "source"
  _jsonl(
    source,
    {"file_name": "a.jpg", "caption": "one"},
    {"file_name": "../b.jpg", "caption": "two"},
    {"file_name": str(tmp_path / "b.jpg"), "caption": "three"},
    {"file_name": "..\\..\\etc\\x.jpg", "caption": "four"},
  )
  found = sources.read_items(source)
  # An absolute name is the user's own; ".." may come with a download.
  assert [item.captions for item in found] == [("one",), ("three",)]
  assert [reason for reason, _ in found.rejected] == ["outside_source"] * 2


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_file_names_that_are_not_utf8(tmp_path):
  for name in (b"caf\xe9", b"caf\xe8"):
    path = os.fsencode(tmp_path) + b"/" + name
    try:
      with open(path + b".jpg", "wb") as file:
        file.write(b"x")
    except OSError:
      pytest.skip("this file system takes UTF-8 alone")
    with open(path + b".txt", "wb") as file:
      file.write(b"one")
  found = sources.read_items(tmp_path)
  keys = [item.key for item in found]
  assert keys == ["caf\\udce8.jpg", "caf\\udce9.jpg"]
  assert all(item.image.read_bytes() == b"x" for item in found)
  # A list in the same bytes names the file; its caption must be UTF-8.
  (tmp_path / "captions.tsv").write_bytes(
    b"caf\xe9.jpg\ttwo\ncaf\xe8.jpg\tcaf\xe8\n"
  )
  found = sources.read_items(tmp_path)
  assert _captions(found) == {"caf\\udce9.jpg": ("two",)}
  assert found.rejected == [("not_utf8", "caf\\udce8.jpg")]
