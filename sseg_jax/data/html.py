"""Parts of a page that needs no other file and no network."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

_STYLE = """
body { font: 15px sans-serif; margin: 2em auto; max-width: 70em; color: #222; }
table { border-collapse: collapse; }
td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
td.n { text-align: right; }
td.bar div { background: #4a7ab5; height: 12px; }
.sheet { display: flex; flex-wrap: wrap; gap: 14px; }
.sheet figure { width: 200px; margin: 0; font-size: 13px; }
.sheet img { max-width: 200px; max-height: 200px; }
.sheet figcaption { overflow-wrap: anywhere; }
.key { color: #777; font-size: 11px; }
"""


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
  """Returns a document of sections, each a heading and HTML below it."""
  body = "".join(f"<h2>{_text(h)}</h2>\n{inner}\n" for h, inner in sections)
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
    f"<body><h1>{_text(title)}</h1>\n{body}</body></html>\n"
  )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """Returns a table; numbers stand at the right of their cells."""
  lines = ["<table><tr>", *(f"<th>{_text(h)}</th>" for h in head), "</tr>"]
  for row in rows:
    lines.append("<tr>")
    for cell in row:
      kind = ' class="n"' if isinstance(cell, int | float) else ""
      shown = f"{cell:,}" if isinstance(cell, int) else cell
      lines.append(f"<td{kind}>{_text(shown)}</td>")
    lines.append("</tr>\n")
  return "".join(lines) + "</table>"


def bars(counts: Mapping[str, int], head: Sequence[str]) -> str:
  """Returns a horizontal bar for each count, in the order given."""
  most = max(counts.values(), default=1)
  rows = "".join(
    f'<tr><td class="n">{_text(name)}</td><td class="n">{count:,}</td>'
    f'<td class="bar"><div style="width:{300 * count / most:.0f}px"></div>'
    "</td></tr>\n"
    for name, count in counts.items()
  )
  titles = "".join(f"<th>{_text(h)}</th>" for h in head)
  return f"<table><tr>{titles}<th></th></tr>\n{rows}</table>"


def sheet(pictures: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> str:
  """Returns pictures with captions.

  Args:
    pictures: key, captions, and the pictures of `thumbnail` for each record.
  """
  figures = []
  for key, captions, images in pictures:
    shown = "".join(f'<img src="{image}" alt="">' for image in images)
    texts = "".join(f"<div>{_text(caption)}</div>" for caption in captions)
    figures.append(
      f"<figure>{shown}<figcaption>{texts}"
      f'<div class="key">{_text(key)}</div></figcaption></figure>\n'
    )
  return f'<div class="sheet">{"".join(figures)}</div>'


def thumbnail(image: Image.Image, side: int = 200) -> str:
  """Returns a small copy of a picture as an address that holds its bytes."""
  small = image.convert("RGB")
  small.thumbnail((side, side))
  out = io.BytesIO()
  small.save(out, "JPEG", quality=80)
  return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _text(value: object) -> str:
  return html.escape(str(value))
