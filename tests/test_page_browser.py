"""The page in Chromium, as a visitor uses it."""

import gc
import pathlib
import shutil
import time
import warnings

import pytest
import small_page
from PIL import Image
from small_page import WORDS

from sseg_jax.page.handlers import Handlers

pytest.importorskip("gradio", reason="needs Gradio: the extra `demo`")
playwright = pytest.importorskip(
  "playwright.sync_api", reason="needs the package playwright"
)
with warnings.catch_warnings():
  warnings.simplefilter("ignore")  # of the libraries that it imports
  from sseg_jax.page import layout, server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def browser():
  """Debian's Chromium, or the one that playwright has downloaded."""
  with playwright.sync_playwright() as play:
    path = shutil.which("chromium") or play.chromium.executable_path
    if not pathlib.Path(path).exists():
      pytest.skip("needs Chromium: apt-get install chromium")
    started = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
    yield started
    started.close()


@pytest.fixture
def visit(browser, monkeypatch, tmp_path):
  """Returns a function that opens the page at some width."""
  handlers = Handlers(small_page.model(monkeypatch), tmp_path)
  address = server.launch(
    handlers,
    tmp_path,
    host="127.0.0.1",
    port=server._free_port("127.0.0.1", 0),
    share=False,
  )
  contexts, foreign, errors = [], [], []

  def look(request):
    if not request.url.startswith((address, "data:", "blob:")):
      foreign.append(request.url)

  def visit(width):
    context = browser.new_context(viewport={"width": width, "height": 844})
    context.set_default_timeout(30_000)
    contexts.append(context)
    tab = context.new_page()
    tab.on("request", look)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#find")
    tab.handlers = handlers
    return tab

  yield visit
  for context in contexts:
    context.close()
  layout.gr.close_all(verbose=False)
  gc.collect()  # sockets that libraries left open, while nobody minds
  assert not foreign, "the page asks other servers"
  assert not errors


def upload(tab, path, words):
  tab.set_input_files("#picture input[type=file]", path)
  tab.wait_for_selector("#picture img")
  tab.fill("#words textarea, #words input", words)
  tab.click("#find")


def wait_until(condition):
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end, "it did not happen in 30 seconds"
    time.sleep(0.05)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_visit(visit, tmp_path, width):
  tab = visit(width)
  upload(tab, small_page.write(tmp_path / "my stripes.png"), WORDS)
  tab.wait_for_selector("#regions .mask")
  # Nothing is wider than the screen.
  assert tab.evaluate("document.documentElement.scrollWidth") <= width
  names = tab.locator("#regions .legend-item")
  assert "%" in names.first.text_content()
  names.first.hover()
  assert tab.locator("#regions .mask.active").count() == 1
  # The slider: fewer regions or more, and no run of the network.
  calls = len(tab.handlers.model.calls)
  tab.fill("#threshold input[type=number]", "0")
  tab.press("#threshold input[type=number]", "Tab")
  wait_until(lambda: names.count() == 3)
  assert len(tab.handlers.model.calls) == calls
  with tab.expect_download() as download:
    tab.click("#download")
  assert download.value.suggested_filename.endswith("_regions.png")
  with Image.open(download.value.path()) as image:
    assert image.format == "PNG"
  tab.get_by_role("tab", name="Heat maps").click()
  tab.wait_for_selector("#heat_map img")
  first = tab.get_attribute("#heat_map img", "src")
  tab.locator("#heat_words label", has_text="blue").click()
  wait_until(lambda: tab.get_attribute("#heat_map img", "src") != first)


def test_words_of_any_kind_and_script(visit, tmp_path):
  tab = visit(1280)
  words = "red, café au lait, 🐈, <img src=x onerror=alert(1)>"
  dialogs = []
  tab.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
  upload(tab, small_page.write(tmp_path / "a.png"), words)
  tab.wait_for_selector("#regions .mask")
  tab.fill("#threshold input[type=number]", "0")
  tab.press("#threshold input[type=number]", "Tab")
  tab.get_by_role("tab", name="Heat maps").click()
  tab.wait_for_selector("#heat_map img")
  choices = tab.locator("#heat_words label").all_text_contents()
  assert [c.strip() for c in choices] == [w.strip() for w in words.split(",")]
  assert not dialogs and not tab.locator("img[src=x]").count()


def test_what_is_wrong_is_said_beside_the_button(visit, tmp_path):
  tab = visit(390)
  tab.click("#find")
  said = tab.locator("#note .problem")
  wait_until(lambda: "Type what to look for" in (said.text_content() or ""))
  broken = tmp_path / "broken.png"
  broken.write_bytes(small_page.png()[:50])
  upload(tab, broken, WORDS)
  wait_until(lambda: "broken.png: cannot be read" in said.text_content())
  tab.fill("#words textarea, #words input", ",".join(map(str, range(10_000))))
  tab.click("#find")
  wait_until(lambda: "10,000 words" in said.text_content())


def test_an_example_is_found_with_one_click(visit):
  tab = visit(1280)
  tab.locator("#examples .gallery-item").first.click()
  tab.wait_for_selector("#regions .mask")
  assert tab.input_value("#words textarea, #words input").count(",") >= 2
