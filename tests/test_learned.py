"""What a run has learned of words: counts, ranks, regions, page, notes."""

import functools
import json
import types

import numpy as np
import pytest

from sseg_jax import content_words
from sseg_jax.data import records
from sseg_jax.errors import InputError
from sseg_jax.inference import rarity
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.learned import counts, held_out, report
from sseg_jax.models.outputs import ImageOutputs
from sseg_jax.tokenizer import Tokenizer

CAPTIONS = (
  (b"A photo of two Dogs, and a cat.", b"The dog's wooden house"),
  (b"a cat sleeps",),
  (b"snow on the roof", b""),
)


@pytest.fixture
def folder(tmp_path):
  path = str(tmp_path / "records")
  picture = records.encode_png(np.zeros((8, 8, 3), np.uint8))
  with records.RecordWriter(path, shard_size=2) as writer:
    for i, captions in enumerate(CAPTIONS):
      writer.write(
        records.Record(key=b"%d" % i, image=picture, captions=captions)
      )
  return path


def test_words_are_those_that_a_picture_can_show():
  words = content_words.words_of("A photo of 2 DOGS&#39; house,\ta caf\xe9")
  assert words == ["dogs", "house", "caf\xe9"]


def test_a_caption_counts_a_word_once(folder):
  found = counts.count([folder])
  assert (found["captions"], found["records"], found["of"]) == (5, 3, 3)
  assert found["words"] == {
    **{"cat": 2, "dog": 1, "dogs": 1, "house": 1, "roof": 1},
    **{"sleeps": 1, "snow": 1, "wooden": 1},
  }
  assert list(found["words"])[:2] == ["cat", "dog"]


def test_counts_are_of_a_sample_if_there_are_many(folder):
  found = counts.count([folder, folder], most=2)
  assert (found["captions"], found["records"], found["of"]) == (4, 2, 6)
  assert found["words"]["cat"] == 2 and "snow" not in found["words"]


def config_of(folder, task="sseg"):
  data = types.SimpleNamespace(train=folder, val=folder)
  return types.SimpleNamespace(task=task, data=data)


def test_a_run_counts_once(folder):
  first = counts.of_run(config_of(folder), "f", {})
  assert first["word_counts"]["words"]["cat"] == 2
  kept = {"records": "f", "word_counts": {"words": {}}}
  assert counts.of_run(config_of(folder), "f", kept) == {
    "word_counts": {"words": {}}
  }
  assert counts.of_run(config_of(folder), "other", kept) == first
  assert counts.of_run(config_of(folder, "supervised"), "f", {}) == {}
  assert counts.of_run(config_of(folder + "x"), "f", {}) == {}


def stored(words, captions=1234, of=50):
  return {
    "word_counts": {
      **{"words": words, "captions": captions, "records": 50, "of": of}
    }
  }


def test_a_line_tells_of_rare_words():
  metadata = stored({"cat": 10, "dog": 9, "table": 100, "wooden": 3})
  rare = functools.partial(rarity.line, metadata)
  assert rare(["cat", "the", "Table"]) is None
  assert rare(["zebra"]) == (
    "never seen: 'zebra'; counted in the 1,234 captions of training"
  )
  assert rare(["Dog", "wooden table", "striped cat"]) == (
    "never seen: 'striped' (in 'striped cat'); seldom seen: 'dog' in 9,"
    " 'wooden' (in 'wooden table') in 3; counted in the 1,234 captions of"
    " training"
  )
  assert "1,234 captions of training, a sample" in rarity.line(
    stored({}, of=51), ["zebra"]
  )
  # Checkpoints of earlier versions.
  assert rarity.line({}, ["zebra"]) is None


def test_each_word_is_told_once(capsys):
  tell = rarity.Teller(stored({"dog": 1}))
  tell(["dog"])
  tell(["dog", "zebra"])
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2
  assert "'dog'" in lines[0] and "'dog'" not in lines[1]


@pytest.mark.parametrize(
  "bad",
  [
    {"word_counts": 3},
    {"word_counts": {"words": {}}},
    stored({"dog": "2"}),
    stored({"dog": -2}),
    stored({}, captions=True),
    stored(["dog"]),
  ],
)
def test_damaged_counts_are_refused(bad):
  with pytest.raises(InputError, match="counts of words are damaged"):
    rarity.check_stored(bad)


