"""Any folder of pictures and label maps as a benchmark."""

import os
from pathlib import Path

from sseg_jax import pictures, prompts
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError


# Sub-folders that are taken for splits, and what else they may be called.
_SPLITS = {
  "train": ("train", "training"),
  "val": ("val", "validation", "valid"),
  "test": ("test", "testing"),
}


class Folder:
  """`images/*.{png,jpg,jpeg,webp}`, `labels/<same stem>.png`, `classes.txt`.

  `classes.txt` has one name a line. If its first line is `background`, label 0
  is background and the classes follow from 1; else they start at 0.

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
    """Lists the pictures; InputError names what is missing.

    Args:
      root: the folder.
      name: by default the folder's own.
      split: "train", "val" or the name of another sub-folder. A folder without
        splits is opened as a whole for "val", the default, has None as its
        `split`, and is refused for anything else.
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
    self.has_background = names[0] == "background"
    self.class_names = names[1:] if self.has_background else names
    if not self.class_names:
      raise InputError(f"{listing}: lists background alone; add the classes")
    self.name = name or self.root.resolve().name
    self._images = sorted(
      path for path in self._pictures.iterdir() if pictures.has_suffix(path)
    )
    if not self._images:
      raise InputError(
        f"{self._pictures}: no pictures; put PNG or JPEG files there"
      )
    stems: dict[str, Path] = {}
    for path in self._images:
      other = stems.setdefault(path.stem, path)
      if other != path:
        raise InputError(
          f"{path}: shares its label map with {other.name}; rename one"
        )
      if not self._label_path(path).is_file():
        raise InputError(
          f"{self._label_path(path)}: the label map of {path.name} is missing;"
          " add it or remove the picture"
        )

  def __len__(self) -> int:
    """Number of pictures."""
    return len(self._images)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and its labels; InputError names a wrong file."""
    path = self._images[index]
    image = pictures.read_image(path)
    labels = pictures.read_labels(
      self._label_path(path),
      max_label=len(self.class_names) - (not self.has_background),
      size=image.shape[:2],
    )
    return Sample(path.stem, image, labels)

  def _label_path(self, image: Path) -> Path:
    return self._maps / f"{image.stem}.png"


def _parts(root: Path, split: str) -> tuple[Path, Path, str | None]:
  """Folders of pictures and of label maps, and the split that they hold."""
  images, labels = root / "images", root / "labels"
  for name in _SPLITS.get(split, (split,)):
    if (images / name).is_dir():
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
