"""S-Seg+: labels of a teacher, resumed jobs, and the whole command."""

import dataclasses
import io
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from PIL import Image
from test_resume import StopAfter
from test_segmenter import COLOURS, stripes

from sseg_jax import self_training_fields
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import label_classes, manifest, records, soft_labels
from sseg_jax.errors import InputError
from sseg_jax.inference import by_protocol, protocols
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.runtime import preemption
from sseg_jax.self_training import (
  class_share,
  labelling,
  pictures,
  run,
  teacher,
)

pytestmark = pytest.mark.usefixtures("signs_of_gradients")

SIZES = ((32, 48), (32, 32), (32, 48), (64, 32), (32, 48))


@pytest.fixture
def red(coloured):
  """Makes teachers that know red, green and blue."""

  def make(threshold=None, min_score=0.0):
    return teacher.Teacher(
      coloured.segmenter,
      ClassSet(COLOURS, ("{}",)),
      threshold,
      min_score,
      {"teacher_sha256": "aa", "threshold": threshold, "min_score": min_score},
    )

  return make


def _records(folder, labels=b"", count=1):
  with records.RecordWriter(str(folder), shard_size=2) as writer:
    for i, size in enumerate(SIZES * count):
      png = records.encode_png(stripes(*size)[0])
      more = {"labels": labels, "captions": (b"x",)} if labels else {}
      writer.write(records.Record(b"%d" % i, png, **more))
  return str(folder)


def _label(made, folder, out, names="", **how):
  parts = pictures.open_parts(str(folder), names, 2)
  labelling.label(made, parts, str(out), **how)
  return labelling.finish(made, parts, str(out))


def _maps(out):
  found = {}
  for record in records.read(str(out)):
    found[record.key.decode()] = np.asarray(
      Image.open(io.BytesIO(record.labels))
    )
  return found


def _files(folder):
  return {
    p.name: p.read_bytes()
    for p in pathlib.Path(folder).iterdir()
    if p.suffix != ".png"
  }


def test_records_get_the_teacher_s_labels_and_keep_none_of_their_own(
  red, tmp_path
):
  bare = _records(tmp_path / "bare")
  # What no reader of label maps would take.
  given = _records(tmp_path / "given", labels=b"not read")
  report = _label(red(), bare, tmp_path / "a", batch_size=2)
  assert (report.records, report.ignored) == (5, 0)
  maps = _maps(tmp_path / "a")
  for i, size in enumerate(SIZES):
    assert np.mean(maps[str(i)] == stripes(*size)[1]) > 0.9
  found = manifest.read_manifest(str(tmp_path / "a"))
  assert found.labels and found.info[label_classes.KEY] == list(COLOURS)
  assert (tmp_path / "a" / labelling.SHEET).is_file()
  _label(red(), given, tmp_path / "b")
  for one, other in zip(
    records.read(str(tmp_path / "a")),
    records.read(str(tmp_path / "b")),
    strict=True,
  ):
    assert one == other and not one.captions


def test_background_and_unsure_pixels(red, tmp_path):
  folder = _records(tmp_path / "in")
  _label(red(threshold=0.99), folder, tmp_path / "a")
  maps = _maps(tmp_path / "a")["1"]
  found = manifest.read_manifest(str(tmp_path / "a"))
  assert found.info[label_classes.KEY] == ["background", *COLOURS]
  assert set(np.unique(maps)) <= {0, 1, 2, 3} and (maps == 0).any()
  _label(red(min_score=0.99), folder, tmp_path / "b")
  unsure = _maps(tmp_path / "b")["1"]
  # The same pixels, but for the surest, which are never background.
  assert ((unsure == 255) >= (maps == 0)).all()


def _soft(made):
  return dataclasses.replace(
    made,
    soft=True,
    made_with=made.made_with | {"labels": "soft", "soft_classes": 4},
  )


