"""The embedded data set: what a scene holds, and that it never changes."""

import json
import re

import numpy as np
import pytest

from sseg_jax import benchmarks
from sseg_jax.data import drawing, records, shapes
from sseg_jax.data.drawing import CLASS_NAMES, GROUNDS, THINGS
from sseg_jax.errors import InputError

FINGERPRINT = "de761b1e95f3fa01052a2135a76d453603d995a4f58ea801f8c0a9d0e4609ba4"
COUNT = 200


@pytest.fixture(scope="module")
def scenes():
  """Training scenes of each kind."""
  return {
    kind: [shapes.render(kind, "train", i) for i in range(COUNT)]
    for kind in shapes.KINDS
  }


def every(scenes):
  return [scene for kind in scenes.values() for scene in kind]


def names(indices):
  return {CLASS_NAMES[i] for i in indices}


def test_not_a_pixel_or_word_has_changed():
  assert shapes.fingerprint() == FINGERPRINT


def test_a_scene_follows_from_kind_split_and_index():
  first = shapes.render("hard", "val", 7)
  again = shapes.render("hard", "val", 7)
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.labels, again.labels)
  assert (first.caption, first.nouns) == (again.caption, again.nouns)
  for other in (("plain", "val", 7), ("hard", "train", 7), ("hard", "val", 8)):
    assert (shapes.render(*other).image != first.image).any()


def test_the_vocabulary_is_large_enough():
  assert len(THINGS) >= 12 and len(GROUNDS) >= 5
  assert len(set(shapes.PHRASES)) >= 20
  assert len(set(CLASS_NAMES)) == len(THINGS) + len(GROUNDS)


@pytest.mark.slow
def test_scenes_have_pictures_labels_and_two_to_four_nouns(scenes):
  counts = set()
  for scene in every(scenes):
    assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == (96, 96) and scene.labels.dtype == np.uint8
    things = [n for n in scene.nouns if n in THINGS]
    grounds = [n for n in scene.nouns if n in GROUNDS]
    assert 1 <= len(things) <= 3 and 1 <= len(grounds) <= 2
    assert len(set(scene.nouns)) == len(things) + len(grounds)
    counts.add(len(scene.nouns))
  assert counts == {2, 3, 4}


def test_captions_name_every_noun_once_and_no_other(scenes):
  for scene in every(scenes):
    words = re.findall("[a-z]+", scene.caption)
    found = [word for word in words if word in CLASS_NAMES]
    assert sorted(found) == sorted(scene.nouns), scene.caption
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", scene.caption.lower())


def test_every_noun_and_phrase_is_used(scenes):
  captions = [scene.caption for scene in every(scenes)]
  assert {n for scene in every(scenes) for n in scene.nouns} == set(CLASS_NAMES)
  for phrase in shapes.PHRASES:
    pattern = re.escape(phrase)
    for field in (r"\{things\}", r"\{ground\}"):
      pattern = pattern.replace(field, "[a-z, ]+")
    assert any(re.fullmatch(pattern, caption) for caption in captions), phrase


def test_label_maps_hold_what_was_drawn_and_little_is_hidden(scenes):
  drawn = seen = 0
  for scene in every(scenes):
    present = names(np.unique(scene.labels))
    assert present <= set(scene.nouns)
    drawn, seen = drawn + len(scene.nouns), seen + len(present)
  assert seen > 0.99 * drawn


def test_labels_lie_where_the_picture_was_drawn():
  # Two scenes' worth of things on one flat ground: labels are where it changed.
  rng = np.random.default_rng(0)
  canvas = np.full((96, 96, 3), 0.5)
  labels = np.full((96, 96), 255, np.uint8)
  before = canvas.copy()
  drawing.draw_things(rng, canvas, labels, ("box",), before, hard=False)
  changed = np.abs(canvas - before).max(-1) > 0
  inside = labels == CLASS_NAMES.index("box")
  assert inside.sum() > 50
  assert changed[inside].all()
  # Only the soft edge is drawn without being labelled.
  assert (changed & ~inside).sum() < 0.5 * inside.sum()


def test_things_are_an_eighth_to_a_third_of_the_side_across():
  index = CLASS_NAMES.index("ball")  # as wide as its diameter at any angle
  sizes = []
  for i in range(COUNT):
    canvas, labels = np.zeros((96, 96, 3)), np.full((96, 96), 255, np.uint8)
    rng = np.random.default_rng(i)
    drawing.draw_things(rng, canvas, labels, ("ball",), canvas + 0, hard=True)
    for axis in (0, 1):
      sizes.append((labels == index).any(axis).sum())
  # A pixel more or less, where the outline cuts through one.
  assert 96 / 8 - 1 <= min(sizes) < 96 / 8 + 2
  assert 96 / 3 - 2 < max(sizes) <= 96 / 3 + 1


def holds_a_held_out_pair(scene):
  return any(
    (a, b) in shapes.HELD_OUT for a in scene.nouns for b in scene.nouns
  )


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_held_out_pairs_meet_in_their_own_kind_alone(scenes, split):
  for kind in shapes.KINDS:
    if split == "train":
      found = [holds_a_held_out_pair(scene) for scene in scenes[kind]]
    else:
      found = [
        holds_a_held_out_pair(shapes.render(kind, split, i)) for i in range(50)
      ]
    assert all(found) if kind == "held_out" else not any(found)


