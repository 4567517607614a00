"""Tests of tables of captions: quotes, columns, headers, delimiters."""

import csv
import io

import pytest

from sseg_jax.data import sources
from sseg_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
  for i in range(4):
    (tmp_path / f"{i}.jpg").write_bytes(b"x")
  return tmp_path


def _read(folder, text, name="captions.tsv"):
  data = text if isinstance(text, bytes) else text.encode()
  (folder / name).write_bytes(data)
  return sources.read_items(folder, name)


def _captions(found):
  return {item.key: item.captions for item in found}


@pytest.mark.parametrize("header", ["", "filepath\tcaption\n"])
def test_a_picture_that_comes_again(folder, header):
  found = _read(folder, header + "0.jpg\tone\n1.jpg\ttwo\n0.jpg\tthree\n")
  assert _captions(found) == {"0.jpg": ("one", "three"), "1.jpg": ("two",)}


@pytest.mark.parametrize(
  ("line", "reason", "name"),
  [
    (b"1.jpg one", "too_few_cells", "captions.tsv:2"),
    (b"\ttwo", "no_file_name", "captions.tsv:2"),
    (b"http://x/1.jpg\ttwo", "url_not_file", "captions.tsv:2"),
    (b"1.jpg\t", "empty_caption", "1.jpg"),
    (b"1.jpg\tnan", "no_caption", "1.jpg"),
    (b"1.jpg\tcaf\xe9", "not_utf8", "1.jpg"),
    (b"1.jpg\ta\0b", "not_utf8", "1.jpg"),
    (b"9.jpg\ttwo", "missing_image", "9.jpg"),
    (b"\xff.jpg\ttwo", "missing_image", "\\udcff.jpg"),
    (b"\0.jpg\ttwo", "missing_image", "\0.jpg"),
    (b"long " * 999 + b"\t1.jpg", "missing_image", None),
  ],
)
def test_one_bad_row_is_counted_and_named(folder, line, reason, name):
  found = _read(folder, b"0.jpg\tone\n" + line + b"\n2.jpg\tthree\n\n")
  assert _captions(found) == {"0.jpg": ("one",), "2.jpg": ("three",)}
  assert [r for r, _ in found.rejected] == [reason]
  assert name is None or found.rejected[0][1] == name


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("0.jpg one\n", "no tab between .*line 1: 0.jpg one"),
    ("bild\ttitel\tx\n0.jpg\tone\t2\n", "columns found: bild, titel, x; expec"),
    (
      "path\ttags\tx\n0.jpg\tone\t2\n",
      "columns found: path, tags, x; expected",
    ),
    ("a\tb\n9\t8\n", "missing_image: 2"),
    ("bild\ttitel\n9.jpg\tone\n", "missing_image: 2 .bild, 9.jpg."),
    ("", "holds no captions"),
    ("a cat\thttp://x/0.jpg\na dog\thttps://x/1.jpg", "URLs.*img2dataset"),
    ("http://x/0.jpg\ta cat\n", "URLs .column 1.*img2dataset"),
    ("url\tcaption\nhttp://x/0.jpg\ta cat\n", "URLs .column 1.*img2dataset"),
    ("caption\turl\na cat\thttp://x/0.jpg\n", "URLs .column 2.*img2dataset"),
  ],
)
def test_tables_of_no_use_say_what_they_hold(folder, text, message):
  with pytest.raises(InputError, match=f"captions.tsv.*{message}") as error:
    _read(folder, text)
  assert "\n" not in str(error.value)


# Any of these is a caption that people write.
HARD = (
  'a sign that says "stop" beside a road',
  '"quoted" at its start',
  '5" pipe',
  "tab\there, comma; semicolon | bar",
  "two\nlines, and\r\na third",
  'a quote at the end"',
  '"',
  'a "b',
)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_quoted_cells(folder, header, end, delimiter, quoting):
  """As pandas and Excel write them."""
  for start in (0, 4):
    captions = HARD[start : start + 4]
    out = io.StringIO()
    writer = csv.writer(
      out, delimiter=delimiter, quoting=quoting, lineterminator=end
    )
    if header:
      writer.writerow(["file_name", "caption"])
    writer.writerows([f"{i}.jpg", text] for i, text in enumerate(captions))
    name = "captions.tsv" if delimiter == "\t" else "captions.csv"
    found = _read(folder, out.getvalue(), name)
    assert _captions(found) == {
      f"{i}.jpg": (" ".join(text.split()),) for i, text in enumerate(captions)
    }


@pytest.mark.parametrize(
  "texts",
  [
    ['"quoted" at its start', 'he said "yes"', '5" pipe', 'x"'],
    ['"never closed', "two", 'closed by chance"', '"a" b'],
    ['"never closed', '"nor this', "three", "four"],
    ['"', 'a" and "b', '""', '"x"y"'],
  ],
)
@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_quotes_of_tables_without_quoting(folder, texts, delimiter):
  """A quote must not swallow the rows after it."""
  rows = [f"{i}.jpg{delimiter}{text}" for i, text in enumerate(texts)]
  name = "captions.tsv" if delimiter == "\t" else "captions.csv"
  found = _read(folder, "\n".join(rows), name)
  expected = {f"{i}.jpg": (text,) for i, text in enumerate(texts)}
  expected.pop("2.jpg" if '""' in texts else None, None)  # an empty cell
  assert _captions(found) == expected


def test_quotes_with_backslashes(folder):
  text = 'image,caption\n0.jpg,"a \\"b\\", and c"\n1.jpg,d\n'
  found = _read(folder, text, "captions.csv")
  assert _captions(found) == {"0.jpg": ('a "b", and c',), "1.jpg": ("d",)}


