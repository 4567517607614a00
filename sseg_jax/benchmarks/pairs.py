"""Pairs the label maps of a folder with the pictures of another."""

import dataclasses
from pathlib import Path

from sseg_jax.benchmarks import alignment, lookup
from sseg_jax.errors import InputError
from sseg_jax.images import reader


@dataclasses.dataclass(frozen=True)
class Pair:
  """One picture and its label map.

  Attributes:
    id: name of the label map without its ending.
    picture: file of the picture.
    labels: file of the label map.
  """

  id: str
  picture: Path
  labels: Path


def maps_in(folder: Path, suffix: str) -> list[Path]:
  """Returns label maps that end with `suffix`, with those of sub-folders.

  Where the suffix is only ".png", names with "TrainIds" are left out: these
  are other maps of the same pictures.
  """
  return sorted(
    path
    for path in folder.rglob(f"*{suffix}")
    if not path.name.startswith(".")
    and (suffix != ".png" or "TrainIds" not in path.name)
  )


def pair(
  images: Path, folder: Path, maps: list[Path], suffix: str, ending: str = ""
) -> list[Pair]:
  """Finds the picture of each label map, and compares their sizes.

  Pictures without a label map are left out, and told in one line.

  Args:
    images: folder of pictures, with the same sub-folders as `folder`.
    folder: holds the label maps.
    maps: what `maps_in` found there.
    suffix: what their names end with.
    ending: what the names of pictures have in its place, before ".jpg".

  Returns:
    One pair for each label map. InputError names a missing picture, and labels
    that do not fit their picture.
  """
  listed: dict[Path, lookup.Pictures] = {}
  pairs = []
  for path in maps:
    inside = images / path.parent.relative_to(folder)
    pictures = listed.setdefault(inside, lookup.Pictures(inside))
    stem = path.name.removesuffix(suffix)
    picture = pictures.find(stem + ending)
    if picture is None:
      raise InputError(
        f"{inside}: the annotated picture '{stem}{ending}.jpg' is missing;"
        " complete the folder or shorten the annotations"
      )
    pairs.append(Pair(stem, picture, path))
  alignment.check_pairs((item.picture, item.labels) for item in pairs)
  known = {item.picture for item in pairs}
  bare = sorted(
    path.name
    for inside in listed
    for path in inside.iterdir()
    if reader.has_suffix(path) and path not in known
  )
  if bare:
    lookup.tell(
      f"{images}: {len(bare)} pictures are left out, since {folder} has no"
      f" label maps of them: {lookup.named(bare)}"
    )
  return pairs
