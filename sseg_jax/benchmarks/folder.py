"""Any folder of pictures and label maps as a benchmark."""

import os
from pathlib import Path

from sseg_jax import pictures, prompts
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError


class Folder:
  """`images/*.{png,jpg,jpeg,webp}`, `labels/<same stem>.png`, `classes.txt`.

  `classes.txt` has one name a line. If its first line is `background`, label 0
  is background and the classes follow from 1; else they start at 0.
  """

  def __init__(self, root: str | os.PathLike, *, name: str | None = None):
    """Lists the pictures; InputError names what is missing."""
    self.root = Path(root)
    for part in ("images", "labels"):
      if not (self.root / part).is_dir():
        raise InputError(
          f"{self.root / part}: no such folder; a benchmark folder holds"
          " images/, labels/ and classes.txt"
        )
    names = prompts.read_class_list(self.root / "classes.txt")
    self.has_background = names[0] == "background"
    self.class_names = names[1:] if self.has_background else names
    if not self.class_names:
      raise InputError(
        f"{self.root / 'classes.txt'}: lists background alone; add the classes"
      )
    self.name = name or self.root.resolve().name
    self._images = sorted(
      path
      for path in (self.root / "images").iterdir()
      if pictures.has_suffix(path)
    )
    if not self._images:
      raise InputError(
        f"{self.root / 'images'}: no pictures; put PNG or JPEG files there"
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
    return self.root / "labels" / f"{image.stem}.png"