def _planes(out):
  found = {}
  for record in records.read(str(out)):
    image = Image.open(io.BytesIO(record.soft_labels))
    width, height = image.size
    shape = soft_labels.PLANES, height // soft_labels.PLANES, width
    found[record.key.decode()] = np.asarray(image).reshape(shape)
  return found


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_soft_labels_are_the_scores_beside_the_labels_of_hard_ones(
  red, tmp_path, threshold
):
  made = red(threshold=threshold)
  folder = _records(tmp_path / "in")
  _label(made, folder, tmp_path / "hard")
  _label(_soft(made), folder, tmp_path / "soft", batch_size=2)
  hard, soft = (_maps(tmp_path / name) for name in ("hard", "soft"))
  jax.tree.map(np.testing.assert_array_equal, soft, hard)
  found = manifest.read_manifest(str(tmp_path / "soft"))
  assert found.info[soft_labels.KEY] == 4 and found.labels
  first, seen = int(threshold is not None), set()
  planes = _planes(tmp_path / "soft")
  for i, size in enumerate(SIZES):
    image = stripes(*size)[0]
    scores = made.segmenter.scores(image, made.class_set)
    shares = scores / scores.sum(-1, keepdims=True)
    labels, classes = soft[str(i)], planes[str(i)][:3]
    assert planes[str(i)].shape == (6, *size)
    weights = planes[str(i)][3:] / 255
    seen |= set(np.unique(labels))
    for y, x in np.ndindex(*size):
      got = np.zeros(first + 3)
      got[labels[y, x]] += 1 - weights[:, y, x].sum()
      for j in range(3):
        got[classes[j, y, x]] += weights[j, y, x]
      expected = np.zeros(first + 3)
      if first and labels[y, x] == 0:
        expected[0] = 1  # background is sure
      else:
        expected[first:] = shares[y, x]
      np.testing.assert_allclose(got, expected, atol=3 / 255)
  assert seen == set(range(first + 3))


def test_soft_labels_of_a_list_with_background_are_odds(red):
  class Known(SSegSegmenter):
    def __init__(self):
      pass

    known = COLOURS
    config = types.SimpleNamespace(
      data=types.SimpleNamespace(classes=("background", *COLOURS))
    )

    def scores_many(self, images, class_set):
      p = np.array([0.2, 0.4, 0.3, 0.1], np.float32)  # background first
      shares = p[1:] / (p[1:] + p[0])
      return np.broadcast_to(shares, (*images.shape[:3], 3))

  made = dataclasses.replace(_soft(red(threshold=0.5)), segmenter=Known())
  (answer,) = made.answer(np.zeros((1, 4, 4, 3), np.uint8))
  assert (answer.labels == 1).all()
  np.testing.assert_array_equal(answer.soft[:2, 0, 0], [2, 3])
  np.testing.assert_allclose(
    answer.soft[3:, 0, 0] / 255, [0.375, 0.125, 0], atol=0.003
  )


def test_hard_and_soft_labels_are_told_apart_and_a_killed_job_goes_on(
  red, tmp_path
):
  folder = _records(tmp_path / "in")
  _label(red(), folder, tmp_path / "hard")
  _label(_soft(red()), folder, tmp_path / "soft")
  for made, out, message in (
    (red(), "soft", 'another self_training.labels \\("soft", not "hard"\\)'),
    (_soft(red()), "hard", 'another self_training.labels \\("hard", not "soft'),
  ):
    with pytest.raises(InputError, match=message):
      _label(made, folder, tmp_path / out)
  left = [4]

  def dies():
    left[0] -= 1
    if not left[0]:
      raise preemption.Stopped

  with pytest.raises(preemption.Stopped):
    _label(_soft(red()), folder, tmp_path / "out", check=dies)
  _label(_soft(red()), folder, tmp_path / "out")
  assert _files(tmp_path / "out") == _files(tmp_path / "soft")


def test_labels_are_those_of_the_mean_of_views(red, tmp_path, monkeypatch):
  """Of a teacher that errs on the left: the mirrored view puts it right."""
  one = red()
  right = one.segmenter.score_windows

  def errs(windows, class_set):
    scores = right(windows, class_set)
    half = scores.shape[2] // 2
    scores[:, :, :half] = scores[:, :, :half] * 0.3 + [0.4, 0.0, 0.3]
    return scores

  monkeypatch.setattr(one.segmenter, "score_windows", errs)
  image, wanted = stripes(*SIZES[1])

  def views(flip):
    protocol = protocols.own(32, 16, "simple", flip=flip)
    return by_protocol.ByProtocol(one.segmenter, protocol)

  alone = views(False).scores(image, one.class_set).argmax(-1)
  assert np.mean(alone == wanted) < 0.9
  made_with = one.made_with | {"flip": True, "scales": [1.0]}
  two = dataclasses.replace(one, made_with=made_with, views=views(True))
  folder, out = _records(tmp_path / "in"), tmp_path / "labels"
  _label(two, folder, out)
  assert np.mean(_maps(out)["1"] == wanted) > 0.9
  message = r"another self_training.flip \(true, not false\)"
  with pytest.raises(InputError, match=message):
    _label(one, folder, out)


