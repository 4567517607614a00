"""Any folder of pictures and label maps as a benchmark."""

import os
from pathlib import Path

from sseg_jax import prompts
from sseg_jax.benchmarks import alignment, lookup
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError
from sseg_jax.images import reader

# Sub-folders that are taken for splits, and what else they may be called.
_SPLITS = {
  "train": ("train", "training"),
  "val": ("val", "validation", "valid"),
  "test": ("test", "testing"),
}
_MAPS = (".png", ".tif", ".tiff", ".bmp")  # what label maps may end with
_MAX_LABELS = 65535  # label maps have 16 bits, and one value is ignored


class Folder:
  """`images/*`, `labels/<same stem>.png`, `classes.txt`.

  Pictures are all that end with one of `images.reader.SUFFIXES`; those in
  sub-folders of `images/` have their label maps in the same sub-folders of
  `labels/`.

  `classes.txt` has one name a line. If its first line is `background` (or `bg`,
  in any capitals), label 0 is background and the classes follow from 1; else
  they start at 0. Label 255 is ignored. With more than 255 labels, background
  counted, 255 is one of them: then 65535 is ignored, and label maps that have
  numbers above 255 are PNGs of 16 bits.

  A folder may have splits: `images/train` with `labels/train`, or
  `train/images` with `train/labels`. `classes.txt` lies in the folder itself,
  or, in the second form, in that of the split.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    name: str | None = None,
    split: str = "val",
  ):
    """Lists the pictures, and compares their sizes with the label maps'.

    Files that are no pictures, and label maps without a picture, are left out
    and told in one line.

    Args:
      root: the folder.
      name: by default the folder's own.
      split: "train", "val" or the name of another sub-folder. A folder without
        splits is opened as a whole for "val", the default, has None as its
        `split`, and is refused for anything else.

    Raises:
      InputError: names what is missing or does not fit.
    """
    self.root = Path(root)
    self._pictures, self._maps, self.split = _parts(self.root, split)
    for part in (self._pictures, self._maps):
      if not part.is_dir():
        raise InputError(
          f"{part}: no such folder; a benchmark folder holds images/, labels/"
          " and classes.txt"
        )
    listing = self.root / "classes.txt"
    if not listing.is_file() and self._pictures.name == "images":
      listing = self._pictures.parent / "classes.txt"
    names = prompts.read_class_list(listing)
    self.class_names, self.has_background = prompts.without_background(
      names, listing
    )
    if len(names) > _MAX_LABELS:
      raise InputError(
        f"{listing}: {len(names)} names do not fit label maps of 16 bits; use"
        f" at most {_MAX_LABELS}"
      )
    self.name = name or self.root.resolve().name
    # Stem, with its sub-folders -> picture and label map.
    self._pairs = _pairs(self._pictures, self._maps)
    self._keys = sorted(self._pairs)
    alignment.check_pairs(self._pairs[key] for key in self._keys)

  def __len__(self) -> int:
    """Number of pictures."""
    return len(self._keys)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and its labels; InputError names a wrong file."""
    key = self._keys[index]
    picture, labels_path = self._pairs[key]
    image = reader.read_image(picture)
    labels = alignment.read_labels(
      labels_path,
      picture,
      max_label=len(self.class_names) - (not self.has_background),
      size=image.shape[:2],
    )
    return Sample(key, image, labels)


def _pairs(images: Path, maps: Path) -> dict[str, tuple[Path, Path]]:
  """Pictures and their label maps, by stem; tells what else there is."""
  found: dict[str, Path] = {}
  others = []
  for path in lookup.walk(images):
    if not reader.has_suffix(path):
      others.append(path.relative_to(images))
      continue
    other = found.setdefault(_key(path, images), path)
    if other != path:
      raise InputError(
        f"{path}: shares its label map with {other.name}; rename one"
      )
  if not found:
    raise InputError(
      f"{images}: no pictures; put PNG or JPEG files there"
      + (f" (there are {lookup.named(others)})" if others else "")
    )
  labels: dict[str, Path] = {}
  for path in lookup.walk(maps):
    if path.suffix.lower() in _MAPS:
      other = labels.setdefault(_key(path, maps), path)
      if other != path:
        raise InputError(
          f"{path}: is of the same picture as {other.name}; remove one"
        )
  bare = [key for key in found if key not in labels]
  if bare:
    first = found[bare[0]]
    more = f" ({len(bare) - 1} more like this)" if bare[1:] else ""
    raise InputError(
      f"{maps / bare[0]}.png: the label map of {first.name} is missing; add it"
      f" or remove the picture{more}"
    )
  if others:
    lookup.tell(
      f"{images}: {len(others)} files do not end as pictures do and are left"
      f" out: {lookup.named(others)}"
    )
  alone = [path.name for key, path in labels.items() if key not in found]
  if alone:
    lookup.tell(
      f"{maps}: {len(alone)} label maps have no picture in {images} and are"
      f" left out: {lookup.named(alone)}"
    )
  return {key: (path, labels[key]) for key, path in found.items()}


def _key(path: Path, folder: Path) -> str:
  return lookup.normal(path.relative_to(folder).with_suffix("").as_posix())


def _parts(root: Path, split: str) -> tuple[Path, Path, str | None]:
  """Folders of pictures and of label maps, and the split that they hold."""
  images, labels = root / "images", root / "labels"
  for name in _SPLITS.get(split, (split,)):
    if (images / name).is_dir():
      # Either all pictures are in splits or none, else some would be lost.
      loose = [p.name for p in images.iterdir() if reader.has_suffix(p)]
      if loose:
        raise InputError(
          f"{images}: has the sub-folder {name} and pictures beside it"
          f" ({lookup.named(loose)}); put these into a sub-folder as well"
        )
      return images / name, labels / name, split
    if (root / name / "images").is_dir():
      return root / name / "images", root / name / "labels", split
  known = [
    name
    for names in _SPLITS.values()
    for name in names
    if (images / name).is_dir() or (root / name / "images").is_dir()
  ]
  if known:
    raise InputError(
      f"{root}: has no split={split!r}; there are {', '.join(known)}"
    )
  if split != "val":
    raise InputError(
      f"{root}: has no split={split!r}, since its pictures are not split;"
      f" put them into images/{split} and labels/{split}, or leave split out"
    )
  return images, labels, None
