"""The embedded data set: drawn pictures of things on grounds, with captions.

A scene names two to four nouns: one or two of `GROUNDS` and one to three of
`THINGS`. Captions alone are for training; the exact label maps are for
evaluation (and for the supervised task). Three kinds of picture:

  plain     each thing leans towards a hue and a texture of its own
  hard      hue, brightness and texture of things are drawn at random, so that
            the outline is all that tells one from another
  held_out  plain, with a pair of nouns that never meets in any other kind

The data set is frozen: `fingerprint()` is tested, and a change of any pixel or
word makes it another data set. This module needs NumPy and Pillow only.
"""

import argparse
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sseg_jax import errors, files
from sseg_jax.data import conversion
from sseg_jax.data.drawing import (
  CLASS_NAMES,
  GROUNDS,
  THINGS,
  draw_grounds,
  draw_things,
  light,
)

VERSION = 1
# Fewer pictures are drawn here, sooner than processes for them would start.
_FEW = 1000
_AT_ONCE = 64  # that a process is given
# Pairs of nouns that occur only in the kind "held_out": twelve pairs of a thing
# and a ground, and six pairs of things.
HELD_OUT = frozenset(
  [(THINGS[i], GROUNDS[(5 * i + 2) % 6]) for i in range(12)]
  + [(THINGS[i], THINGS[i + 6]) for i in range(6)]
)
KINDS = ("plain", "hard", "held_out")
SPLITS = ("train", "val")

PHRASES = (
  "{things} on {ground}",
  "a photo of {things} on {ground}",
  "{ground} with {things}",
  "a picture of {things} lying on {ground}",
  "there is {things} on the {ground}",
  "{things} against a background of {ground}",
  "someone left {things} on the {ground}",
  "a close view of {things} over {ground}",
  "{ground} and {things}",
  "the {ground} holds {things}",
  "an image showing {ground} and on it {things}",
  "we found {things} on some {ground}",
  "{things}, with {ground} behind",
  "{things} surrounded by {ground}",
  "a scene of {ground} where you can see {things}",
  "look at {things} here on the {ground}",
  "lots of {ground} around {things}",
  "{things} dropped onto {ground}",
  "a snapshot: {things}, {ground}",
  "on the {ground} there is {things}",
  "nothing but {ground} and {things}",
  "{things} resting on {ground} in the light",
)


@dataclasses.dataclass(frozen=True)
class Scene:
  """One picture.

  Attributes:
    image: uint8 [96, 96, 3].
    labels: uint8 [96, 96], an index of `CLASS_NAMES`; no pixel is unlabelled.
    caption: names every noun of the picture once.
    nouns: the classes that were drawn, things first.
  """

  image: np.ndarray
  labels: np.ndarray
  caption: str
  nouns: tuple[str, ...]


def render(kind: str, split: str, index: int) -> Scene:
  """Draws one scene; equal arguments give an equal scene.

  Args:
    kind: of `KINDS`.
    split: "train" or "val".
    index: which picture of that kind and split; any non-negative number.

  Raises:
    InputError: on an unknown kind or split.
  """
  if kind not in KINDS or split not in SPLITS:
    raise errors.InputError(
      f"shapes: no kind {kind!r} in split {split!r}; kinds are"
      f" {', '.join(KINDS)}, splits {', '.join(SPLITS)}"
    )
  rng = np.random.Generator(
    np.random.PCG64([VERSION, KINDS.index(kind), SPLITS.index(split), index])
  )
  things, grounds = _choose_nouns(rng, held_out=kind == "held_out")
  canvas, labels, ground_color = draw_grounds(rng, grounds)
  draw_things(rng, canvas, labels, things, ground_color, hard=kind == "hard")
  light(rng, canvas)
  image = np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)
  return Scene(image, labels, _caption(rng, things, grounds), things + grounds)


