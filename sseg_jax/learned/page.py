"""The page about words: one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax import html_page
from sseg_jax.learned.held_out import Region

_SIDE = 72  # of a crop, in pixels
_QUALITY = 70  # of its JPEG


def page(
  report: Mapping[str, Any], strips: Mapping[str, Sequence[Region]], most: int
) -> str:
  """Returns the HTML.

  Args:
    report: the content of words.json.
    strips: of some words, the regions that fit best.
    most: words that are listed, the first ones.
  """
  words = list(report["words"].items())
  texts = _explained(report, strips)
  if len(words) > most:
    texts.append(
      f"The {most:,} most frequent of {len(words):,} words are listed;"
      " words.json has all."
    )
  rows = []
  for word, row in words[:most]:
    score = "" if row["score"] is None else f"{row['score']:.0f}"
    crops = html_page.element(
      "span", *map(_img, strips.get(word, ())), kind="strip"
    )
    rows.append((word, row["count"], row["held_out"], score, crops))
  head = (
    *("word", "captions", "held-out pictures", "score"),
    "regions that fit it best",
  )
  body = html_page.paragraphs(texts) + html_page.table(head, rows)
  return html_page.page(
    "What the network has learned of each word", [("", body)]
  )


def _explained(
  report: Mapping[str, Any], strips: Mapping[str, Sequence[Region]]
) -> list[str]:
  texts = [
    f"Captions: in how many of {report['captions']:,} captions of the training"
    " data the word stands. "
    + (
      f"These are the captions of {report['records']:,} of {report['of']:,}"
      " records, spread evenly over all. "
      if report["records"] < report["of"]
      else ""
    )
    + "Articles, prepositions, numbers and words for the picture itself are"
    " left out. Singular and plural are two words."
  ]
  if not report["pictures"]:
    return [
      *texts,
      "There is no score, because the run has no held-out pictures (data.val).",
    ]
  texts.append(
    f"Held-out pictures: how many of {report['pictures']:,} pictures, which the"
    " network was not trained with, have the word in one of their captions."
  )
  texts.append(
    "Score: these pictures are ranked by how well each fits the word alone."
    " Take one picture whose captions have the word and one whose captions do"
    " not: the score is the percentage of such pairs in which the first has the"
    " higher rank. 100 is the best, and 50 is chance. With fewer than five"
    " pictures that have the word, the score says little. A caption does not"
    " name everything in its picture, so few words reach 100."
    f" {report['scored']:,} words have a score: the most frequent ones that"
    " stand in some of the held-out captions, but not in all."
  )
  if strips:
    texts.append(
      f"Regions: what fits the word best in {report['cropped']:,} of the"
      " held-out pictures, whether a caption has the word or not, one region of"
      " a picture at most, the best first; what is outside the region is dark."
      f" They are shown for the {len(strips):,} most frequent words that stand"
      f" in {report['enough']} or more captions."
    )
  return texts


def _img(region: Region) -> html_page.Html:
  """Returns a region as an embedded JPEG, its square cut out of the picture."""
  rows, columns = (np.flatnonzero(region.inside.any(i)) for i in (1, 0))
  h, w = region.inside.shape
  side = int(max(np.ptp(rows), np.ptp(columns), min(h, w) // 4)) + 1
  side = min(side, h, w)
  top = _start(rows, side, h)
  left = _start(columns, side, w)
  cut = slice(top, top + side), slice(left, left + side)
  shade = np.where(region.inside[cut], 1.0, 0.35)[..., None]
  pixels = (region.picture[cut] * shade).astype(np.uint8)
  small = Image.fromarray(pixels).resize((_SIDE, _SIDE))
  return html_page.image(html_page.thumbnail(small, _SIDE, _QUALITY))


def _start(places: np.ndarray, side: int, size: int) -> int:
  """Returns where a stretch around some places starts, inside 0..size."""
  middle = (int(places[0]) + int(places[-1]) + 1 - side) // 2
  return max(0, min(middle, size - side))