@pytest.mark.slow
def test_the_fields_say_how_the_teacher_sees_pictures(stored_network, tmp_path):
  fields = self_training_fields.defaults()
  fields.teacher = str(stored_network / "export")
  fields.classes = str(tmp_path / "classes.txt")
  (tmp_path / "classes.txt").write_text("cat\ndog\n")
  once = teacher.load(fields)
  assert once.views is None and not {"flip", "scales"} & set(once.made_with)
  fields.flip, fields.scales = True, (0.5, 1.0)
  several = teacher.load(fields)
  protocol = several.views.protocol
  assert protocol.flip and protocol.scales == (0.5, 1.0)
  assert protocol.short_side == several.segmenter.image_size
  assert several.made_with["flip"] and several.made_with["scales"] == [0.5, 1.0]


def test_the_surest_share_of_each_label_is_kept(rng):
  labels = np.repeat([[0, 1]], 10, 0)
  sureness = np.stack([np.arange(10), 100 + np.arange(10)], -1).astype(float)
  kept = teacher.surest(labels, sureness, 0.3)
  # The last three of both, though all of label 1 are surer than label 0.
  np.testing.assert_array_equal(kept.sum(0), [3, 3])
  assert kept[-3:].all()
  # One that is equally sure stays as well, and a label keeps a pixel at least.
  assert teacher.surest(labels, 0 * sureness, 0.1).all()
  assert teacher.surest(labels, sureness, 0.01).sum() == 2


def test_unsure_labels_are_ignored_in_each_label(red, tmp_path):
  folder = _records(tmp_path / "in")
  some = dataclasses.replace(
    red(), keep_share=0.5, made_with=red().made_with | {"keep_share": 0.5}
  )
  whole, half = tmp_path / "whole", tmp_path / "half"
  _label(red(), folder, whole)
  report = _label(some, folder, half)
  assert 0 < report.ignored <= 50
  for key, labels in _maps(half).items():
    all_labels = _maps(whole)[key]
    known = labels != 255
    np.testing.assert_array_equal(labels[known], all_labels[known])
    assert set(np.unique(all_labels)) == set(np.unique(labels[known]))
  with pytest.raises(InputError, match="another keep_share .*0.5, not 0.25"):
    made = some.made_with | {"keep_share": 0.25}
    _label(dataclasses.replace(some, made_with=made), folder, half)


def _class_share(share, images=1024):
  c = self_training_fields.defaults()
  c.class_share, c.class_share_images, c.batch_size = share, images, 2
  return c


def test_the_surest_share_of_each_class_over_all_pictures_is_kept(
  red, tmp_path, monkeypatch
):
  # A teacher of two labels: "red" is less sure in each next picture.
  made = red()
  monkeypatch.setattr(class_share, "_PIXELS", 2**20)
  sure, numbers = {}, iter(range(100))

  def found(self, images):
    for image in images:
      key = image.tobytes()
      if key not in sure:
        sure[key] = 0.9 - 0.1 * next(numbers)
      labels = np.zeros(image.shape[:2], int)
      labels[:, 8:] = 1
      yield labels, np.where(labels, 0.2, sure[key]).astype(np.float32)

  monkeypatch.setattr(teacher.Teacher, "found", found)
  with records.RecordWriter(str(tmp_path / "in"), shard_size=2) as writer:
    for i in range(5):
      image = np.full((32, 32, 3), 40 * i, np.uint8)
      writer.write(records.Record(b"%d" % i, records.encode_png(image)))
  parts = pictures.open_parts(str(tmp_path / "in"), "", 2)
  out = tmp_path / "out"
  some = class_share.limited(made, parts, _class_share(0.6), str(out))
  # Of label 0 the three surest of five pictures; label 1 is equally sure in
  # all and stays; no pixel has label 2, of which nothing is known.
  np.testing.assert_allclose(some.least[:2], [0.7, 0.2], atol=1e-6)
  assert some.least[2] < 0
  _label(some, tmp_path / "in", out)
  for i in range(5):
    labels = _maps(out)[str(i)]
    assert (labels[:, :8] == (0 if i < 3 else 255)).all()
    assert (labels[:, 8:] == 1).all()
  # Only the first pictures are looked at.
  two = class_share.limited(made, parts, _class_share(0.5, 2), "nowhere")
  np.testing.assert_allclose(two.least[0], 0.9, atol=1e-6)
  # A job that goes on takes the scores that it wrote.
  monkeypatch.setattr(class_share, "least", None)
  again = class_share.limited(made, parts, _class_share(0.6), str(out))
  np.testing.assert_array_equal(again.least, some.least)
  assert again.made_with == some.made_with
  with pytest.raises(InputError, match="another class_share .*0.6, not 1"):
    _label(made, tmp_path / "in", out)


