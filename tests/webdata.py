"""Small sources as tools of the web write them, written out plainly."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def jpeg(number, size=(40, 32), quality=90):
  """A picture of blocks that no other number gives."""
  rng = np.random.default_rng(number)
  blocks = rng.integers(0, 255, (6, 7, 3), np.uint8)
  out = io.BytesIO()
  image = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
  image.save(out, "JPEG", quality=quality)
  return out.getvalue()


def write_tar(path, members, mode="w"):
  """Writes (name, bytes) as they come."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, mode) as tar:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path


def pair(number, caption=None):
  """The two members of a sample of webdataset."""
  text = f"picture {number}" if caption is None else caption
  return [
    (f"{number:05d}.jpg", jpeg(number)),
    (f"{number:05d}.txt", text.encode()),
  ]


# What img2dataset makes of rows, in each of its formats. The real tool's output
# has been compared; see test_img2dataset.py.
FAILURES = {
  "HTTP Error 404: Not Found": "http_404",
  "The read operation timed out": "timed_out",
  "<urlopen error [Errno -2] Name or service not known>": "unknown_host",
  "<urlopen error [Errno 111] Connection refused>": "connection_refused",
  "Image decoding error": "not_a_picture",
}


def rows(first, count):
  """Metadata of `count` rows of a shard; every third one has failed."""
  messages = list(FAILURES)
  made = []
  for i in range(first, first + count):
    failed = i % 3 == 2
    message = messages[i // 3 % len(messages)] if failed else None
    status = (
      "failed_to_resize"
      if "Image" in str(message)
      else ("failed_to_download" if failed else "success")
    )
    made.append(
      {
        "url": f"http://x/{i}.jpg",
        "caption": f"picture {i}",
        "key": f"{i:09d}",
        "status": status,
        "error_message": message,
        "width": None if failed else 40,
      }
    )
  return made


def img2dataset(folder, form, shards=2, size=9):
  """Writes shards of a format: files, webdataset, parquet or tfrecord."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  folder.mkdir(parents=True)
  for shard in range(shards):
    found = rows(shard * 10000, size)
    good = [row for row in found if row["status"] == "success"]
    name = f"{shard:05d}"
    pictures = {row["key"]: jpeg(int(row["key"])) for row in good}
    if form == "webdataset":
      write_tar(
        folder / f"{name}.tar",
        [
          member
          for row in good
          for member in (
            (f"{row['key']}.jpg", pictures[row["key"]]),
            (f"{row['key']}.json", json.dumps(row).encode()),
            (f"{row['key']}.txt", row["caption"].encode()),
          )
        ],
      )
    elif form == "files":
      (folder / name).mkdir()
      for row in good:
        stem = folder / name / row["key"]
        stem.with_suffix(".jpg").write_bytes(pictures[row["key"]])
        stem.with_suffix(".txt").write_text(row["caption"])
        stem.with_suffix(".json").write_text(json.dumps(row))
    elif form == "tfrecord":
      _tfrecord(folder / f"{name}.tfrecord", good, pictures)
    table = [dict(row) for row in found]
    if form == "parquet":
      for row in table:
        row["jpg"] = pictures.get(row["key"])
        row["txt"] = row["caption"]
    pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    counts: dict[str, int] = {}
    for row in found:
      status = row["error_message"] or "success"
      counts[status] = counts.get(status, 0) + 1
    stats = {
      "count": len(found),
      "successes": len(good),
      "status_dict": counts,
    }
    (folder / f"{name}_stats.json").write_text(json.dumps(stats))
  return folder


def _tfrecord(path, good, pictures):
  import tensorflow as tf

  def feature(value):
    if isinstance(value, int):
      return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    data = value if isinstance(value, bytes) else (value or "").encode()
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))

  with tf.io.TFRecordWriter(str(path)) as writer:
    for row in good:
      fields = {"jpg": pictures[row["key"]], "txt": row["caption"], **row}
      example = tf.train.Example(
        features=tf.train.Features(
          feature={name: feature(value) for name, value in fields.items()}
        )
      )
      writer.write(example.SerializeToString())
