"""What the page does when a visitor presses something.

Nothing here knows of Gradio, so all of it can be called from a test.
"""

import dataclasses
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.inference.api import Model
from sseg_jax.inference.result import Segmentation
from sseg_jax.page import pictures
from sseg_jax.page.kept import Kept
from sseg_jax.page.limits import Limits

RESULTS = "results"  # folder of the pictures to download
# A name in messages and in the legend is cut here.
_LONGEST = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
  """Where one word was found.

  Attributes:
    name: the word and its share of the picture, for the legend.
    colour: as #rrggbb.
    mask: where it is.
  """

  name: str
  colour: str
  mask: Bool[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """What the page shows of a result.

  Attributes:
    image: the picture, at the size at which it was segmented.
    regions: the largest first; words without a pixel are left out.
    words: all words.
    notes: what the visitor should know, one sentence each.
    percent: the threshold, in percent of the picture's best score.
    threshold: the same as `predict --background_threshold` takes it.
    file: the picture with its regions and a legend, as a PNG to download.
  """

  image: UInt8[np.ndarray, "h w 3"]
  regions: tuple[Region, ...]
  words: tuple[str, ...]
  notes: tuple[str, ...]
  percent: float
  threshold: float
  file: Path


class Handlers:
  """Answers the visitors of one page; its methods may run in threads."""

  def __init__(
    self, model: Model, folder: str | os.PathLike, limits: Limits | None = None
  ):
    """Has no visitors yet.

    Args:
      model: finds the words.
      folder: for the files to download.
      limits: what one visitor may ask for.
    """
    self.model = model
    self.limits = limits or Limits()
    self.kept = Kept(self.limits.kept * 10**6)
    self.folder = Path(folder) / RESULTS
    self._secret = secrets.token_hex()

  def find(
    self, path: str | os.PathLike | None, text: str | None, session: str | None
  ) -> View:
    """Segments a picture with words.

    Args:
      path: of the picture.
      text: the words, with commas or line ends between them.
      session: the visitor, for whom the result is kept.

    Raises:
      InputError: for a bad picture or bad words. One line for the visitor.
    """
    words = self.words(text)
    if not path:
      raise InputError("Give a picture first.")
    image, is_smaller = pictures.read(path, self.limits)
    class_set = self.model.class_set(words, background=True)
    found = self.model.segment(image, words)
    notes = [
      f"The model does not read {_short(word)!r} to its end: it is too long."
      for word in self.model.truncated(class_set)
    ]
    if len(words) == 1:
      notes.append(
        "A single word is compared with no other. Add words for what else is in"
        " the picture."
      )
    if is_smaller:
      h, w = image.shape[:2]
      notes.append(f"The picture was scaled down to {w} x {h} pixels.")
    if session:
      self.kept.put(session, found)
    return self._view(found, notes, Path(path).stem, session)

  def move(self, percent: float, session: str | None) -> View:
    """Applies another threshold to the visitor's result.

    The network does not run.

    Args:
      percent: threshold in percent of the best score in the picture.
      session: the visitor.
    """
    found = self._last(session)
    if not 0 <= percent <= 100:
      raise InputError(f"The threshold is {percent} %; choose 0 to 100.")
    threshold = percent / 100 * float(found.scores.max())
    return self._view(found.with_threshold(threshold), [], "picture", session)

  def heat(self, word: str, session: str | None) -> Image.Image:
    """Draws where in the visitor's picture a word scores high.

    The first call for a picture runs the network once more.
    """
    found = self._last(session)
    drawn = found.heatmap(word)
    self.kept.measure()
    return drawn

  def words_of(self, session: str | None) -> tuple[str, ...]:
    """Returns the words of the visitor's result."""
    return self._last(session).words

  def forget(self, session: str | None) -> None:
    """Drops the result of a visitor who has left."""
    if session:
      self.kept.drop(session)

  def words(self, text: str | None) -> list[str]:
    """Splits a text into words; InputError if there are none or too many."""
    words = [" ".join(word.split()) for word in re.split(r"[,\n]", text or "")]
    words = [word for word in words if word]
    if not words:
      raise InputError("Type what to look for, for example: cat, sky, grass")
    if len(words) > self.limits.words:
      raise InputError(
        f"You gave {len(words):,} words; this page takes {self.limits.words}."
        " Leave some out."
      )
    letters = sum(map(len, words))
    if letters > self.limits.letters:
      raise InputError(
        f"Your words have {letters:,} letters; this page takes"
        f" {self.limits.letters:,}. Shorten them."
      )
    for word in words:
      if word.casefold() == "background":
        raise InputError(
          "“background” is the name of what fits no word. Leave it out; at"
          " threshold 0 there is none."
        )
    return words

  def _last(self, session: str | None) -> Segmentation:
    found = self.kept.get(session) if session else None
    if found is None:
      raise InputError("The result is no longer here. Press “Find” again.")
    return found

  def _view(
    self,
    found: Segmentation,
    notes: list[str],
    stem: str,
    session: str | None,
  ) -> View:
    assert found.image is not None and found.threshold is not None
    colours = found.colours
    regions, missing = [], []
    first = int(found.has_background)
    for index, name in enumerate(found.names[first:], first):
      share = found.areas[name]
      if not share:
        missing.append(_short(name))
        continue
      colour = "#{:02x}{:02x}{:02x}".format(*colours[index].tolist())
      label = f"{_short(name)} {_percent(share)}"
      regions.append((share, Region(label, colour, found.labels == index)))
    regions.sort(key=lambda region: -region[0])
    if missing:
      notes = [f"Not found at this threshold: {', '.join(missing)}.", *notes]
    best = float(found.scores.max())
    percent = 100 * min(1.0, found.threshold / max(best, 1e-12))
    return View(
      image=found.image,
      regions=tuple(region for _, region in regions),
      words=found.words,
      notes=tuple(notes),
      percent=round(percent, 1),
      threshold=found.threshold,
      file=self._write(found, stem, session),
    )

  def _write(self, found: Segmentation, stem: str, session: str | None) -> Path:
    """Writes the file to download, instead of the visitor's last one."""
    # Names that nobody can guess: who knows them may download the file.
    key = f"{self._secret}{session or secrets.token_hex()}"
    own = self.folder / hashlib.sha256(key.encode()).hexdigest()
    shutil.rmtree(own, ignore_errors=True)
    # A new name each time: browsers keep files by their names.
    folder = own / secrets.token_hex(8)
    folder.mkdir(parents=True)
    path = folder / f"{stem[:80]}_regions.png"
    found.save(path)
    return path


def _short(word: str) -> str:
  return word if len(word) <= _LONGEST else f"{word[: _LONGEST - 1]}…"


def _percent(share: float) -> str:
  return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
