"""Pascal VOC 2012 and Pascal Context, with and without background."""

import dataclasses
import os
from pathlib import Path

from sseg_jax.benchmarks import alignment, lookup
from sseg_jax.benchmarks.sample import Sample, without_background
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.prompts import CLASS_NAMES


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Folders of one data set below VOCdevkit (mmsegmentation's convention)."""

  year: str
  labels: str
  lists: str
  names: str
  has_background: bool


_VOC = _Layout(
  "VOC2012", "SegmentationClass", "ImageSets/Segmentation", "voc", True
)
# Context's converted maps have 0 for everything outside the 59 classes.
_CONTEXT = _Layout(
  "VOC2010",
  "SegmentationClassContext",
  "ImageSets/SegmentationContext",
  "context",
  True,
)
_LAYOUTS = {
  "voc": _VOC,
  "voc20": dataclasses.replace(_VOC, has_background=False),
  "context": _CONTEXT,
  "context59": dataclasses.replace(_CONTEXT, has_background=False),
}


@dataclasses.dataclass(frozen=True)
class _Item:
  """One line of a list."""

  id: str
  picture: Path
  labels: Path


class Pascal:
  """A Pascal data set in its official layout."""

  def __init__(
    self, root: str | os.PathLike, *, kind: str = "voc", split: str = "val"
  ):
    """Reads the list of the split.

    A line is the name of a picture, with or without suffix or folders. A second
    column is the path of its label map, as DeepLab's lists have it, or a mark
    of VOC's lists of one class (1, 0, -1), which makes no difference. Paths
    start at the year's folder, or at the one that holds it. Where the label map
    is not there, that of the same name in the data set's usual folder counts.

    Args:
      root: `VOCdevkit`, the folder that holds it, or the year's folder.
      kind: "voc", "voc20", "context" or "context59"; those with a number leave
        the background out of the score.
      split: name of a list, e.g. "val", "train" or "trainaug".

    Raises:
      InputError: names the list, or the file that is missing or does not fit.
    """
    layout = _LAYOUTS[kind]
    self.name = kind
    self.split: str | None = split
    self.class_names = CLASS_NAMES[layout.names]
    self.has_background = layout.has_background
    self.root = _find(Path(root), layout)
    maps = layout.labels
    if split == "trainaug":
      # The augmented set's maps have a folder of their own.
      maps += "Aug"
    listing = self.root / layout.lists / f"{split}.txt"
    self._items = _read_list(listing, self.root, self.root / maps)
    alignment.check_pairs((item.picture, item.labels) for item in self._items)

  def __len__(self) -> int:
    """Number of pictures of the split."""
    return len(self._items)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and its palette indices."""
    item = self._items[index]
    image = reader.read_image(item.picture)
    labels = alignment.read_labels(
      item.labels,
      item.picture,
      max_label=len(self.class_names),
      size=image.shape[:2],
    )
    if not self.has_background:
      labels = without_background(labels)
    return Sample(item.id, image, labels)


def _read_list(listing: Path, root: Path, maps: Path) -> list[_Item]:
  """The pictures of a list, each once, in its order."""
  try:
    lines = lookup.read_lines(listing, "the list")
  except (OSError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    known = sorted(path.stem for path in listing.parent.glob("*.txt"))
    raise InputError(
      f"{listing}: no list of split={listing.stem!r}; there are"
      f" {', '.join(known) or 'none'}"
    ) from error
  listed = lookup.Pictures(root / "JPEGImages")
  items: dict[Path, _Item] = {}
  twice, instead, missing = [], [], []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    picture, labels, asked = _parse(line, f"{listing}:{number}", listed, root)
    if picture is None:
      missing.append(f"{listing}:{number}: the picture {line.strip()!r}")
      continue
    if labels is None:
      labels = maps / f"{Path(asked or picture).stem}.png"
      if asked:
        instead.append(asked)
    if picture in items:
      twice.append(picture.stem)
    items.setdefault(picture, _Item(picture.stem, picture, labels))
  if missing:
    more = f" ({len(missing) - 1} more like this)" if missing[1:] else ""
    raise InputError(
      f"{missing[0]} is not in {listed.folder}; add it or correct the"
      f" list{more}"
    )
  if not items:
    raise InputError(f"{listing}: the list is empty; choose another split")
  if twice:
    lookup.tell(
      f"{listing}: {len(twice)} lines repeat a picture, which counts once:"
      f" {lookup.named(twice)}"
    )
  if instead:
    lookup.tell(
      f"{listing}: {len(instead)} label maps of its second column are not"
      f" there, and those of {maps} are taken: {lookup.named(instead)}"
    )
  return list(items.values())


def _parse(
  line: str, place: str, listed: lookup.Pictures, root: Path
) -> tuple[Path | None, Path | None, str]:
  """Finds the picture and the label map of a line.

  Returns:
    The picture or None, the label map or None, and how the line names the map.
  """
  columns = line.split()
  if len(columns) > 1:  # or one name with blanks in it
    whole = _picture(line.strip(), listed, root, by_path="/" in line)
    if whole is not None:
      return whole, None, ""
  if len(columns) == 1 and "," in line:
    columns = [column.strip() for column in line.split(",")]
  if len(columns) > 2:
    raise InputError(
      f"{place}: {line.strip()!r} has {len(columns)} columns; give a picture's"
      " name, and at most its label map"
    )
  picture = _picture(columns[0], listed, root)
  asked = columns[1] if len(columns) == 2 else ""
  if asked in ("", "1", "0", "-1", "+1"):
    return picture, None, ""
  if not reader.has_suffix(asked):
    raise InputError(
      f"{place}: {asked!r} is neither a label map nor one of the marks 1, 0, -1"
    )
  return picture, _below(root, asked), asked


def _picture(
  name: str, listed: lookup.Pictures, root: Path, by_path: bool = False
) -> Path | None:
  """Finds a picture by its path, else, unless that must be, by its name."""
  name = name.replace("\\", "/")
  if "/" in name or reader.has_suffix(name):
    path = _below(root, name)
    if path is not None and reader.has_suffix(path):
      return path
  if by_path:
    return None
  name = name.rsplit("/", 1)[-1]
  stem = os.path.splitext(name)[0] if reader.has_suffix(name) else name
  return listed.find(stem)


def _below(root: Path, name: str) -> Path | None:
  """The file that a path of a list means, which often starts with a slash."""
  name = name.replace("\\", "/")
  inside = name.lstrip("/")
  # root.parent is VOCdevkit, and its parent the folder that holds it.
  places = (root, root.parent, root.parent.parent)
  candidates = [place / inside for place in places]
  if name != inside:
    candidates.append(Path(name))
  return next(filter(lookup.is_file, candidates), None)


def _find(root: Path, layout: _Layout) -> Path:
  candidates = (
    root / layout.year,
    root / "VOCdevkit" / layout.year,
    root,
  )
  for path in candidates:
    if (path / layout.lists).is_dir():
      return path
  raise InputError(
    f"{root}: no {layout.year}/{layout.lists} here; give VOCdevkit or the"
    " folder that holds it"
  )