def fingerprint(count: int = 16) -> str:
  """Returns the SHA-256 of the first `count` scenes of every kind and split."""
  digest = hashlib.sha256()
  for kind in KINDS:
    for split in SPLITS:
      for index in range(count):
        scene = render(kind, split, index)
        digest.update(scene.image.tobytes())
        digest.update(scene.labels.tobytes())
        digest.update(scene.caption.encode())
  return digest.hexdigest()


def _choose_nouns(
  rng: np.random.Generator, held_out: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  while True:
    num_grounds = 2 if rng.random() < 0.3 else 1
    num_things = int(rng.integers(1, 5 - num_grounds))
    things = tuple(rng.permutation(THINGS)[:num_things].tolist())
    grounds = tuple(rng.permutation(GROUNDS)[:num_grounds].tolist())
    nouns = things + grounds
    clash = any((a, b) in HELD_OUT for a in nouns for b in nouns)
    if clash == held_out:
      return things, grounds


def _caption(
  rng: np.random.Generator, things: tuple[str, ...], grounds: tuple[str, ...]
) -> str:
  phrase = PHRASES[rng.integers(len(PHRASES))]
  named = [("an " if t[0] in "aeiou" else "a ") + t for t in things]
  named = [named[i] for i in rng.permutation(len(named))]
  listed = named[-1]
  if len(named) > 1:
    listed = ", ".join(named[:-1]) + " and " + named[-1]
  return phrase.format(things=listed, ground=" and ".join(grounds))


def png(array: np.ndarray) -> bytes:
  """Encodes uint8 [h,w,3] or [h,w], without loss."""
  stream = io.BytesIO()
  Image.fromarray(array).save(stream, "PNG", compress_level=1)
  return stream.getvalue()


def is_hard(index: int, hard_share: float) -> bool:
  """Tells whether training picture `index` is of the hard kind.

  The hard ones are spread evenly, `hard_share` of all.
  """
  return int((index + 1) * hard_share) > int(index * hard_share)


def write(
  folder: str | os.PathLike,
  *,
  train_size: int,
  eval_size: int,
  hard_share: float,
  workers: int | None = None,
) -> dict[str, str]:
  """Writes the data set: records to train on, folders to evaluate on.

  Args:
    folder: made where missing. What it already holds is kept where it was
      written with the same arguments, and replaced otherwise.
    train_size: training pictures, plain and hard together.
    eval_size: pictures of each held-out kind.
    hard_share: of the training pictures, in 0..1.
    workers: processes; by default as many as cores, and none for few pictures.

  Returns:
    Folders by name: "train" and "val" hold records, "plain", "hard" and
    "held_out" are benchmarks (images, label maps, class names).

  Raises:
    InputError: on sizes or shares that make no sense.
  """
  from sseg_jax.data import records

  if train_size < 1 or eval_size < 1 or not 0 <= hard_share <= 1:
    raise errors.InputError(
      f"data.shapes: train_size={train_size}, eval_size={eval_size} and"
      f" hard_share={hard_share}: sizes are at least 1, the share is in 0..1"
    )
  folder = files.path(str(folder))
  names = {n: str(folder / n) for n in ("train", "val", *KINDS)}
  request = {
    "version": VERSION,
    "train_size": train_size,
    "eval_size": eval_size,
    "hard_share": hard_share,
  }
  done = folder / "shapes.json"
  if files.read_json(done) == request:
    return names
  done.unlink(missing_ok=True)
  folder.mkdir(parents=True, exist_ok=True)

  train = [
    ("hard" if is_hard(i, hard_share) else "plain", "train", i)
    for i in range(train_size)
  ]
  # Held-out pairs for retrieval: the evaluation pictures with their captions.
  val = [
    (kind, "val", i) for i in range(eval_size) for kind in ("plain", "hard")
  ]
  drawn = train_size + len(val) + len(KINDS) * eval_size
  if workers is None:
    workers = 0 if drawn < _FEW else os.cpu_count() or 1
  with conversion.processes(workers) as run:
    for split, jobs in (("train", train), ("val", val)):
      with records.RecordWriter(
        names[split], shard_size=2048, split=split, overwrite=True
      ) as writer:
        writer.info.update(generator="shapes", **request)
        made = _draw(run, jobs)
        for job, (image, labels, caption) in zip(jobs, made, strict=True):
          writer.write(
            records.Record(
              key="-".join(map(str, job)).encode(),
              image=image,
              captions=(caption.encode(),),
              labels=labels,
            )
          )
    for kind in KINDS:
      jobs = [(kind, "val", i) for i in range(eval_size)]
      _write_benchmark(Path(names[kind]), _draw(run, jobs))
  # Written last: if writing is interrupted, the next call starts again.
  files.write_text(done, json.dumps(request))
  return names


def _draw(run: conversion.Run, jobs: Sequence[tuple]) -> Iterator[tuple]:
  """Yields picture, labels and caption of each job, arguments of `render`."""
  some = ((jobs[i : i + _AT_ONCE],) for i in range(0, len(jobs), _AT_ONCE))
  return itertools.chain.from_iterable(run(_encoded, some))


def _encoded(jobs: Sequence[tuple]) -> list[tuple[bytes, bytes, str]]:
  scenes = [render(*job) for job in jobs]
  return [(png(s.image), png(s.labels), s.caption) for s in scenes]


def _write_benchmark(
  folder: Path, scenes: Iterator[tuple[bytes, bytes, str]]
) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  (folder / "images").mkdir(parents=True)
  (folder / "labels").mkdir()
  (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
  for i, (image, labels, _) in enumerate(scenes):
    (folder / "images" / f"{i:05d}.png").write_bytes(image)
    (folder / "labels" / f"{i:05d}.png").write_bytes(labels)


def write_things(
  folder: str | os.PathLike, *, train_size: int = 32, val_size: int = 32
) -> Path:
  """Writes plain pictures as a benchmark in which grounds are background.

  Its classes are `THINGS`. It has the splits "train", on which a background
  threshold can be chosen, and "val". See `benchmarks.folder.Folder`.

  Args:
    folder: made where missing; files of the same name are replaced.
    train_size: number of pictures of "train".
    val_size: number of pictures of "val".

  Returns:
    The folder.
  """
  root = files.path(str(folder))
  sizes = {"train": train_size, "val": val_size}
  for split in SPLITS:
    for part in ("images", "labels"):
      (root / part / split).mkdir(parents=True, exist_ok=True)
    for i in range(sizes[split]):
      scene, name = render("plain", split, i), f"{split}/{i:05d}.png"
      numbers = scene.labels + np.uint8(1)
      things = np.where(numbers <= len(THINGS), numbers, np.uint8(0))
      (root / "images" / name).write_bytes(png(scene.image))
      (root / "labels" / name).write_bytes(png(things))
  names = ("background", *THINGS)
  (root / "classes.txt").write_text("\n".join(names) + "\n")
  return root


@errors.reported
def main(argv: Sequence[str] | None = None) -> int:
  """Writes the data set from the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.data.shapes",
    description="Writes the embedded data set: records and benchmarks.",
  )
  parser.add_argument("--out", required=True, help="folder to write")
  parser.add_argument("--train_size", type=int, default=16_384)
  parser.add_argument("--eval_size", type=int, default=256)
  parser.add_argument("--hard_share", type=float, default=0.5)
  parser.add_argument("--workers", type=int, help="default: number of cores")
  parser.add_argument("--json", action="store_true", help="folders as JSON")
  args = parser.parse_args(argv)
  names = write(
    args.out,
    train_size=args.train_size,
    eval_size=args.eval_size,
    hard_share=args.hard_share,
    workers=args.workers,
  )
  if args.json:
    print(json.dumps(names))
  else:
    for name, path in names.items():
      print(f"{name}: {path}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