def test_a_held_out_pair_has_two_known_nouns():
  for a, b in shapes.HELD_OUT:
    assert a in THINGS and b in CLASS_NAMES and a != b
  # Each of the nouns is still learned from other company.
  for thing in THINGS:
    partners = sum(thing in pair for pair in shapes.HELD_OUT)
    assert 1 <= partners < (len(CLASS_NAMES) - 1) / 2


def colour_accuracy(scenes):
  """Share of things told by their mean colour, by the nearest class mean."""
  colours, things = [], []
  for scene in scenes:
    for index, name in enumerate(THINGS):
      mask = scene.labels == index
      if mask.sum() > 20:
        colours.append(scene.image[mask].mean(0))
        things.append(THINGS.index(name))
  colours, things = np.array(colours), np.array(things)
  half = len(things) // 2
  means = np.stack(
    [colours[:half][things[:half] == i].mean(0) for i in range(len(THINGS))]
  )
  distance = np.linalg.norm(colours[half:, None] - means[None], axis=-1)
  return (distance.argmin(1) == things[half:]).mean()


def test_colour_tells_things_apart_in_plain_scenes_and_not_in_hard_ones(scenes):
  chance = 1 / len(THINGS)
  assert colour_accuracy(scenes["plain"]) > 4 * chance
  assert colour_accuracy(scenes["hard"]) < 2 * chance


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1 / 3, 1.0])
def test_hard_scenes_are_spread_evenly(share):
  hard = np.array([shapes.is_hard(i, share) for i in range(1000)])
  so_far = hard.cumsum()
  assert np.abs(so_far - share * np.arange(1, 1001)).max() <= 1


@pytest.mark.parametrize("arguments", [("soft", "val", 0), ("hard", "dev", 0)])
def test_an_unknown_kind_or_split_is_named(arguments):
  with pytest.raises(InputError, match="soft|dev"):
    shapes.render(*arguments)


# ---------------------------------------------------------------- on disk

SIZES = {"train_size": 6, "eval_size": 2, "hard_share": 0.5}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes")
  return folder, shapes.write(folder, **SIZES, workers=1)


def stamps(folder):
  return {
    path.relative_to(folder): path.stat().st_mtime_ns
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_records_hold_the_scenes(written):
  _, folders = written
  read = list(records.read(folders["train"]))
  assert len(read) == SIZES["train_size"]
  kinds = []
  for i, record in enumerate(read):
    kind = "hard" if shapes.is_hard(i, 0.5) else "plain"
    kinds.append(kind)
    scene = shapes.render(kind, "train", i)
    assert record.key == f"{kind}-train-{i}".encode()
    assert record.captions == (scene.caption.encode(),)
    assert record.image == shapes.png(scene.image)
    assert record.labels == shapes.png(scene.labels)
  assert kinds.count("hard") == 3
  val = list(records.read(folders["val"]))
  assert len(val) == 2 * SIZES["eval_size"]
  assert len({record.key for record in val}) == len(val)


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_benchmarks_hold_the_scenes(written, kind):
  _, folders = written
  benchmark = benchmarks.open_benchmark(folders[kind])
  assert benchmark.class_names == CLASS_NAMES and not benchmark.has_background
  assert len(benchmark) == SIZES["eval_size"]
  scene = shapes.render(kind, "val", 1)
  np.testing.assert_array_equal(benchmark[1].image, scene.image)
  np.testing.assert_array_equal(benchmark[1].labels, scene.labels)


def test_a_finished_data_set_is_left_alone(written):
  folder, folders = written
  before = stamps(folder)
  assert shapes.write(folder, **SIZES, workers=1) == folders
  assert stamps(folder) == before


@pytest.mark.slow
def test_other_arguments_or_an_unfinished_write_start_again(tmp_path):
  few = {"train_size": 2, "eval_size": 1, "hard_share": 0.0}
  folders = shapes.write(tmp_path, **few, workers=1)
  more = few | {"train_size": 3}
  shapes.write(tmp_path, **more, workers=1)
  assert len(list(records.read(folders["train"]))) == 3
  # As a run leaves it that was killed before the last file was written.
  (tmp_path / "shapes.json").unlink()
  (tmp_path / "plain" / "images" / "00000.png").write_bytes(b"half")
  shapes.write(tmp_path, **more, workers=1)
  plain = benchmarks.open_benchmark(folders["plain"])
  np.testing.assert_array_equal(
    plain[0].image, shapes.render("plain", "val", 0).image
  )


@pytest.mark.parametrize(
  "wrong", [{"train_size": 0}, {"eval_size": 0}, {"hard_share": 1.5}]
)
def test_sizes_that_make_no_sense_are_named(tmp_path, wrong):
  name, value = next(iter(wrong.items()))
  with pytest.raises(InputError, match=f"{name}={value}"):
    shapes.write(tmp_path / "new", **(SIZES | wrong))
  assert not (tmp_path / "new").exists()


def test_command(written, tmp_path, capsys):
  folder, folders = written
  flags = [f"--{name}={value}" for name, value in SIZES.items()]
  assert shapes.main([f"--out={folder}", *flags, "--json"]) == 0
  assert json.loads(capsys.readouterr().out) == folders
  assert shapes.main([f"--out={folder}", *flags]) == 0
  assert f"held_out: {folders['held_out']}" in capsys.readouterr().out
  assert shapes.main([f"--out={tmp_path}", "--train_size=0"]) == 2
  error = capsys.readouterr().err
  assert "train_size=0" in error and error.count("\n") == 1
