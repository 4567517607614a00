"""Tests of the record format: what is written is what is read."""

import json

import numpy as np
import pytest

from sseg_jax.data import import_tensorflow, manifest, records
from sseg_jax.data.shards import RecordTable
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime import lease


def _records(count, **fields):
  return [
    records.Record(
      key=f"k{i}".encode(),
      image=bytes([i % 256]) * (i + 1),
      captions=(b"one", f"caption {i}".encode()),
      **fields,
    )
    for i in range(count)
  ]


def _write(folder, items, **kwargs):
  with records.RecordWriter(str(folder), **kwargs) as writer:
    for item in items:
      writer.write(item)
  return str(folder)


def test_encode_and_parse_are_inverse():
  full = records.Record(b"k", b"i", (b"a", b""), b"p", b"l", b"s", b"c")
  assert records.parse(records.encode(full)) == full
  bare = records.Record(b"k", b"i")
  assert records.parse(records.encode(bare)) == bare


@pytest.mark.parametrize("damaged", [b"\xff\xff", b"", b"abc"])
def test_parse_refuses_damage(damaged):
  with pytest.raises(ValueError):
    records.parse(damaged)


def test_the_bytes_are_those_of_tensorflow(tmp_path):
  """A record is encoded, and a shard written, without TensorFlow."""
  tf = import_tensorflow()
  record = records.Record(
    b"k", b"\xff\xd8" * 999, ("é".encode(), b""), labels=b"l", source=b""
  )
  fields = {
    "source": [b""],
    "labels": [b"l"],
    "captions": ["é".encode(), b""],
    "image": [record.image],
    "key": [b"k"],
  }
  lists = {k: tf.train.BytesList(value=v) for k, v in fields.items()}
  feature = {k: tf.train.Feature(bytes_list=v) for k, v in lists.items()}
  theirs = tf.train.Example(features=tf.train.Features(feature=feature))
  data = theirs.SerializeToString(deterministic=True)
  assert records.encode(record) == data
  assert records.parse(theirs.SerializeToString()) == record
  with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
    writer.write(data)
  ours = records.ShardWriter(str(tmp_path / "ours"))
  ours.write(data)
  ours.close()
  shard = ours.finish(str(tmp_path), "x.tfrecord")
  written = (tmp_path / "x.tfrecord").read_bytes()
  assert written == (tmp_path / "theirs").read_bytes()
  assert shard.sha256 == manifest.sha256(str(tmp_path / "x.tfrecord"))


def test_shard_size_keeps_the_order(tmp_path):
  items = _records(7)
  folder = _write(tmp_path / "d", items, shard_size=3)
  read = records.read_manifest(folder)
  assert [s.count for s in read.shards] == [3, 3, 1]
  assert read.shards[1].file == "train-00001-of-00003.tfrecord"
  assert read.total == 7
  assert list(records.read(folder)) == items
  manifest.verify(read)


def test_num_shards_deals_in_turn(tmp_path):
  folder = _write(tmp_path / "d", _records(7), num_shards=2, split="val")
  keys = [record.key for record in records.read(folder)]
  assert keys == [b"k0", b"k2", b"k4", b"k6", b"k1", b"k3", b"k5"]
  assert records.read_manifest(folder).split == "val"


def test_manifest_keeps_info_rejections_and_optional_fields(tmp_path):
  with records.RecordWriter(str(tmp_path), num_shards=1) as writer:
    for item in _records(2, labels=b"l"):
      writer.write(item)
    for i in range(30):
      writer.reject("unreadable", f"n{i}")
    writer.info["note"] = "x"
  read = records.read_manifest(str(tmp_path))
  assert read.rejected["unreadable"]["count"] == 30
  assert len(read.rejected["unreadable"]["examples"]) == 20
  assert read.info == {"note": "x"}
  assert read.labels
  assert not read.pseudo_labels


def test_failed_write_leaves_nothing(tmp_path):
  with (
    pytest.raises(RuntimeError),
    records.RecordWriter(str(tmp_path), shard_size=1) as writer,
  ):
    for item in _records(3):
      writer.write(item)
    raise RuntimeError
  assert not list(tmp_path.iterdir())


def test_killed_write_is_refused_then_cleaned(tmp_path):
  writer = records.RecordWriter(str(tmp_path), shard_size=1)
  writer.__enter__()
  for item in _records(3):
    writer.write(item)
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(InputError, match="interrupted"):
    records.read_manifest(str(tmp_path))
  lease.release_all()  # as if that process were dead
  _write(tmp_path, _records(2), num_shards=1)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "manifest.json",
    "notes.txt",
    "train-00000-of-00001.index",
    "train-00000-of-00001.tfrecord",
  ]
  for shard in writer._shards:
    shard.close()