def test_a_quote_that_is_never_closed_costs_one_row(folder):
  lines = ["file_name\tcaption", '0.jpg\t"never closed']
  lines += [f"{i}.jpg\tnumber {i}" for i in (1, 2, 3)] * 100
  found = _read(folder, "\n".join(lines))
  assert _captions(found) == {
    "0.jpg": ('"never closed',),
    **{f"{i}.jpg": (f"number {i}",) for i in (1, 2, 3)},
  }


@pytest.mark.parametrize(
  ("text", "captions"),
  [
    ("0.jpg\ta dog\tand a cat\n1.jpg\ta box\n", ("a dog and a cat",)),
    ("0.jpg\ta dog\tand a cat\n", ("a dog and a cat",)),
    ("a dog\tand a cat\t0.jpg\na box\t1.jpg\n", ("a dog and a cat",)),
    ("path\tcaption\n0.jpg\ta dog\tand a cat\n", ("a dog and a cat",)),
    ("0.jpg\ta dog\t\n", ("a dog",)),
    ("0.jpg\ta dog\t3\thttp://x\n1.jpg\ta box\t4\thttp://y\n", ("a dog",)),
  ],
)
def test_a_tab_in_a_caption_does_not_cut_it(folder, text, captions):
  assert _captions(_read(folder, text))["0.jpg"] == captions


def test_commas_without_quotes(folder):
  found = _read(folder, "0.jpg,a dog, and a cat\n1.jpg,a box", "captions.csv")
  assert _captions(found) == {
    "0.jpg": ("a dog, and a cat",),
    "1.jpg": ("a box",),
  }


def test_cells_that_no_column_takes_are_counted(folder):
  text = "caption\tpath\nx\ty\t0.jpg\nz\t1.jpg\n"
  found = _read(folder, text)
  assert _captions(found) == {"1.jpg": ("z",)}
  assert found.rejected == [("too_many_cells", "captions.tsv:2")]


def test_many_columns_without_names_need_names(folder):
  text = "".join(f"{i % 4}.jpg\tone\tred\n" for i in range(12))
  with pytest.raises(InputError, match="3 columns, and no first line"):
    _read(folder, text)


@pytest.mark.parametrize(
  ("header", "row"),
  [
    ("filepath\ttitle", "0.jpg\tone"),
    ("title\tfilepath", "one\t0.jpg"),
    ("File Name\tCaption", "0.jpg\tone"),
    ("image\ttext\turl\twidth", "0.jpg\tone\thttp://x\t640"),
    ("image\tfile_name\tcaption", "7\t0.jpg\tone"),
    ("id\timage\tcaption", "7\t0.jpg\tone"),
    ("image\tphoto_id\tcaption", "7\t0.jpg\tone"),  # a number called image
    ("id\tblip_caption", "0\tone"),  # names without a suffix
    ("\ufefffile_name\tcaption", "0.jpg\tone"),
    (" file_name \t caption ", " 0.jpg \t one "),
  ],
)
def test_columns_as_people_name_them(folder, header, row):
  found = _read(folder, f"{header}\n{row}\n")
  assert [item.captions for item in found] == [("one",)]
  assert found.items[0].image == folder / "0.jpg"
  assert not found.rejected


def test_a_first_row_that_looks_like_names(folder):
  """Names without a suffix, and a caption that is a column's usual name."""
  found = _read(folder, "0\tphoto\n1\ta bus\n")
  assert [item.captions for item in found] == [("photo",), ("a bus",)]
  (folder / "image.jpg").write_bytes(b"x")
  found = _read(folder, "image\tlegend\n0.jpg\ta bus\n")
  assert [item.captions for item in found] == [("a bus",)]


def test_several_columns_of_captions(folder):
  text = (
    "image,caption_1,caption_2,split\n0.jpg,one,two,train\n1.jpg,three,,val"
  )
  found = _read(folder, text, "captions.csv")
  assert _captions(found) == {"0.jpg": ("one", "two"), "1.jpg": ("three",)}
  assert not found.left_out


@pytest.mark.parametrize("cell", ['["one", "two"]', "['one', 'two']"])
def test_lists_in_a_cell(folder, cell):
  out = io.StringIO()
  csv.writer(out).writerows([["image", "captions"], ["0.jpg", cell]])
  found = _read(folder, out.getvalue(), "captions.csv")
  assert _captions(found) == {"0.jpg": ("one", "two")}


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("captions.csv", "image;caption\n0.jpg;one, and more\n"),
    ("captions.csv", "sep=;\nimage;caption\n0.jpg;one, and more\n"),
    ("captions.csv", "image\tcaption\n0.jpg\tone, and more\n"),
    ("captions.csv", "image| number| comment\n0.jpg| 0| one, and more\n"),
    ("captions.tsv", 'image,caption\n0.jpg,"one, and more"\n'),
    ("captions.txt", 'image,caption\n0.jpg,"one, and more"\n'),
    ("captions.txt", "0.jpg#0\tone, and more\n"),
    ("captions.CSV", 'image, caption\n0.jpg, "one, and more"\n'),
  ],
)
def test_delimiters(folder, name, text):
  found = _read(folder, text, name)
  assert _captions(found) == {"0.jpg": ("one, and more",)}


def test_source_and_license(folder):
  text = "image,caption,url,license\n0.jpg,one,http://x,CC BY\n"
  (item,) = _read(folder, text, "captions.csv")
  assert (item.source, item.license) == ("http://x", "CC BY")


def test_caption_first(folder):
  """The order of Conceptual Captions."""
  found = _read(folder, "sand and sea\t0.jpg\na bus\t1.jpg\na cat\t9.jpg\n")
  assert _captions(found) == {"0.jpg": ("sand and sea",), "1.jpg": ("a bus",)}
  assert found.rejected == [("missing_image", "9.jpg")]
  assert any("last column names" in note for note in found.notes)
