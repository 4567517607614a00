"""What the page does without a browser and without Gradio."""

import os
import random
import time

import numpy as np
import pytest
import small_page
from PIL import Image
from small_page import WORDS

from sseg_jax import demo
from sseg_jax.errors import InputError
from sseg_jax.inference.background import apply_threshold
from sseg_jax.page import examples, pictures
from sseg_jax.page.handlers import Handlers
from sseg_jax.page.kept import Kept
from sseg_jax.page.limits import Limits


@pytest.fixture
def model(monkeypatch):
  return small_page.model(monkeypatch)


@pytest.fixture
def handlers(model, tmp_path):
  return Handlers(model, tmp_path)


@pytest.fixture
def path(tmp_path):
  return small_page.write(tmp_path / "stripes.png")


# ---------------------------------------------------------------- a result


def test_a_result_has_regions_names_and_a_file(handlers, path):
  view = handlers.find(path, WORDS, "me")
  assert view.words == ("red", "green", "blue")
  assert {r.name.split()[0] for r in view.regions} <= set(view.words)
  found = handlers.model.segment(path, WORDS)
  for region in view.regions:
    name = region.name.split()[0]
    index = found.names.index(name)
    np.testing.assert_array_equal(region.mask, found.labels == index)
    assert region.colour == "#{:02x}{:02x}{:02x}".format(*found.colours[index])
    assert region.name == f"{name} {100 * found.areas[name]:.0f} %"
  areas = [region.mask.sum() for region in view.regions]
  assert areas == sorted(areas, reverse=True)
  with Image.open(view.file) as image:
    assert image.format == "PNG" and image.width > 96
  assert view.file.name == "stripes_regions.png"


def test_the_slider_runs_no_network(handlers, path):
  handlers.find(path, WORDS, "me")
  calls = len(handlers.model.calls)
  found = handlers.model.segment(path, WORDS)
  for percent in (0, 40, 87.5, 100):
    view = handlers.move(percent, "me")
    best = found.scores.max()
    labels = apply_threshold(
      found.scores, found.winners, percent / 100 * float(best)
    )
    for region in view.regions:
      name = region.name.split()[0]
      np.testing.assert_array_equal(
        region.mask, labels == 1 + found.words.index(name)
      )
    assert view.percent == percent
    shown = sum(region.mask.sum() for region in view.regions)
    assert shown == (labels > 0).sum()
  assert len(handlers.model.calls) == calls + 1  # that of this test
  with pytest.raises(InputError, match="nan %"):
    handlers.move(float("nan"), "me")


def test_a_visitor_has_one_file_to_download(handlers, path):
  first = handlers.find(path, WORDS, "me").file
  other = handlers.find(path, WORDS, "other").file
  second = handlers.move(10, "me").file
  assert second.exists() and other.exists() and not first.exists()
  assert second != first  # browsers keep files by their names


def test_threshold_0_gives_every_pixel_a_word(handlers, path):
  handlers.find(path, WORDS, "me")
  view = handlers.move(0, "me")
  assert sum(region.mask.sum() for region in view.regions) == 48 * 96
  assert not view.notes
  high = handlers.move(100, "me")
  assert any("Not found at this threshold" in note for note in high.notes)


def test_heat_maps_run_the_network_once_more(handlers, path):
  handlers.find(path, WORDS, "me")
  calls = len(handlers.model.calls)
  for word in ("red", "green", "blue"):
    assert handlers.heat(word, "me").size == (96, 48)
  assert len(handlers.model.calls) == calls + 1
  with pytest.raises(InputError, match="'teal' is none of the words"):
    handlers.heat("teal", "me")


def test_visitors_see_their_own_results(handlers, path, tmp_path):
  other = small_page.write(tmp_path / "b.png", small_page.picture(32, 32))
  handlers.find(path, WORDS, "one")
  handlers.find(other, "red, sky", "two")
  assert handlers.move(0, "one").image.shape == (48, 96, 3)
  assert handlers.move(0, "two").words == ("red", "sky")
  handlers.forget("one")
  for nobody in ("one", "three", None):
    with pytest.raises(InputError, match="Press “Find” again"):
      handlers.move(0, nobody)
  handlers.find(path, WORDS, None)  # a program without a session
  assert len(handlers.kept) == 1


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "Type what to look for"),
    (" , ,\n", "Type what to look for"),
    (",".join(f"word {i}" for i in range(10_000)), "10,000 words; .* takes 50"),
    ("x" * 6000, "6,000 letters"),
    ("cat, Background", "fits no word"),
    ("cat, CAT", "'CAT' repeats number 1"),
    ("cat, do\x00g", "U\\+0000"),
  ],
)
def test_bad_words_get_one_line(handlers, path, text, message):
  with pytest.raises(InputError, match=message) as caught:
    handlers.find(path, text, "me")
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
  assert not handlers.model.calls


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("red,  dark   green ,blue,", ("red", "dark green", "blue")),
    ("café, naïve Ärger", ("café", "naïve Ärger")),
    ("🐈, 🌳🌳, 木", ("🐈", "🌳🌳", "木")),
    ("one\ntwo", ("one", "two")),
    ("<script>alert(1)</script>, red", ("<script>alert(1)</script>", "red")),
  ],
)
def test_any_words_are_taken(handlers, path, text, words):
  view = handlers.find(path, text, "me")
  assert view.words == words


