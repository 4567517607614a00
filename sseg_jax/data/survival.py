"""What became of a source's pictures: OUT/report.json and OUT/report.html."""

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from sseg_jax import files, html_page
from sseg_jax.data import staging

_SAMPLES = 24
_WORDS = 200  # words in report.json
_SHOWN_WORDS = 40
_LONG = 60  # captions of this many words or more are counted together


def samples(
  numbers: np.ndarray, rows: np.ndarray, parts: list[staging.Staged]
) -> list[dict[str, Any]]:
  """Returns some of the records, with a small copy of each picture.

  Args:
    numbers: of the records for training.
    rows: array of `staging.ROW`. The numbers that choose held-out pictures
      choose these as well, so that they come from all of the source.
    parts: that hold the records.
  """
  starts = staging.positions(parts)
  order = np.argsort(rows["split"][numbers], kind="stable")
  found = []
  for number in np.sort(numbers[order[:_SAMPLES]]).tolist():
    at = int(np.searchsorted(starts, number, "right")) - 1
    (fields,) = parts[at].read(np.array([number - starts[at]]))
    with Image.open(io.BytesIO(fields["image"])) as image:
      shown = html_page.thumbnail(image)
    texts = [caption.decode() for caption in fields["captions"]]
    found.append(
      {"key": fields["key"].decode(), "captions": texts, "image": shown}
    )
  return found


def write(
  out: str, report: Any, counts: staging.Counts, told: Mapping[str, Any]
) -> None:
  """Writes report.json and report.html, the same for the same records.

  Args:
    out: folder of the records.
    report: a `preparation.Report`.
    counts: over all parts.
    told: `samples`, and as `like` the keys of pictures that were left out
      because they are like a picture of `exclude_pictures`, with its name.
  """
  words = counts.words.most_common()
  # Of equal counts the first in the alphabet, in whatever order they came.
  words.sort(key=lambda entry: (-entry[1], entry[0]))
  found = dataclasses.asdict(report)
  del found["seconds"]
  found |= {
    "caption_count": counts.captions,
    "picture_bytes": counts.bytes,
    "short_sides": _by_number(counts.short_sides),
    "caption_words": _by_number(counts.caption_words),
    "words": dict(words[:_WORDS]),
    "excluded_pictures": told["like"],
  }
  place = epath.Path(out)
  text = json.dumps(found, indent=2, ensure_ascii=False)
  files.write_text(place / "report.json", text + "\n")
  files.write_text(place / "report.html", _page(report, found, told))


def _page(report: Any, found: dict[str, Any], told: Mapping[str, Any]) -> str:
  kept = report.train + report.val
  share = kept / max(1, report.read)
  summary = [
    ("read", report.read, ""),
    ("train", report.train, ""),
    ("val", report.val, ""),
    ("kept", kept, f"{share:.1%}"),
    ("bytes of pictures", found["picture_bytes"], ""),
    ("captions", found["caption_count"], report.captions),
  ]
  sections = [
    ("Survivors", html_page.table(("", "number", ""), summary)),
    ("Left out, by reason", _reasons(report.rejected, report.read)),
  ]
  if report.captions_left_out:
    sections.append(
      (
        "Captions left out of pictures that have others",
        _reasons(report.captions_left_out, 0),
      )
    )
  if told["like"]:
    sections.append(
      (
        "Left out: like a picture for evaluation",
        html_page.table(("picture", "is like"), told["like"][:200]),
      )
    )
  if report.notes:
    sections.append(
      ("Notes", html_page.table(("",), [(n,) for n in report.notes]))
    )
  words = dict(list(found["words"].items())[:_SHOWN_WORDS])
  sections += [
    (
      "Short side of the converted pictures",
      html_page.bars(found["short_sides"], ("pixels from", "pictures")),
    ),
    (
      "Length of the captions",
      html_page.bars(_ended(found["caption_words"]), ("words", "captions")),
    ),
    ("Most frequent words", html_page.bars(words, ("word", "number"))),
    (
      "Sample",
      html_page.sheet(
        (s["key"], s["captions"], [s["image"]]) for s in told["samples"]
      ),
    ),
  ]
  return html_page.page("Pictures and captions", sections)


def _reasons(counted: Mapping[str, Mapping[str, Any]], read: int) -> str:
  rows = [
    (
      reason,
      entry["count"],
      f"{entry['count'] / read:.2%}" if read else "",
      ", ".join(entry["examples"][:3]),
    )
    for reason, entry in sorted(
      counted.items(), key=lambda item: (-item[1]["count"], item[0])
    )
  ]
  return html_page.table(("reason", "number", "of read", "examples"), rows)


def _by_number(counts: Mapping[str, int]) -> dict[str, int]:
  return {key: counts[key] for key in sorted(counts, key=int)}


def _ended(counts: Mapping[str, int]) -> dict[str, int]:
  short = {k: n for k, n in counts.items() if int(k) < _LONG}
  rest = sum(n for k, n in counts.items() if int(k) >= _LONG)
  return short | ({f"{_LONG} or more": rest} if rest else {})