def test_a_share_of_background_keeps_its_lowest_scores(red, rng):
  made = red(threshold=0.5)
  best = rng.uniform(size=(1, 20, 20)).astype(np.float32)
  index = np.ones((1, 20, 20), int)
  made = dataclasses.replace(
    made, least=np.array([-0.3, 0, 0.8, 0], np.float32)
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(teacher, "winners", lambda *_: (best, index))
    labels = made.label(np.zeros((1, 20, 20, 3), np.uint8))
  wanted = np.where(best < 0.5, 0, 2)
  unsure = np.where(best < 0.5, best > 0.3, best < 0.8)
  np.testing.assert_array_equal(labels, np.where(unsure, 255, wanted))


def test_a_killed_job_goes_on_and_gives_the_same_bytes(
  red, tmp_path, monkeypatch
):
  folder = _records(tmp_path / "in")
  _label(red(), folder, tmp_path / "whole")
  left = [4]

  def dies():
    left[0] -= 1
    if not left[0]:  # in the middle of the second shard
      raise preemption.Stopped

  with pytest.raises(preemption.Stopped):
    _label(red(), folder, tmp_path / "out", check=dies)
  assert not manifest.is_finished(str(tmp_path / "out"))
  seen = []
  _label(red(), folder, tmp_path / "out", check=lambda: seen.append(1))
  assert len(seen) == 3
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_processes_share_the_parts(red, tmp_path):
  folder = _records(tmp_path / "in")
  _label(red(), folder, tmp_path / "whole")
  parts = pictures.open_parts(folder, "", 2)
  out = str(tmp_path / "out")
  labelling.label(red(), parts, out, process_index=1, process_count=2)
  with pytest.raises(InputError, match="shard 0 is missing"):
    labelling.finish(red(), parts, out)
  labelling.label(red(), parts, out, process_index=0, process_count=2)
  labelling.finish(red(), parts, out)
  assert _files(out) == _files(tmp_path / "whole")


def test_labels_of_something_else_are_refused_by_name(red, tmp_path):
  folder = _records(tmp_path / "in")
  out = tmp_path / "out"
  _label(red(), folder, out)
  with pytest.raises(InputError, match="another background threshold.*0.5"):
    _label(red(threshold=0.5), folder, out)
  with pytest.raises(InputError, match="other pictures .*delete the folder"):
    _label(red(), _records(tmp_path / "more", count=2), out)
  with pytest.raises(InputError, match="records that are not labels"):
    _label(red(), folder, folder)
  (out / labelling.MADE_WITH).write_text("{")
  with pytest.raises(InputError, match="labels.json is damaged"):
    _label(red(), folder, out)


def test_a_folder_of_pictures(red, tmp_path):
  photos = tmp_path / "photos"
  photos.mkdir()
  for name in ("a", "b", "c"):
    Image.fromarray(stripes(32, 48)[0]).save(photos / f"{name}.png")
  (photos / "d.jpg").write_bytes(b"no picture")
  report = _label(red(), photos, tmp_path / "out")
  assert report.records == 3
  assert report.rejected == {"unreadable": {"count": 1, "examples": ["d.jpg"]}}
  assert "unreadable: 1 (d.jpg)" in str(report)
  for labels in _maps(tmp_path / "out").values():
    assert np.mean(labels == stripes(32, 48)[1]) > 0.9
  (tmp_path / "list.txt").write_text("c 1\na.png\n")
  _label(red(), photos, tmp_path / "some", str(tmp_path / "list.txt"))
  assert list(_maps(tmp_path / "some")) == ["c.png", "a.png"]


@pytest.mark.parametrize(
  ("given", "names", "message"),
  [
    ("", "", "self_training.pictures is empty"),
    ("nowhere", "", "nowhere: no such file or folder"),
    ("empty", "", "self_training.pictures: .*is a folder without pictures"),
    ("photos", "list", "list: has 1 names, as 'z', of no picture"),
    ("photos", "nolist", "nolist: cannot be read as a text file"),
    ("records", "list", "has records alone; leave names out"),
  ],
)
def test_pictures_that_cannot_be_had(
  given, names, message, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ("empty", "photos"):
    (tmp_path / name).mkdir()
  Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
  (tmp_path / "list").write_text("a\nz\n")
  _records(tmp_path / "records")
  with pytest.raises(InputError, match=message):
    pictures.open_parts(given, names, 2)


@pytest.fixture(scope="module")
def config(make_tiny_config, stored_network, tmp_path_factory):
  """A run whose teacher is a tiny network with random weights."""
  folder = tmp_path_factory.mktemp("target")
  with records.RecordWriter(str(folder / "in"), shard_size=4) as writer:
    for i in range(8):
      picture = records.encode_png(np.roll(stripes(32, 32)[0], i, 1))
      writer.write(records.Record(b"%d" % i, picture))
  for part in ("images", "labels"):
    (folder / "mine" / part).mkdir(parents=True)
  image, labels = stripes(32, 32)
  Image.fromarray(image).save(folder / "mine" / "images" / "a.png")
  Image.fromarray(labels.astype(np.uint8)).save(
    folder / "mine" / "labels" / "a.png"
  )
  (folder / "mine" / "classes.txt").write_text("\n".join(COLOURS))
  c = make_tiny_config()
  c.task, c.total_steps = "supervised", 4
  c.text.frozen = True
  c.model.deep_supervision = False
  c.checkpoint.every_steps = c.evaluate.every_steps = 0
  c.evaluate.benchmarks = str(folder / "mine")
  c.self_training.teacher = str(stored_network / "run")
  c.self_training.pictures = str(folder / "in")
  c.self_training.classes = str(folder / "mine" / "classes.txt")
  return c.lock()


def _times(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def _changed(config, **fields):
  other = config.copy_and_resolve_references().unlock()
  for name, value in fields.items():
    part, _, field = name.rpartition("__")
    (other[part] if part else other)[field] = value
  return other


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"self_training__classes": ""}, "self_training.classes is empty"),
    ({"self_training__classes": "x.txt"}, "self_training.classes: .*x.txt"),
    (
      {"self_training__background": True},
      "has no background threshold; .*give",
    ),
    ({"self_training__teacher": "nowhere"}, "nowhere"),
    ({"evaluate__benchmarks": ""}, "evaluate.benchmarks is empty"),
  ],
)
def test_what_cannot_work_is_one_line(config, tmp_path, fields, message):
  with pytest.raises(InputError, match=message):
    run.run(_changed(config, **fields), tmp_path)
  assert not (tmp_path / "student").exists()