class Network(SSegSegmenter):
  """Embeds a word by a vector of its own, and has a context of 8."""

  config = types.SimpleNamespace(
    text=types.SimpleNamespace(context_length=8),
    loss=types.SimpleNamespace(contrastive_form="global"),
  )

  def __init__(self):
    """Needs no weights."""

  def encode_tokens(self, tokens):
    cat = Tokenizer(8)(["cat"])[0, 1]
    return np.eye(3, dtype=np.float32)[np.where(tokens[:, 1] == cat, 0, 1)]


def seen(folder):
  """Three pictures; left halves fit "cat", less and less, right ones "snow"."""
  found = held_out.HeldOut(Network.config)
  masks = np.full((1, 4, 2, 4, 4), -9.0, np.float32)
  masks[:, :, 0, :, :2] = masks[:, :, 1, :, 2:] = 9
  image = np.zeros((4, 3), np.float32)
  image[:, 0] = [0.9, 0.5, 0.1, 1]
  image[:, 1] = 1 - image[:, 0]
  queries = np.zeros((4, 2, 3), np.float32)
  queries[:, 0, 0] = queries[:, 1, 1] = 1
  queries[:, :, 2] = np.array([0.1, 0.2, 0.3, 0])[:, None]
  batch = {
    "id": np.arange(4, dtype=np.uint32),
    "valid": np.array([True, True, True, False]),
    "image": np.full((4, 8, 8, 3), 200, np.uint8),
  }
  found(
    batch,
    ImageOutputs(masks, None, queries, queries, image, np.ones((4, 2))),
  )
  found.read_captions(folder)
  return found


def test_words_are_ranked_and_their_regions_found(folder):
  found = seen(folder)
  assert len(found) == found.cropped == 3
  assert found.numbers()["cat"] == 2 and "zebra" not in found.numbers()
  assert found.ranked(Network(), ["cat", "snow"]) == {"cat": 100, "snow": 100}
  regions = found.best_regions(Network(), ["cat", "snow"], 2)
  assert [len(r) for r in regions.values()] == [2, 2]
  left = regions["cat"][0].inside
  assert left.shape == (160, 160)
  assert left[:, :80].all() and not left[:, 80:].any()
  assert (regions["snow"][1].inside == ~left).all()


def test_chance_is_fifty(folder):
  found = seen(folder)
  found._pictures[0][0][:] = 1  # all pictures are alike
  assert found.ranked(Network(), ["cat"]) == {"cat": 50}
  found._captions = [{"cat"}] * 3
  assert found.ranked(Network(), ["cat"]) == {}


def test_the_report_is_whole_without_other_files(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(report, "_ENOUGH", 2)
  found = counts.count([folder])
  found["words"] = {"cat": 2, "snow": 1, "<caf\xe9>": 1}
  written = report.write(tmp_path, found, seen(folder), Network())
  assert written == json.loads((tmp_path / "words.json").read_text())
  assert written["words"] == {
    "cat": {"count": 2, "held_out": 2, "score": 100},
    "snow": {"count": 1, "held_out": 1, "score": 100},
    "<caf\xe9>": {"count": 1, "held_out": 0, "score": None},
  }
  html = (tmp_path / "words.html").read_text(encoding="ascii")
  assert html.count("data:image/jpeg;base64,") == 3  # of "cat" alone
  assert "&lt;caf&#233;&gt;" in html and "http" not in html
  assert "the 1 most frequent words that stand in 2 or more captions" in html


def test_only_a_work_directory_gets_the_report_by_itself(tmp_path):
  with pytest.raises(InputError, match="not a work directory; say with --out"):
    report.run(str(tmp_path), None)


def test_without_held_out_pictures_there_are_counts_alone(folder, tmp_path):
  report.write(tmp_path, counts.count([folder]))
  html = (tmp_path / "words.html").read_text()
  assert "no held-out pictures" in html and "<img" not in html
  words = json.loads((tmp_path / "words.json").read_text())["words"]
  assert words["cat"] == {"count": 2, "held_out": 0, "score": None}


def test_a_page_lists_a_part_of_many_words(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(report, "_LISTED", 3)
  report.write(tmp_path, counts.count([folder]))
  html = (tmp_path / "words.html").read_text()
  assert "The 3 most frequent of 8 words are listed" in html
  assert html.count("<tr><td>") == 3
