"""The page of Gradio's parts, and what calls which handler.

Import this module only where Gradio is installed.
"""

import functools
import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported, which reads it then: nothing is sent to anyone.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from sseg_jax.errors import InputError
from sseg_jax.page.handlers import Handlers, View
from sseg_jax.page.parts import Picture, Regions

STYLE = Path(__file__).parent / "style.css"
_EMPTY = "<div class='empty'>The regions that are found appear here.</div>"
# Of results that are looked at: these need no network.
_LOOKING = 4


def theme() -> gr.themes.Base:
  """Returns colours and sizes; the fonts are those of the visitor's system."""
  letters = ("system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
  return gr.themes.Default(
    primary_hue="indigo",
    neutral_hue="slate",
    font=[gr.themes.Font(name) for name in letters],
    font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
  )


def build(
  handlers: Handlers, examples: Sequence[tuple[str, str]] = ()
) -> gr.Blocks:
  """Returns the page.

  Args:
    handlers: what its buttons call.
    examples: path and words of pictures to try it with.
  """
  limits = handlers.limits
  with gr.Blocks(
    title="Words on a picture", analytics_enabled=False, fill_width=True
  ) as page:
    gr.HTML(
      "<h1>Words on a picture</h1><p>Give a picture, type what to look for, and"
      " see where it is.</p>",
      elem_id="title",
      padding=False,
    )
    with gr.Row(equal_height=False):
      with gr.Column(scale=5, min_width=320):
        given = _given(examples)
      with gr.Column(scale=6, min_width=320):
        empty = gr.HTML(_EMPTY, padding=False)
        shown = _result()
    asked: dict[str, Any] = {
      "fn": _find(handlers),
      "inputs": [given.picture, given.words],
      "outputs": [
        empty,
        given.note,
        shown.box,
        shown.regions,
        shown.slider,
        shown.heat_word,
        shown.heat_map,
        shown.download,
      ],
      # One at a time: a second picture would only take the processor from it.
      "concurrency_limit": 1,
      "concurrency_id": "network",
      "show_progress_on": [shown.regions, empty],
      "api_visibility": "undocumented",
    }
    pressed = [given.button.click, given.words.submit]
    gr.on(pressed, **asked, api_name="find")
    if given.samples:
      chosen = given.samples.load_input_event
      chosen.then(**asked, api_name="find_example")
    _connect(handlers, shown, given.note)
    page.unload(_forget(handlers))
    gr.HTML(
      f"<p>Pictures up to {limits.megapixels} megapixels, up to"
      f" {limits.words} words. Pictures and results are deleted within two"
      " hours.</p>",
      elem_id="foot",
    )
  page.queue(max_size=limits.waiting, default_concurrency_limit=_LOOKING)
  return page


class _Given:
  """The parts in which a visitor gives something."""

  picture: Picture
  words: gr.Textbox
  button: gr.Button
  note: gr.HTML
  samples: Any = None  # gr.Examples


def _given(examples: Sequence[tuple[str, str]]) -> _Given:
  given = _Given()
  given.picture = Picture(
    label="Picture",
    sources=["upload", "webcam", "clipboard"],
    type="filepath",
    image_mode=None,
    height=340,
    buttons=[],
    elem_id="picture",
  )
  given.words = gr.Textbox(
    label="What to look for",
    placeholder="cat, sky, grass",
    info="Words with commas between them",
    lines=1,
    max_lines=4,
    elem_id="words",
  )
  given.button = gr.Button("Find", variant="primary", elem_id="find")
  given.note = gr.HTML(elem_id="note", visible=False, padding=False)
  if examples:
    given.samples = gr.Examples(
      [list(example) for example in examples],
      [given.picture, given.words],
      cache_examples=False,
      visible_columns=[0],
      label="Or try one of these",
      elem_id="examples",
      api_visibility="private",
    )
  return given


class _Result:
  """The parts that show a result."""

  box: gr.Column
  regions: Regions
  slider: gr.Slider
  heat_word: gr.Radio
  heat_map: gr.Image
  heat_tab: gr.Tab
  download: gr.DownloadButton


def _result() -> _Result:
  shown = _Result()
  with gr.Column(visible=False, elem_id="result") as shown.box:
    with gr.Tabs():
      with gr.Tab("Regions"):
        shown.regions = Regions(
          show_label=False, buttons=["fullscreen"], elem_id="regions"
        )
        shown.slider = gr.Slider(
          0,
          100,
          step=0.5,
          label="Threshold (% of the best score)",
          info="Higher leaves more of the picture without a word.",
          buttons=[],
          elem_id="threshold",
        )
        shown.download = gr.DownloadButton(
          "Download as PNG", size="md", elem_id="download"
        )
      with gr.Tab("Heat maps", elem_id="heat_tab") as shown.heat_tab:
        shown.heat_word = gr.Radio(
          label="Word",
          info="Bright: the word fits well.",
          elem_id="heat_words",
        )
        shown.heat_map = gr.Image(
          show_label=False,
          interactive=False,
          format="jpeg",
          buttons=["download", "fullscreen"],
          elem_id="heat_map",
        )
  return shown


def _find(handlers: Handlers) -> Callable:
  def find(path: str | None, text: str | None, request: gr.Request) -> dict:
    view = handlers.find(path, text, request.session_hash)
    return {
      "empty": gr.update(visible=False),
      "box": gr.update(visible=True),
      "heat_word": gr.update(choices=list(view.words), value=None),
      "heat_map": None,
      **_view(view),
    }

  keys = (
    "empty",
    "note",
    "box",
    "regions",
    "slider",
    "heat_word",
    "heat_map",
    "download",
  )
  return _answering(find, keys)


def _view(view: View) -> dict[str, Any]:
  return {
    "note": _notes(view.notes),
    "regions": gr.update(
      value=view, color_map={r.name: r.colour for r in view.regions}
    ),
    "slider": view.percent,
    "download": str(view.file),
  }


def _connect(handlers: Handlers, shown: _Result, note: gr.HTML) -> None:
  """Connects the slider and the heat maps."""

  def move(percent: float, request: gr.Request) -> dict:
    view = _view(handlers.move(percent, request.session_hash))
    # Not the slider, which the visitor may be moving on.
    return {name: view[name] for name in ("note", "regions", "download")}

  def heat(word: str | None, request: gr.Request) -> dict:
    if word is None:
      found = handlers.words_of(request.session_hash)
      word = found[0]
    drawn = handlers.heat(word, request.session_hash)
    return {"heat_word": word, "heat_map": drawn, "note": gr.skip()}

  looking: dict[str, Any] = {
    "concurrency_id": "looking",
    "concurrency_limit": _LOOKING,
    "trigger_mode": "always_last",
    "api_visibility": "undocumented",
  }
  shown.slider.input(
    _answering(move, ("note", "regions", "download")),
    shown.slider,
    [note, shown.regions, shown.download],
    show_progress="hidden",
    api_name="move",
    **looking,
  )
  gr.on(
    [shown.heat_word.input, shown.heat_tab.select],
    _answering(heat, ("note", "heat_word", "heat_map")),
    shown.heat_word,
    [note, shown.heat_word, shown.heat_map],
    show_progress_on=shown.heat_map,
    api_name="heat",
    **looking,
  )


def _forget(handlers: Handlers) -> Callable:
  def forget(request: gr.Request) -> None:
    handlers.forget(request.session_hash)

  return forget


def _answering(handler: Callable[..., dict], keys: Sequence[str]) -> Callable:
  """Wraps a handler: what is wrong with its input is shown, not raised.

  Args:
    handler: returns what changes, by the names of `keys`.
    keys: the outputs in their order, "note" among them.
  """

  # Gradio gives the request to the parameter of its type, which it finds by the
  # handler's annotations.
  @functools.wraps(handler)
  def answer(*args: Any) -> list[Any]:
    try:
      changes = handler(*args)
    except InputError as error:
      changes = {"note": _problem(str(error))}
    return [changes.get(key, gr.skip()) for key in keys]

  return answer


def _notes(notes: Sequence[str]) -> Any:
  text = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
  return gr.update(value=text, visible=bool(notes))


def _problem(message: str) -> Any:
  text = html.escape(" ".join(message.split()))
  return gr.update(
    value=f"<p class='problem' role='alert'>{text}</p>", visible=True
  )
