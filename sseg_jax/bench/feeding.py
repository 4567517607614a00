"""Training input: batches of cut pictures and tokens, from stored JPEGs."""

import atexit
import functools
import importlib.util
import io
import itertools
import math
import os
import pathlib
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax import default_config
from sseg_jax.bench import ingest
from sseg_jax.bench.timing import Case, Way
from sseg_jax.tokenizer import Tokenizer

_THREADS = 2  # of ours; the DataLoader has as many processes
_SCALE, _RATIO, _FLIP = (0.4, 1.0), (3 / 4, 4 / 3), 0.5
_CONTEXT = 77


def train_input(small: bool) -> Case:
  """Decode, random resized crop, flip and tokenise, in two threads.

  Against a DataLoader of torch with two processes on the same pictures, which
  does with Pillow what torchvision's transforms do; and against TensorFlow's
  decoding of as large boxes alone, with neither resize nor captions.
  """
  from sseg_jax.data import records, reencode

  place = pathlib.Path(tempfile.mkdtemp(prefix="sseg_jax_bench_"))
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  different, count, batch, size = (
    (4, 16, 8, 32) if small else (24, 512, 64, 224)
  )
  stored = [
    reencode.to_jpeg(
      ingest.photo(i, (160, 120) if small else (1024, 768)),
      short_side=64 if small else 512,
    )
    for i in range(different)
  ]
  captions = [
    f"a photo of number {i} beside a tree, taken at the sea in summer"
    for i in range(count)
  ]
  paths = [place / f"{i:04d}.jpg" for i in range(count)]
  with records.RecordWriter(os.fspath(place / "records"), num_shards=2) as out:
    for i, path in enumerate(paths):
      path.write_bytes(stored[i % different])
      caption = captions[i].encode()
      out.write(records.Record(b"%d" % i, stored[i % different], (caption,)))
  ours = _ours(place / "records", batch, size)
  ways = {"sseg_jax": _taker(ours, count // batch)}
  agreement = "torch was left out: it is not installed"
  files = Files([*map(os.fspath, paths)], captions, size)
  if importlib.util.find_spec("torch"):
    theirs = _loader(files, batch)
    ways["torch DataLoader, two processes"] = _taker(theirs, count // batch)
    agreement = _agreement(files, stored[0], size)
  bare = _bare(stored, count, batch)
  ways["decode_and_crop_jpeg alone"] = _taker(bare, count // batch)
  bytes_each = sum(map(len, stored)) // different
  return Case(
    f"{count} JPEGs of short side {64 if small else 512} ({bytes_each} bytes"
    f" each) to batches of {batch} of {size} px, two threads or processes",
    ways,
    agreement,
    count,
  )


def _taker(batches: Iterator, number: int) -> Way:
  """Returns a way that takes `number` batches."""
  return lambda: [next(batches) for _ in range(number)] and None


def _ours(folder: pathlib.Path, batch: int, size: int) -> Iterator:
  from sseg_jax.data import pipeline

  config = default_config.get_config()
  config.batch_size, config.image_size = batch, size
  config.data.lanes = 8
  config.data.threads = _THREADS
  config.data.crop_scale, config.data.crop_ratio = _SCALE, _RATIO
  config.data.flip, config.text.context_length = _FLIP, _CONTEXT
  return pipeline.train_batches(config, folders=[os.fspath(folder)])


class Files:
  """A data set of torch: pictures in files, and their captions.

  Args:
    paths: of the pictures.
    captions: of each.
    size: side of the result in pixels.
  """

  def __init__(self, paths: list[str], captions: list[str], size: int):
    self._paths, self._captions, self._size = paths, captions, size

  def __len__(self) -> int:
    """Number of pictures."""
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns picture uint8 [size,size,3] and tokens int32 [l]."""
    data = pathlib.Path(self._paths[index]).read_bytes()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    flip = random.random() < _FLIP
    tokens = Tokenizer(_CONTEXT)([self._captions[index]])
    return cut(image, _box(image.size), flip, self._size), tokens[0]


def cut(
  image: Image.Image, box: tuple[int, int, int, int], flip: bool, size: int
) -> np.ndarray:
  """Cuts, resizes and mirrors a picture, as torchvision does with Pillow's."""
  made = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
  if flip:
    made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return np.array(made)


def _box(size: tuple[int, int]) -> tuple[int, int, int, int]:
  """Draws the box of torchvision's RandomResizedCrop: left, top, right, end."""
  width, height = size
  for _ in range(10):
    area = width * height * random.uniform(*_SCALE)
    ratio = math.exp(random.uniform(*map(math.log, _RATIO)))
    w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      left, top = random.randint(0, width - w), random.randint(0, height - h)
      return left, top, left + w, top + h
  return 0, 0, width, height


def _endless(count: int, batch: int) -> Iterator[list[int]]:
  for start in itertools.count(0, batch):
    yield [(start + i) % count for i in range(batch)]


def _loader(files: Files, batch: int) -> Iterator:
  from torch.utils import data

  with warnings.catch_warnings():
    # It warns where there are fewer cores.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    how: dict[str, Any] = dict(
      dataset=files,
      batch_sampler=_endless(len(files), batch),
      num_workers=_THREADS,
      # A fork would copy the locks of TensorFlow's and JAX's threads.
      multiprocessing_context="spawn",
    )
    return iter(data.DataLoader(**how))


def _bare(stored: list[bytes], count: int, batch: int) -> Iterator:
  from sseg_jax.data import decode, import_tensorflow

  tf = import_tensorflow()
  boxes = []
  for i in range(count):
    with Image.open(io.BytesIO(stored[i % len(stored)])) as image:
      left, top, right, end = _box(image.size)
    boxes.append((top, left, end - top, right - left))
  ds = tf.data.Dataset.from_tensor_slices(
    (tf.constant(stored), tf.range(len(stored)))
  ).repeat()
  ds = tf.data.Dataset.zip(
    ds, tf.data.Dataset.from_tensor_slices(boxes).repeat()
  )

  def one(picture, box):
    made = tf.io.decode_and_crop_jpeg(
      picture[0], box, 3, dct_method=decode.METHOD
    )
    return tf.shape(made)

  ds = ds.map(one, num_parallel_calls=_THREADS, deterministic=True)
  ds = ds.batch(batch).prefetch(2).with_options(decode.options(_THREADS))
  return iter(ds)


def _agreement(files: Files, data: bytes, size: int) -> str:
  """Returns how far the pictures of one box and its tokens differ."""
  from sseg_jax.data import augment, decode, import_tensorflow

  tf = import_tensorflow()
  image = Image.open(io.BytesIO(data)).convert("RGB")
  left, top = image.width // 8, image.height // 7
  box = (top, left, image.height - 2 * top, image.width - 2 * left)
  draw: Callable = functools.partial(
    augment.Crop, tf.constant(box, tf.float32), flip=tf.constant(True)
  )
  part, crop = decode.box(tf.constant(data), draw)
  ours = augment.to_uint8(augment.resize_box(part, crop, size)).numpy()
  theirs = cut(image, (left, top, left + box[3], top + box[2]), True, size)
  difference = np.abs(ours.astype(int) - theirs)
  return (
    f"pictures of the same box differ by {difference.max()} of 255 levels at"
    f" most, {difference.mean():.2f} on average; both use the same tokenizer"
  )
