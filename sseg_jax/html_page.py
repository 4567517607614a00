"""Parts of a page that needs no other file and no network.

Every function that makes a part returns `Html`. A text that is no `Html` is
shown as it is: what looks like a tag in it is no tag.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68em; margin: 2em auto;
  padding: 0 1em; color: #1c2330; background: #fff; }
h2 { margin-top: 2.2em; border-bottom: 1px solid #d8dde6; }
.scroll { overflow-x: auto; margin-bottom: 1.2em; }
table { border-collapse: collapse; }
td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: middle;
  border-bottom: 1px solid #e6e9ef; }
td.n { text-align: right; }
td.bar div { background: #4a7ab5; height: 12px; }
img { max-width: 100%; margin-right: 4px; vertical-align: middle; }
figure { margin: 0; }
figcaption, .note { color: #5a6475; font-size: 13px; overflow-wrap: anywhere; }
.sheet { display: flex; flex-wrap: wrap; gap: 14px; }
.sheet figure { width: 200px; }
.sheet img { max-width: 200px; max-height: 200px; }
.wide figure { width: 480px; max-width: 100%; }
.wide img { max-width: 100%; max-height: none; }
td .strip { white-space: nowrap; }
.key { color: #777; font-size: 11px; }
.none { color: #7a8394; white-space: nowrap; }
code { background: #f4f6fa; overflow-wrap: anywhere; }
"""


class Html(str):
  """A text that is HTML."""

  __slots__ = ()


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
  """Returns a document of sections, each a heading and the HTML below it.

  A section without a heading ("") follows the one before it.
  """
  body = "".join(
    (f"<h2>{shown(heading)}</h2>\n" if heading else "") + f"{inner}\n"
    for heading, inner in sections
  )
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{shown(title)}</title><style>{_STYLE}</style></head>\n"
    f"<body><h1>{shown(title)}</h1>\n{body}</body></html>\n"
  )


def shown(value: object) -> Html:
  """Returns a value as HTML: with escapes, if it is not HTML already."""
  return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Iterable[object]) -> Html:
  """Returns the values, one after the other, as HTML."""
  return Html("".join(map(shown, parts)))


def element(name: str, *parts: object, kind: str = "") -> Html:
  """Returns <name>parts</name>; `kind` is its class."""
  start = f'{name} class="{shown(kind)}"' if kind else name
  return Html(f"<{start}>{joined(parts)}</{name}>")


def paragraphs(texts: Iterable[object], *, kind: str = "") -> Html:
  """Returns one paragraph for each text."""
  return Html("\n".join(element("p", text, kind=kind) for text in texts))


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
  """Returns a table; numbers stand at the right of their cells."""
  lines = [element("tr", *(element("th", cell) for cell in head))]
  for row in rows:
    cells = []
    for cell in row:
      kind = "n" if isinstance(cell, int | float) else ""
      text = f"{cell:,}" if isinstance(cell, int) else cell
      cells.append(element("td", text, kind=kind))
    lines.append(element("tr", *cells))
  return element("div", element("table", Html("\n".join(lines))), kind="scroll")


def bars(counts: Mapping[str, int], head: Sequence[str]) -> Html:
  """Returns a horizontal bar for each count, in the order given."""
  most = max(counts.values(), default=1)
  rows = "".join(
    f'<tr><td class="n">{shown(name)}</td><td class="n">{count:,}</td>'
    f'<td class="bar"><div style="width:{300 * count / most:.0f}px"></div>'
    "</td></tr>\n"
    for name, count in counts.items()
  )
  titles = "".join(f"<th>{shown(h)}</th>" for h in head)
  return Html(f"<table><tr>{titles}<th></th></tr>\n{rows}</table>")


def sheet(
  pictures: Iterable[tuple[str, Sequence[str], Sequence[str]]],
  *,
  wide: bool = False,
) -> Html:
  """Returns pictures with captions.

  Args:
    pictures: key, captions, and the addresses of pictures of each record.
    wide: whether a picture is several beside each other.
  """
  figures = []
  for key, captions, images in pictures:
    small = "".join(image(address) for address in images)
    texts = "".join(f"<div>{shown(caption)}</div>" for caption in captions)
    figures.append(
      f"<figure>{small}<figcaption>{texts}"
      f'<div class="key">{shown(key)}</div></figcaption></figure>\n'
    )
  kind = "sheet wide" if wide else "sheet"
  return Html(f'<div class="{kind}">{"".join(figures)}</div>')


def image(address: str, name: str = "") -> Html:
  """Returns a picture; `name` is said where it cannot be seen."""
  return Html(f'<img src="{shown(address)}" alt="{shown(name)}">')


def thumbnail(picture: Image.Image, side: int = 200, quality: int = 80) -> str:
  """Returns a small copy of a picture as an address that holds its bytes."""
  small = picture.convert("RGB")
  small.thumbnail((side, side))
  out = io.BytesIO()
  small.save(out, "JPEG", quality=quality)
  return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
