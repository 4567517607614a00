"""Readers of captioned pictures as people have them: folders on disk."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from sseg_jax.errors import InputError
from sseg_jax.pictures import SUFFIXES

_PATH_COLUMNS = ("filepath", "file_name", "filename", "file", "path", "image")
_CAPTION_COLUMNS = ("caption", "captions", "title", "text")


@dataclasses.dataclass(frozen=True)
class Item:
  """One picture as found.

  Attributes:
    key: its name in the captions, unique within the source.
    image: where it should lie; it may be missing.
    captions: with single spaces, none empty; possibly none at all.
    source: its URL or other origin, where stated.
    license: where stated.
  """

  key: str
  image: Path
  captions: tuple[str, ...]
  source: str = ""
  license: str = ""


def read_items(folder: str | Path, captions: str = "auto") -> list[Item]:
  """Reads a folder of pictures and their captions, without opening a picture.

  Args:
    folder: pictures, beside their captions or in `images/`.
    captions: a `.jsonl` (fields `file_name`, and `captions`, a list, or
      `caption`; `license`, `source`, `url` and `flickr_url` are kept) or a
      `.tsv` (path, tab, caption; a line of column names may come first; a path
      may come again with another caption). "auto": `captions.jsonl`, else
      `captions.tsv`, else the only `.tsv`, else one `.txt` a picture with one
      caption a line.

  Returns:
    The pictures in the order of the captions (of the names, for `.txt`).

  Raises:
    InputError: no folder, no captions, or a malformed line.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f"no such folder of pictures: {folder}")
  path = _find(folder) if captions == "auto" else Path(captions)
  if path is None:
    items = _read_txt(folder)
  elif not path.is_file():
    raise InputError(f"no such file of captions: {path}")
  elif path.suffix == ".jsonl":
    items = _merge(folder, _read_jsonl(path))
  elif path.suffix == ".tsv":
    items = _merge(folder, _read_tsv(path))
  else:
    raise InputError(f"{path}: captions come as .jsonl or .tsv")
  if not any(item.captions for item in items):
    raise InputError(
      f"no captions in {path or folder}; put captions.jsonl, captions.tsv or"
      " one .txt a picture there"
    )
  return items


def _find(folder: Path) -> Path | None:
  for name in ("captions.jsonl", "captions.tsv"):
    if (folder / name).is_file():
      return folder / name
  tables = sorted(folder.glob("*.tsv"))
  if len(tables) > 1:
    names = ", ".join(path.name for path in tables)
    raise InputError(f"{folder} holds several tables ({names}); name one")
  return tables[0] if tables else None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
  """Yields the lines that are not blank, numbered from 1."""
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
      raise InputError(f"{path}, line {number}: not UTF-8 ({error})") from None
    if text.strip():
      yield number, text


def _clean(captions: list[str]) -> tuple[str, ...]:
  cleaned = (" ".join(caption.split()) for caption in captions)
  return tuple(caption for caption in cleaned if caption)


def _read_jsonl(path: Path) -> Iterator[Item]:
  for number, line in _lines(path):
    where = f"{path}, line {number}"
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise InputError(f"{where}: not JSON ({error})") from None
    name = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(name, str) or not name:
      raise InputError(f"{where}: no `file_name`")
    captions = row.get("captions", row.get("caption", []))
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(
      isinstance(caption, str) for caption in captions
    ):
      raise InputError(f"{where}: `captions` must be a list of strings")
    source = row.get("source") or row.get("url") or row.get("flickr_url") or ""
    yield Item(
      key=name,
      image=Path(name),
      captions=_clean(captions),
      source=str(source),
      license=str(row.get("license") or ""),
    )


def _read_tsv(path: Path) -> Iterator[Item]:
  place, caption_place = 0, 1
  first = True
  for number, line in _lines(path):
    cells = line.split("\t")
    if len(cells) < 2:
      raise InputError(
        f"{path}, line {number}: no tab between path and caption"
      )
    names = [cell.strip().lower() for cell in cells]
    header = first and any(name in _CAPTION_COLUMNS for name in names)
    first = False
    if header and (known := [n for n in names if n in _PATH_COLUMNS]):
      place = names.index(known[0])
      caption_place = next(
        i for i, name in enumerate(names) if name in _CAPTION_COLUMNS
      )
      continue
    if len(cells) <= max(place, caption_place):
      raise InputError(f"{path}, line {number}: fewer columns than line 1")
    name = cells[place].strip()
    if not name:
      raise InputError(f"{path}, line {number}: no path")
    if name.startswith(("http://", "https://")):
      raise InputError(
        f"{path}, line {number}: a URL; fetch the pictures first, for example"
        " with img2dataset"
      )
    yield Item(name, Path(name), _clean([cells[caption_place]]))


def _merge(folder: Path, items: Iterator[Item]) -> list[Item]:
  """Joins the captions of a repeated name, and finds the pictures."""
  merged: dict[str, Item] = {}
  for item in items:
    if known := merged.get(item.key):
      captions = dict.fromkeys(
        known.captions + item.captions
      )  # keeps the order
      merged[item.key] = dataclasses.replace(known, captions=tuple(captions))
    else:
      beside, inside = folder / item.image, folder / "images" / item.image
      image = inside if inside.exists() and not beside.exists() else beside
      merged[item.key] = dataclasses.replace(item, image=image)
  return list(merged.values())


def _read_txt(folder: Path) -> list[Item]:
  root = folder / "images" if (folder / "images").is_dir() else folder
  items = []
  for image in sorted(root.rglob("*")):
    if image.suffix.lower() not in SUFFIXES:
      continue
    name = image.relative_to(root)
    beside, above = image.with_suffix(".txt"), folder / name.with_suffix(".txt")
    path = beside if beside.is_file() else above
    lines = [text for _, text in _lines(path)] if path.is_file() else []
    items.append(Item(name.as_posix(), image, _clean(lines)))
  return items