@pytest.mark.slow
def test_the_whole_run_and_a_stop_in_each_phase(
  config, tmp_path, monkeypatch, stored_network
):
  before = _times(stored_network)
  straight = run.run(config, tmp_path / "a", StopAfter(1000))
  out = tmp_path / "b"
  # While it labels.
  assert run.run(config, out, StopAfter(3)) == {"preempted": 0}
  # While it trains: the eight pictures are labelled first.
  assert run.run(config, out, StopAfter(8 + 3)).keys() == {"preempted"}
  assert not (out / "result.json").exists()
  # Equal weights have equal scores, which take long to compile.
  monkeypatch.setattr(
    run.checkpoint_scores, "run", lambda path, *_: {"mine": {"mIoU": len(path)}}
  )
  resumed = run.run(config, out, StopAfter(1000))
  assert resumed == json.loads((out / "result.json").read_text())
  one, other = (
    checkpoint.load(tmp_path / name / "student") for name in ("a", "b")
  )
  assert one.step == other.step == 4
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  assert straight["labels"] == resumed["labels"]
  for result in (straight, resumed):
    of_teacher, of_student = (
      result[name]["benchmarks"]["mine"]["mIoU"]
      for name in ("teacher", "student")
    )
    difference = pytest.approx(of_student - of_teacher, abs=0.01)
    assert result["difference"] == {"mine": difference, "mean": difference}
  assert 0 <= straight["student"]["benchmarks"]["mine"]["mIoU"] <= 100
  # It started from the teacher, its words stayed, and the rest learned.
  was = checkpoint.load(stored_network / "run").params
  jax.tree.map(np.testing.assert_array_equal, was["text"], one.params["text"])
  moved = jax.tree.map(
    lambda a, b: float(abs(a - b).max()),
    was["backbone"],
    one.params["backbone"],
  )
  assert 0 < max(jax.tree.leaves(moved)) < 0.1
  assert _times(stored_network) == before
  lines = run.headline(straight).splitlines()
  assert [line.split(":")[0] for line in lines] == [
    *("teacher", "student", "difference")
  ]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["text", "classes"])