def test_finished_records_are_replaced_only_on_request(tmp_path):
  _write(tmp_path, _records(3), num_shards=3)
  with pytest.raises(InputError, match="finished"):
    _write(tmp_path, _records(1), num_shards=1)
  _write(tmp_path, _records(1), num_shards=1, overwrite=True)
  assert len(list(records.read(str(tmp_path)))) == 1


def test_missing_folder_shard_and_size(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    records.read_manifest(str(tmp_path / "none"))
  folder = _write(tmp_path / "d", _records(4), num_shards=2)
  shard = tmp_path / "d" / "train-00001-of-00002.tfrecord"
  whole = shard.read_bytes()
  shard.write_bytes(whole[:-1])
  with pytest.raises(InputError, match="bytes, the manifest says"):
    records.read_manifest(folder)
  shard.unlink()
  with pytest.raises(InputError, match="missing"):
    records.read_manifest(folder)


def test_a_file_system_that_is_not_known_is_told():
  with pytest.raises(InputError, match="hdfs://x/y: this file system"):
    records.read_manifest("hdfs://x/y")


@pytest.mark.parametrize("text", ["{", "{}", '{"format_version": 99}', "[]"])
def test_damaged_manifest(tmp_path, text):
  _write(tmp_path, _records(1), num_shards=1)
  (tmp_path / "manifest.json").write_text(text)
  with pytest.raises(InputError, match="manifest.json"):
    records.read_manifest(str(tmp_path))


def test_verify_finds_a_flipped_byte(tmp_path):
  folder = _write(tmp_path, _records(4), num_shards=1)
  shard = tmp_path / "train-00000-of-00001.tfrecord"
  data = bytearray(shard.read_bytes())
  data[20] ^= 1
  shard.write_bytes(data)
  with pytest.raises(InputError, match="SHA-256"):
    manifest.verify(records.read_manifest(folder))


def test_same_records_give_the_same_bytes(tmp_path):
  items = _records(5, source=b"s", license=b"l")
  for name in ("a", "b"):
    _write(tmp_path / name, items, num_shards=2)
  for path in (tmp_path / "a").iterdir():
    assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("index", ["kept", "missing", "damaged"])
def test_table_reads_at_random_over_folders(tmp_path, index):
  items = _records(7)
  folders = [
    _write(tmp_path / "a", items[:4], shard_size=3),
    _write(tmp_path / "b", items[4:], shard_size=2),
  ]
  for path in tmp_path.rglob("*.index"):
    if index == "missing":
      path.unlink()
    elif index == "damaged":
      path.write_bytes(np.arange(len(path.read_bytes()) // 8).tobytes())
  table = RecordTable(folders)
  assert len(table) == 7
  for i in (6, 0, 3, 4, 2):
    assert table[i] == items[i]
  assert table.where(5).endswith("b/train-00000-of-00002.tfrecord")
  assert table.where(5).startswith("record 1 ")


def test_table_reports_a_damaged_record(tmp_path):
  folder = _write(tmp_path, _records(3), num_shards=1)
  shard = tmp_path / "train-00000-of-00001.tfrecord"
  data = bytearray(shard.read_bytes())
  data[0] ^= 1
  shard.write_bytes(data)
  table = RecordTable([folder])
  with pytest.raises(ValueError, match="record 0"):
    table[0]
  assert table[1].key == b"k1"


def test_encode_png_keeps_label_values():
  import io

  from PIL import Image

  labels = np.array([[0, 7], [255, 3]], np.uint8)
  image = Image.open(io.BytesIO(records.encode_png(labels)))
  assert image.mode == "L"
  np.testing.assert_array_equal(np.asarray(image), labels)
  with pytest.raises(ValueError, match="uint8"):
    records.encode_png(labels.astype(np.int32))


def test_manifest_is_plain_json(tmp_path):
  _write(tmp_path, _records(2), num_shards=1)
  raw = json.loads((tmp_path / "manifest.json").read_text())
  assert raw["format_version"] == manifest.FORMAT_VERSION
  assert set(raw["shards"][0]) == {"file", "count", "bytes", "sha256"}


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path):
  items = [records.Record(b"%d" % i, b"png", (b"a",)) for i in range(3)]
  folder = str(tmp_path / "a")
  with records.RecordWriter(folder, num_shards=1) as writer:
    writer.write(items[0])
    with pytest.raises(Unavailable, match="in use by another run .process"):
      with records.RecordWriter(folder, num_shards=1):
        raise AssertionError
    for item in items[1:]:
      writer.write(item)
  assert list(records.read(folder)) == items
  assert not list((tmp_path / "a").glob("lease*"))
