"""Sources that are read piece by piece: tars, Parquet, TFRecords, TFDS."""

import json

import numpy as np
import pytest
import webdata
from webdata import jpeg, pair, write_tar

from sseg_jax import prepare
from sseg_jax.data import records
from sseg_jax.data.sources import of_tfds, samples, streams
from sseg_jax.errors import InputError


def _prepare(source, out, **options):
  return prepare.prepare(str(source), str(out), **options)


def _records(folder):
  return list(records.read(str(folder)))


def _counts(report):
  return {r: entry["count"] for r, entry in report.rejected.items()}


# ------------------------------------------------------------------------ tars


def test_tars_give_what_a_folder_gives(tmp_path):
  """The same pictures, captions, filters and counts; only keys differ."""
  for i in range(12):
    tar = tmp_path / "tars" / f"{i // 6:05d}.tar"
    if i % 6 == 0:
      write_tar(
        tar, [m for n in range(i, i + 6) for m in pair(n, "x" * (n != 4))]
      )
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (folder / f"{i:05d}.jpg").write_bytes(jpeg(i))
    (folder / f"{i:05d}.txt").write_text("x" * (i != 4))
  options = {"image_size": 16, "shard_size": 5}
  one = _prepare(tmp_path / "tars", tmp_path / "a", **options)
  two = _prepare(tmp_path / "folder", tmp_path / "b", **options)
  assert one.captions.endswith("(webdataset, 2 parts)")
  assert _counts(one) == _counts(two) == {"empty_caption": 1}
  assert one.rejected["empty_caption"]["examples"] == ["00000/00004"]
  assert (one.read, one.train) == (two.read, two.train) == (12, 11)
  a, b = _records(tmp_path / "a/train"), _records(tmp_path / "b/train")
  assert [(r.image, r.captions) for r in a] == [
    (r.image, r.captions) for r in b
  ]
  assert [r.key.decode() for r in a[3:5]] == ["00000/00003", "00000/00005"]
  counts = [
    s.count for s in records.read_manifest(f"{tmp_path}/a/train").shards
  ]
  assert counts == [5, 5, 1]


def _read_tar(path):
  part = samples.Part("webdataset", str(path), "x")
  return list(streams.READERS["webdataset"](part))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_members_of_a_tar(tmp_path, suffix):
  meta = {"caption": "from json", "url": "http://x", "license": "by"}
  path = write_tar(
    tmp_path / f"x.{suffix}",
    [
      ("./a/1.jpg", b"1"),
      ("./a/1.txt", b"two\nlines"),
      ("./a/1.json", json.dumps(meta).encode()),
      ("2.JPG", b"2"),
      ("2.json", json.dumps(meta).encode()),
      ("2.cls", b"7"),
      ("3.seg.png", b"mask"),
      ("3.webp", b"3"),
      ("3.txt", b"with a mask"),
      ("4.jpg", b"4"),
      ("4.png", b"5"),
      ("4.caption", b"\xff"),
      ("5.txt", b"alone"),
      ("6.jpg", b""),
      ("6.txt", b"x"),
      ("7.jpg", b"7"),
      ("7.json", b"{"),
      ("__meta__.json", b"{}"),
      ("._8.jpg", b"x"),
      ("README", b"x"),
    ],
    mode="w:gz" if suffix == "tar.gz" else "w",
  )
  found = {s.key: s for s in _read_tar(path)}
  told = {k: (s.image, s.captions, s.reason) for k, s in found.items()}
  assert told == {
    "a/1": (b"1", ("two lines",), ""),
    "2": (b"2", ("from json",), ""),
    "3": (b"3", ("with a mask",), ""),
    "4": (b"4", (), ""),
    "4.png": (b"", (), "second_picture"),
    "5": (b"", ("alone",), "no_picture"),
    "6": (b"", ("x",), "empty_file"),
    "7": (b"", (), "not_json"),
  }
  assert (found["2"].source, found["2"].license) == ("http://x", "by")
  assert found["4"].left_out == ("not_utf8",)


