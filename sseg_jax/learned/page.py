"""The page about words: one HTML file that needs no other."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax.learned.held_out import Region

_SIDE = 72  # of a crop, in pixels
_QUALITY = 70  # of its JPEG
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto;
  padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .25em .7em; vertical-align: middle;
  border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; }
th:first-child, td:first-child, th:last-child, td:last-child {
  text-align: left; }
td:last-child { white-space: nowrap; }
img { margin-right: 4px; }
"""


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
  lines = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    "<title>Words of the captions</title>",
    f"<style>{_STYLE}</style></head><body>",
    "<h1>What the network has learned of each word</h1>",
    *(f"<p>{html.escape(text)}</p>" for text in _explained(report, strips)),
  ]
  if len(words) > most:
    lines.append(
      f"<p>The {most:,} most frequent of {len(words):,} words are listed;"
      " words.json has all.</p>"
    )
  lines.append(
    "<table><tr><th>word</th><th>captions</th><th>held-out pictures</th>"
    "<th>score</th><th>regions that fit it best</th></tr>"
  )
  for word, row in words[:most]:
    score = "" if row["score"] is None else f"{row['score']:.0f}"
    cells = "".join(f"<td>{x}</td>" for x in (row["count"], row["held_out"]))
    crops = "".join(_img(region) for region in strips.get(word, ()))
    lines.append(
      f"<tr><td>{html.escape(word)}</td>{cells}<td>{score}</td>"
      f"<td>{crops}</td></tr>"
    )
  return "\n".join([*lines, "</table></body></html>", ""])


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


def _img(region: Region) -> str:
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
  file = io.BytesIO()
  small.save(file, "JPEG", quality=_QUALITY)
  data = base64.b64encode(file.getvalue()).decode()
  return (
    f'<img width="{_SIDE}" height="{_SIDE}" alt=""'
    f' src="data:image/jpeg;base64,{data}">'
  )


def _start(places: np.ndarray, side: int, size: int) -> int:
  """Returns where a stretch around some places starts, inside 0..size."""
  middle = (int(places[0]) + int(places[-1]) + 1 - side) // 2
  return max(0, min(middle, size - side))
