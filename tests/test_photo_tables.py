"""Tables of photos: the same steps and scores, without a second pass."""

import numpy as np
import pytest
import small_vit
from test_eye import config, stored, weights  # noqa: F401

from sseg_jax import train_step
from sseg_jax.benchmarks import Sample
from sseg_jax.data import pipeline
from sseg_jax.errors import InputError
from sseg_jax.evaluation import evaluate
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import teacher
from sseg_jax.study import __main__ as command
from sseg_jax.study import photos, probe, seen


@pytest.mark.slow
def test_batches_are_those_of_a_run(stored):  # noqa: F811
  held = photos.read(stored.data.train)
  assert len(held.captions) == 6
  run = pipeline.train_batches(stored)
  own = photos.batches(stored, held)
  for _ in range(4):
    wanted, found = next(run), next(own)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
      np.testing.assert_array_equal(found[name], value, name)
  run.close()


def test_features_are_cut_out(config):  # noqa: F811
  config.model.teacher_features = "tokens+keys:0+values:1"
  width = small_vit.SIZES["width"]
  where = photos.columns(config, "values:1+tokens")
  assert where == [*range(2 * width, 3 * width), *range(width)]
  with pytest.raises(InputError, match="'keys:1' are not all among"):
    photos.columns(config, "keys:1")
  held = photos.Photos(np.arange(12.0).reshape(2, 1, 6), [["a"], ["b"]])
  part = held.part(np.array([1]), [4, 0])
  assert part.features.tolist() == [[[10, 6]]] and part.captions == [["b"]]


def test_records_without_features_are_refused(stored, tmp_path):  # noqa: F811
  source = str(tmp_path / "source")
  with pytest.raises(InputError, match="hold no features of regions"):
    photos.read(source)


@pytest.mark.slow
def test_what_was_seen_gives_the_same_scores(
  config,  # noqa: F811
  tmp_path,
  monkeypatch,
):
  state = train_step.init_state(train_step.make_setup(config))
  image = np.random.default_rng(0).integers(0, 255, (32, 40, 3), np.uint8)
  classes = ClassSet(("cat", "sky"))
  wanted = SSegSegmenter(state.params, state.model_state, config).scores(
    image, classes
  )
  eye = seen.Seen(config, tmp_path)
  arguments = state.params, state.model_state, config
  found = seen.SeenSegmenter(*arguments, eye).scores(image, classes)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  again = seen.Seen(config, tmp_path)
  monkeypatch.setattr(again, "_see", None)  # files have all that is needed
  found = seen.SeenSegmenter(*arguments, again).scores(image, classes)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


class Halves(seen.Seen):
  """Sees two halves, whose feature is their mean colour."""

  def __init__(self):
    """Needs no weights."""
    self.multiple = 32

  def __call__(self, windows):
    b, h, w = windows.shape[:3]
    logits = np.full((b, 2, h // 16, w // 16), -10, np.float32)
    logits[:, 0, :, : w // 32] = logits[:, 1, :, w // 32 :] = 10
    left, right = windows[:, :, : w // 2], windows[:, :, w // 2 :]
    features = np.stack([x.mean((1, 2)) for x in (left, right)], 1)
    return teacher.Regions(
      logits, features.astype(np.float32), np.ones((b, 2), bool)
    )


class Colours:
  """Ten pictures of two halves, red (0), green (1) or blue (2), or ignored."""

  name, class_names, has_background = "colours", ("r", "g", "b"), False
  split = None

  def __len__(self):
    return 10

  def __getitem__(self, index):
    labels = np.zeros((32, 32), np.int64)
    labels[:, :16], labels[:, 16:] = index % 3, (index + 1) % 3
    image = 200 * np.eye(3)[labels] + index
    labels[:4] = 255
    return Sample(str(index), image.astype(np.uint8), labels)


def test_a_probe_learns_from_other_photos(tiny_config):
  found = probe.Probe(tiny_config, Halves(), slice(None), Colours(), seed=0)
  assert len(found._fitted) == 10
  assert evaluate(found, Colours())["mIoU"] > 99
  # No photo is scored by what was fitted to it: parts have different weights.
  assert len({id(w) for _, _, w, _ in found._fitted.values()}) == 5
  labels = Colours()[0].labels
  features, classes = found._labelled(Colours()[0], 3)
  assert classes.tolist() == [0, 1] and features.shape == (2, 3)
  assert (labels == 255).any()


def test_splits_are_joined():
  joined = seen.Joined([Colours(), Colours()])
  assert len(joined) == 20 and joined[13].id == "3"


@pytest.mark.slow
def test_a_row_trains_and_scores(stored, tmp_path):  # noqa: F811
  stored.total_steps, stored.optim.warmup_steps = 2, 1
  study = photos.Study(stored, stored.data.train, [Colours()], tmp_path)
  assert study.count == 6
  row = study.trained(1, "tokens", 4, loss__sharpness=5.0)
  assert row.keys() == {"colours mIoU", "colours pixels"}
  assert 0 <= row["colours mIoU"] <= 100
  assert len(list((tmp_path / "seen").glob("*.npz"))) == 10
  assert study.probed(0, "tokens")["colours mIoU"] >= 0


def test_a_table_has_means_and_ranges():
  rows = [
    {"row": ["150 photos", 0], "voc20 mIoU": 10.0},
    {"row": ["150 photos", 1], "voc20 mIoU": 13.0},
    {"row": ["probe", 0], "coco80 mIoU": 7.0},
  ]
  assert command.table(rows) == (
    "| row | seeds | voc20 mIoU | coco80 mIoU |\n"
    "| --- | ---: | ---: | ---: |\n"
    "| 150 photos | 2 | 11.5 (10.0-13.0) | - |\n"
    "| probe | 1 | - | 7.0 (7.0-7.0) |\n"
  )


@pytest.mark.parametrize(
  ("flag", "message"),
  [("--tables=absent", "'absent' is none of"), ("--seeds=a", "seeds='a'")],
)
def test_bad_flags_are_one_line(flag, message, tmp_path, capsys):
  argv = ["--records=x", "--data_root=y", f"--out={tmp_path}", flag]
  assert command.main(argv) == 2
  assert message in capsys.readouterr().err