def test_files_of_a_sample_may_lie_anywhere(tmp_path):
  a, b = pair(1), pair(2)
  path = write_tar(tmp_path / "x.tar", [a[0], b[0], b[1], a[1], *a])
  keys = [s.key for s in _read_tar(path)]
  assert keys == ["00001", "00002", "00001+"]
  assert all(s.image and s.captions for s in _read_tar(path))


@pytest.mark.parametrize("cut", [1, 700, 3000, "end"])
def test_a_tar_that_was_cut_is_counted(tmp_path, cut):
  members = pair(1) + pair(2)
  path = write_tar(tmp_path / "x.tar", members)
  data = path.read_bytes()
  # Two blocks for each member at least, and then the end.
  whole = sum(512 + -(-len(d) // 512) * 512 for _, d in members)
  path.write_bytes(data[: whole if cut == "end" else whole - cut])
  found = _read_tar(path)
  assert found[-1].reason == "damaged_file"
  assert found[0].captions == ("picture 1",) and found[0].image == jpeg(1)


def test_names_of_many_tars(tmp_path):
  for name in ("a-08", "a-09", "a-10"):
    write_tar(tmp_path / f"{name}.tar", pair(int(name[-2:])))
  stream = streams.find(f"{tmp_path}/a-{{08..10}}.tar")
  assert [p.name for p in stream.parts] == ["a-08", "a-09", "a-10"]
  assert streams.find(f"{tmp_path}/*.tar").parts == stream.parts
  assert len(streams.find(f"{tmp_path}/a-{{08,10}}.tar").parts) == 2
  with pytest.raises(InputError, match="a-11.tar; fetch it"):
    streams.find(f"{tmp_path}/a-{{08..11}}.tar")
  with pytest.raises(InputError, match="--kind=zip: must be auto, folder"):
    streams.find(str(tmp_path), "zip")
  with pytest.raises(InputError, match="nothing of kind parquet"):
    streams.find(str(tmp_path), "parquet")


def test_captions_of_a_named_field(tmp_path):
  meta = json.dumps({"caption": "short", "llava": "a long one"}).encode()
  write_tar(tmp_path / "s/x.tar", [*pair(1), ("00001.json", meta)])
  _prepare(tmp_path / "s", tmp_path / "out", captions="llava")
  assert _records(tmp_path / "out/train")[0].captions == (b"a long one",)


# ----------------------------------------------------------------- img2dataset


@pytest.mark.parametrize("form", ["files", "webdataset", "parquet", "tfrecord"])
def test_every_format_of_img2dataset(tmp_path, form):
  source = webdata.img2dataset(tmp_path / "s", form)
  report = _prepare(source, tmp_path / "out")
  expected: dict[str, int] = {}
  for shard in (0, 10000):
    for row in webdata.rows(shard, 9):
      if row["error_message"]:
        reason = webdata.FAILURES[row["error_message"]]
        expected[reason] = expected.get(reason, 0) + 1
  assert _counts(report) == expected and sum(expected.values()) == 6
  assert (report.read, report.train) == (18, 12)
  found = _records(tmp_path / "out/train")
  assert [r.key.decode() for r in found[5:7]] == [
    "00000/000000007",
    "00001/000010000",
  ]
  for record in found:
    number = int(record.key[-9:])
    assert record.image == jpeg(number)
    assert record.captions == (f"picture {number}".encode(),)
    assert record.source == f"http://x/{number}.jpg".encode()


def test_img2dataset_that_lacks_something(tmp_path):
  source = webdata.img2dataset(tmp_path / "s", "webdataset", shards=3)
  (source / "00000.parquet").unlink()  # its stats still count
  (source / "00001.tar").unlink()
  (source / "00002_stats.json").unlink()
  report = _prepare(source, tmp_path / "out")
  counts = _counts(report)
  assert counts.pop("unfinished_shard") == 1
  assert counts.pop("missing_image") == 6
  assert report.read == 27 + 1 and report.train == 12
  assert sum(counts.values()) == 9 and "failed_to_download" not in counts


# --------------------------------------------------------------------- Parquet


def test_parquet_of_hugging_face(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  (tmp_path / "s/data").mkdir(parents=True)
  picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(5)] + [None]
  table = pa.table(
    {
      "id": pa.array(range(6)),
      "image": pa.array(images, picture),
      "text": pa.array([["one", "two"], [], ["x", None], ["y"], ["z"], ["w"]]),
      "url": pa.array([f"http://{i}" for i in range(6)]),
    }
  )
  path = tmp_path / "s/data/train-00000-of-00001.parquet"
  pq.write_table(table, path, row_group_size=2)
  report = _prepare(tmp_path / "s", tmp_path / "out")
  assert _counts(report) == {"missing_image": 1, "no_caption": 1}
  assert report.captions_left_out["no_caption"]["count"] == 1
  found = _records(tmp_path / "out/train")
  assert found[0].captions == (b"one", b"two") and found[0].image == jpeg(0)
  assert found[0].key == b"train-00000-of-00001/0000000"
  assert found[1].source == b"http://2"
  (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-200])
  with pytest.raises(InputError, match="damaged_file: 1 .cut"):
    _prepare(tmp_path / "cut.parquet", tmp_path / "cut")
  pq.write_table(table.drop(["text"]), tmp_path / "bare.parquet")
  with pytest.raises(InputError, match="no column holds captions .*--captions"):
    _prepare(tmp_path / "bare.parquet", tmp_path / "bare")


def test_without_pyarrow_the_command_is_told(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
  (tmp_path / "x.parquet").write_bytes(b"x")
  with pytest.raises(InputError, match="pip install pyarrow"):
    _prepare(tmp_path / "x.parquet", tmp_path / "out")


# ----------------------------------------------------------- TFRecords and TFDS


def test_tfrecords_that_are_damaged(tmp_path):
  source = webdata.img2dataset(tmp_path / "s", "tfrecord", shards=1)
  path = source / "00000.tfrecord"
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  (tmp_path / "x.tfrecord").write_bytes(data)
  report = _prepare(tmp_path / "x.tfrecord", tmp_path / "out")
  assert _counts(report) == {"damaged_file": 1}
  assert 1 <= report.train < 6


@pytest.mark.slow
def test_a_data_set_of_tfds(tmp_path, monkeypatch):
  tfds = pytest.importorskip("tensorflow_datasets")

  rows = [
    (i, {"image": jpeg(i), "captions": [f"a {i}", f"b {i}"]}) for i in range(5)
  ]
  tfds.dataset_builders.store_as_tfds_dataset(
    name="pets",
    version="1.0.0",
    data_dir=str(tmp_path),
    split_datasets={"train": rows[:4], "val": rows[4:]},
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "captions": tfds.features.Sequence(tfds.features.Text()),
      }
    ),
  )
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setattr("sseg_jax.data.sources.of_tfds._SLICE", 3)
  for number, source in enumerate(("tfds:pets:1.0.0", tmp_path / "pets/1.0.0")):
    out = tmp_path / f"out{number}"
    report = _prepare(source, out)
    assert report.train == 4 and not report.rejected
    found = {r.captions: r.image for r in _records(out / "train")}
    assert found == {
      (f"a {i}".encode(), f"b {i}".encode()): jpeg(i) for i in range(4)
    }
  assert streams.find("tfds:pets@val").count == 1
  with pytest.raises(InputError, match="no split 'test'; it has train, val"):
    streams.find("tfds:pets@test")
  with pytest.raises(InputError, match="tfds:none: cannot be opened"):
    streams.find("tfds:none")
  # As COCO has its captions: a sequence of several features.
  several = {"text": np.array([b"a", b"b"], object), "id": np.array([1, 2])}
  assert of_tfds._plain(several) == [{"text": "a"}, {"text": "b"}]