def test_a_single_word_and_a_long_one_are_explained(handlers, path):
  assert "compared with no other" in handlers.find(path, "red", "a").notes[-1]
  long = "very " * 100 + "long"
  notes = handlers.find(path, f"red, {long}", "a").notes
  assert any("does not read" in note for note in notes)
  assert max(map(len, notes)) < 120


def test_bad_pictures_get_one_line(handlers, tmp_path):
  def message(path):
    with pytest.raises(InputError) as caught:
      handlers.find(path, WORDS, "me")
    assert str(tmp_path) not in str(caught.value)
    return str(caught.value)

  broken = tmp_path / "broken.png"
  broken.write_bytes(small_page.png()[:60])
  assert message(None) == "Give a picture first."
  assert "broken.png: cannot be read as a picture" in message(broken)
  (tmp_path / "text.jpg").write_text("<svg onload=alert(1)>")
  assert "text.jpg: cannot be read" in message(tmp_path / "text.jpg")
  assert "give the picture again" in message(tmp_path / "gone.png")
  assert not handlers.model.calls


def test_oversize_is_refused_before_it_is_decoded(model, tmp_path, monkeypatch):
  handlers = Handlers(model, tmp_path, Limits(megapixels=1))
  path = tmp_path / "large.png"
  Image.new("L", (1100, 1000)).save(path)
  monkeypatch.setattr(pictures.reader, "decode", None)
  with pytest.raises(InputError, match="1100x1000 pixels; .* 1 megapixels"):
    handlers.find(path, WORDS, "me")


@pytest.mark.parametrize("size", [(3000, 2000), (20_000, 300), (40, 60)])
def test_large_pictures_are_shrunk_and_said_to_be(tmp_path, size):
  path = tmp_path / "a.png"
  Image.new("RGB", size).save(path)
  image, is_smaller = pictures.read(path, Limits())
  h, w = image.shape[:2]
  assert is_smaller == (size != (40, 60))
  assert w * h <= 2**20 and min(h, w) <= pictures.SHORT_SIDE
  # The ratio of a panorama of 15 lines is less exact.
  assert w / h == pytest.approx(size[0] / size[1], rel=0.02)


def test_any_bytes_are_answered_in_one_line(handlers, tmp_path):
  """Faults of real pictures, 100 of them."""
  rng = random.Random(0)
  good = small_page.png()
  for number in range(100):
    data = bytearray(good)
    for _ in range(rng.randint(1, 8)):
      data[rng.randrange(len(data))] = rng.randrange(256)
    path = tmp_path / f"{number}.png"
    path.write_bytes(data[: rng.randint(1, len(data))])
    words = rng.choice([WORDS, "a,,b", "é, \U0001f408", "\ud800", "a" * 900])
    try:
      handlers.find(path, words, str(number % 7))
    except InputError as error:
      assert "\n" not in str(error)


# ---------------------------------------------------------------- memory


def test_only_some_results_are_kept(handlers, path):
  handlers.find(path, WORDS, "0")
  one = handlers.kept.nbytes
  handlers.kept = Kept(limit=int(3.5 * one))
  for number in range(10):
    handlers.find(path, WORDS, str(number))
    assert handlers.kept.nbytes <= 3.5 * one
  assert len(handlers.kept) == 3
  handlers.move(0, "7")  # used last, so it stays longest
  for number in ("10", "11"):
    handlers.find(path, WORDS, number)
  assert handlers.move(0, "7").words
  with pytest.raises(InputError, match="no longer here"):
    handlers.move(0, "9")
  # Heat maps make a result larger.
  for session in ("7", "10", "11"):
    handlers.heat("red", session)
  assert handlers.kept.nbytes <= 3.5 * one


def test_a_result_above_the_limit_is_kept_alone(handlers, path):
  handlers.kept = Kept(limit=1)
  for session in ("a", "b"):
    handlers.find(path, WORDS, session)
    assert handlers.move(0, session).words
  assert len(handlers.kept) == 1


# ---------------------------------------------------------------- the command


def test_examples_are_drawn(tmp_path):
  drawn = examples.draw(tmp_path / "examples")
  assert len(drawn) == 4
  for path, words in drawn:
    assert os.path.getsize(path) and words.count(",") >= 2
    with Image.open(path) as image:
      assert image.size == (384, 384)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--port=99999"], "port=99999 must be from 0 to 65535"),
    (["--max_words=0"], "max_words=0 must be at least 1"),
  ],
)
def test_bad_flags(flags, message, capsys):
  assert demo.main(["--checkpoint=x", *flags]) == 2
  assert message in capsys.readouterr().err


def test_without_gradio_the_remedy_is_said(monkeypatch, capsys):
  monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
  assert demo.main(["--checkpoint=x"]) == 2
  error = capsys.readouterr().err
  assert "pip install 'sseg-jax[demo]'" in error and error.count("\n") == 1


@pytest.mark.slow
def test_memory_stays_flat(handlers, path, tmp_path):
  """A short form of what is measured by hand over 500 requests."""
  handlers.kept = Kept(limit=10**6)

  def resident() -> int:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

  def ask(count):
    for number in range(count):
      session = f"{time.monotonic_ns()}"
      handlers.find(path, f"red, green, word {number}", session)
      handlers.move(number % 100, session)
      handlers.heat("red", session)

  ask(20)
  before = resident()
  ask(40)
  assert resident() - before < 20e6
  assert handlers.kept.nbytes <= 10**6