def test_a_student_learns_soft_labels(config, tmp_path, monkeypatch, head):
  other = _changed(config, self_training__labels="soft", model__head=head)
  other.text.frozen = head == "text"
  other.self_training.start = "scratch"
  monkeypatch.setattr(
    run.checkpoint_scores, "run", lambda path, *_: {"mine": {"mIoU": 1.0}}
  )
  result = run.run(other.lock(), tmp_path / "run", StopAfter(1000))
  assert result["labels"]["made_with"]["labels"] == "soft"
  assert checkpoint.load(tmp_path / "run" / "student").step == 4
  # It goes on alone, and says what it lacks.
  student = run.student_config(other, "", "", COLOURS)
  student.data.train = _records(tmp_path / "in", labels=b"x", count=2)
  student.data.classes = COLOURS
  with pytest.raises(InputError, match="in holds no soft labels"):
    run.train.train(student, tmp_path / "alone", StopAfter(1000))


@pytest.mark.slow
def test_all_processes_end_alike_if_one_was_asked_to_stop(
  config, tmp_path, monkeypatch
):
  # This process has labelled its pictures; another one was stopped meanwhile.
  monkeypatch.setattr(run, "any_process", lambda flag: True)
  found = run.run(config, tmp_path, StopAfter(1000))
  assert found == {"preempted": 0}
  assert not (tmp_path / "student").exists()


def test_a_vote_of_any_process_counts(monkeypatch):
  assert run.any_process(True) and not run.any_process(False)
  monkeypatch.setattr(run.jax, "process_count", lambda: 2)
  for other, expected in ((1, True), (0, False)):
    monkeypatch.setattr(
      run.multihost_utils,
      "process_allgather",
      lambda mine, other=other: np.array([mine, other]),
    )
    assert run.any_process(False) is expected


@pytest.mark.slow
def test_rounds_their_gain_and_a_stop_between_the_scores(
  config, tmp_path, monkeypatch, stored_network
):
  two = _changed(
    config,
    self_training__rounds=2,
    # The second teacher has a fixed list of classes: those of the labels.
    model__head="classes",
    text__frozen=False,
    self_training__start="scratch",
  ).lock()
  stops = []

  def scored(path, *_):
    for stop in stops:
      stop.set()
    step = 2 if "round2" in path else "student" in path
    return {"mine": {"mIoU": (10.0, 13.0, 14.0)[step]}}

  monkeypatch.setattr(run.checkpoint_scores, "run", scored)
  straight = run.run(two, tmp_path / "a", preemption.Stop())
  gains = [row["gain"] for row in straight["rounds"]]
  assert gains == [{"mine": 3.0, "mean": 3.0}, {"mine": 1.0, "mean": 1.0}]
  assert straight["difference"]["mean"] == 4.0
  assert straight["student"]["benchmarks"]["mine"]["mIoU"] == 14.0
  assert "gain of round 2: mine +1.00" in run.headline(straight)
  made = [
    json.loads((tmp_path / "a" / name / labelling.MADE_WITH).read_text())
    for name in ("labels", "round2/labels")
  ]
  # The student labelled the same pictures with other weights.
  assert made[0].pop("teacher_sha256") != made[1].pop("teacher_sha256")
  assert made[0] == made[1]
  # Stopped after the score of the teacher.
  out = tmp_path / "b"
  stops.append(preemption.Stop())
  assert run.run(two, out, stops[0]) == {"preempted": 4}
  stops.clear()
  resumed = run.run(two, out, preemption.Stop())
  assert [row["gain"] for row in resumed["rounds"]] == gains
  assert resumed["labels"] == straight["labels"]
  one, other = (
    checkpoint.load(tmp_path / name / "round2" / "student").params
    for name in ("a", "b")
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)
