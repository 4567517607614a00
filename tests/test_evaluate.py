import json

import numpy as np
import pytest
from PIL import Image

from sseg_jax import evaluate, evaluation
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.checkpoints import exported
from sseg_jax.errors import InputError
from sseg_jax.exporting import folder as folder_of_export
from sseg_jax.exporting import source
from sseg_jax.inference import background, segmenter, sources
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import sseg


class Listed:
  """A benchmark from arrays."""

  def __init__(self, samples, *, has_background):
    self.name, self.class_names = "listed", ("cat", "dog")
    self.has_background, self.split = has_background, "train"
    self._samples = samples

  def __len__(self):
    return len(self._samples)

  def __getitem__(self, index):
    return self._samples[index]


class Coded:
  """A segmenter that reads its scores from the picture: red cat, green dog."""

  def scores(self, image, class_set):
    assert class_set.names == ("cat", "dog")
    return image[..., :2].astype(np.float32) / 255


def sample(name, labels, cat, dog):
  labels = np.array(labels, np.int32)
  image = np.stack([cat, dog, np.zeros_like(cat)], -1)
  return Sample(name, np.round(image * 255).astype(np.uint8), labels)


def two_samples():
  return [
    sample("a", [[0, 1]], np.array([[0.2, 0.9]]), np.array([[0.1, 0.3]])),
    # The second picture has another size, and an ignored pixel.
    sample(
      "b",
      [[2, 2, 255]],
      np.array([[0.6, 0.1, 0.5]]),
      np.array([[0.2, 0.8, 0.1]]),
    ),
  ]


def test_scores_with_background():
  benchmark = Listed(two_samples(), has_background=True)
  seen = []
  result = evaluation.evaluate(
    Coded(),
    benchmark,
    threshold=0.5,
    thresholds=(0.1,),
    observe=lambda s, labels: seen.append((s.id, labels.tolist())),
  )
  # Labels 0 1 2 2 against predictions 0 1 1 2.
  assert result["per_class"] == {"background": 100, "cat": 50, "dog": 50}
  assert result["mIoU"] == 66.67 and result["pixel_accuracy"] == 75
  assert seen == [("a", [[0, 1]]), ("b", [[1, 2, 1]])]
  assert [p["threshold"] for p in result["curve"]] == [0.1, 0.5]
  # At 0.1 nothing is background: 1 1 1 2.
  assert result["curve"][0]["mIoU"] == pytest.approx(
    100 * (0 + 1 / 3 + 0.5) / 3, abs=0.01
  )
  json.dumps(result)


def test_scores_without_background():
  samples = [
    sample("a", [[0, 1]], np.array([[0.6, 0.2]]), np.array([[0.1, 0.3]])),
  ] * 5
  result = evaluation.evaluate(
    Coded(), Listed(samples, has_background=False), batch_size=2
  )
  assert result["mIoU"] == 100 and result["images"] == 5
  assert result["threshold"] is None and "curve" not in result


def test_max_images_are_spread():
  samples = [
    sample(str(i), [[0]], np.array([[0.6]]), np.array([[0.1]]))
    for i in range(10)
  ]
  seen = []
  evaluation.evaluate(
    Coded(),
    Listed(samples, has_background=False),
    max_images=3,
    observe=lambda s, _: seen.append(s.id),
  )
  assert seen == ["0", "3", "6"]


def test_absent_classes_are_none():
  samples = [sample("a", [[0]], np.array([[0.6]]), np.array([[0.1]]))]
  result = evaluation.evaluate(Coded(), Listed(samples, has_background=False))
  assert result["per_class"] == {"cat": 100, "dog": None}


def two_kinds(name, seed, scale, classes=2, size=40):
  """A picture whose scores tell things from background, times `scale`."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes + 1, (size, size))
  best = np.where(
    labels > 0,
    rng.uniform(0.5, 0.9, labels.shape),
    rng.uniform(0.1, 0.3, labels.shape),
  )
  image = np.zeros((size, size, 3))
  for c in range(classes):
    image[..., c] = np.where(labels == c + 1, best, best / 3)
  return Sample(name, np.round(image * scale * 255).astype(np.uint8), labels)


class Scaled(Coded):
  """Scores of any range, as those of the combiner "sum"."""

  def __init__(self, factor, combiner="sum"):
    self.factor, self.combiner = factor, combiner

  def scores(self, image, class_set):
    return super().scores(image, class_set) * self.factor


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("factor", [1.0, 64.0, 0.01])
def test_threshold_follows_the_scores(scale, factor):
  """Scores up to 64, or below 0.001: a perfect network scores 100 with each."""
  training, scored = (
    Listed([two_kinds(str(i), i, scale) for i in numbers], has_background=True)
    for numbers in (range(4), range(4, 8))
  )
  segmenter = Scaled(factor)
  found, choice = evaluation.find_threshold(segmenter, scored, training)
  assert found.source == "chosen on 4 pictures of train"
  assert choice["mIoU"] == 100
  result = evaluation.evaluate(segmenter, scored, threshold=found.value)
  assert result["mIoU"] == 100
  # Without labels, from the pictures that are scored.
  found, choice = evaluation.find_threshold(segmenter, scored)
  assert found.source == "the scores, without labels" and choice is None
  result = evaluation.evaluate(segmenter, scored, threshold=found.value)
  assert result["mIoU"] > 99


def test_threshold_sources():
  scored = Listed(two_samples(), has_background=True)
  training = Listed(two_samples(), has_background=True)
  find = evaluation.find_threshold
  segmenter = Scaled(1.0, combiner="mean")
  metadata = {
    "thresholds": {"listed": 0.4, "default": 0.6},
    "thresholds_of": {"combiner": "mean"},
  }
  assert find(segmenter, scored, training, fixed=0.1)[0].value == 0.1
  found, _ = find(segmenter, scored, training, metadata=metadata)
  assert found == background.Threshold(0.4, "checkpoint (listed)")
  del metadata["thresholds"]["listed"]
  # A choice for this benchmark is worth more than another one's threshold.
  found, _ = find(segmenter, scored, training, metadata=metadata)
  assert "chosen" in found.source
  assert find(segmenter, scored, metadata=metadata)[0].value == 0.6
  # Chosen with another combiner, it means nothing.
  other = Scaled(1.0, combiner="hard")
  found, _ = find(other, scored, metadata=metadata)
  assert found == background.Threshold(40 / 41, "the number of words")
  with pytest.raises(InputError, match="=-1.0: give a score"):
    find(segmenter, scored, fixed=-1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("data") / "pets"
  (root / "images").mkdir(parents=True)
  (root / "labels").mkdir()
  (root / "classes.txt").write_text("background\ncat\ndog\n")
  rng = np.random.default_rng(0)
  for i in range(4):
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    labels = rng.integers(0, 3, (32, 32), dtype=np.uint8)
    Image.fromarray(labels).save(root / "labels" / f"{i}.png")
  return root


def save_checkpoint(workdir, config, seed=0, **metadata):
  from sseg_jax import train_step
  from sseg_jax.checkpoints.checkpoint import Checkpoints

  params, model_state = sseg.init(config, seed)
  state = train_step.TrainState(
    step=np.int32(3), params=params, model_state=model_state, opt_state=()
  )
  checkpoints = Checkpoints(
    workdir / "checkpoints",
    keep=1,
    every_steps=1,
    every_minutes=0.0,
    metadata={"config": config.to_dict(), **metadata},
  )
  checkpoints.save(3, state)
  checkpoints.close()


@pytest.mark.slow
def test_command(tmp_path, folder, tiny_config, capsys):
  save_checkpoint(tmp_path, tiny_config, thresholds={"pets": 0.25})
  out = tmp_path / "out"
  argv = [
    f"--checkpoint={tmp_path}",
    f"--benchmarks={folder}",
    f"--out={out}",
  ]
  assert evaluate.main([*argv, "--per_class"]) == 0
  printed = capsys.readouterr()
  assert "pets" in printed.out and "checkpoint (pets)" in printed.out
  assert "dog" in printed.out
  assert not printed.err  # progress is shown in terminals only
  result = json.loads((out / "result.json").read_text())["pets"]
  assert result["images"] == 4 and result["threshold"] == 0.25
  assert result["step"] == 3
  assert (out / "predictions_pets.png").is_file()
  assert evaluate.main([*argv, "--json", "--max_images=2"]) == 0
  fewer = json.loads(capsys.readouterr().out)["pets"]
  assert fewer["images"] == 2
  # An exported folder has the same scores.
  made = source.make(sources.read(tmp_path))
  (tmp_path / "exported").mkdir()
  exported.save(
    tmp_path / "exported",
    {"params": made.loaded.params, "model_state": made.loaded.model_state},
    folder_of_export.fields(made, "none"),
  )
  argv[0] = f"--checkpoint={tmp_path / 'exported'}"
  assert evaluate.main([*argv, "--json", "--max_images=2"]) == 0
  same = json.loads(capsys.readouterr().out)["pets"]
  for name in ("checkpoint", "seconds", "images_per_second"):
    del same[name], fewer[name]
  assert same == fewer
  # Its threshold is of scores of one view, so it does not count for several.
  views = ["--flip", "--scales=1,1.5"]
  assert evaluate.main([*argv, "--json", "--max_images=2", *views]) == 0
  several = json.loads(capsys.readouterr().out)["pets"]
  assert several["protocol"] == "own_views"
  settings = several["protocol_settings"]
  assert settings["flip"] and settings["scales"] == [1.0, 1.5]
  assert "checkpoint" not in several["threshold_source"]
  # Nor for masks of another kind.
  assert fewer["refine"] == "none"
  argv[0] = f"--checkpoint={tmp_path}"
  assert evaluate.main([*argv, "--json", "--refine=pseudo_masks"]) == 0
  snapped = json.loads(capsys.readouterr().out)["pets"]
  assert snapped["refine"] == "pseudo_masks"
  assert "checkpoint" not in snapped["threshold_source"]


def test_bad_flags(tmp_path, folder, capsys):
  argv = ["--checkpoint=none", f"--benchmarks={folder}"]
  assert evaluate.main([*argv, "--max_images=-1"]) == 2
  assert "max_images=-1" in capsys.readouterr().err
  assert evaluate.main(["--checkpoint=none", "--benchmarks=nothing"]) == 2
  assert "neither a folder" in capsys.readouterr().err
  assert evaluate.main(argv) == 2
  assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--checkpoint=x", "--benchmarks=y", "--k=4"], "--k: belongs to --oracle"),
    (
      ["--oracle", "--checkpoint=x", "--per_class"],
      "--checkpoint, --per_class: belongs to scores of a checkpoint",
    ),
    (["--benchmarks=y"], "--checkpoint is missing"),
    (["--checkpoint=x"], "--benchmarks is missing"),
    (
      ["--checkpoint=x", "--benchmarks=y", "--words_report"],
      "leave --benchmarks out",
    ),
    (["--words_report"], "--checkpoint is missing"),
  ],
)
def test_flags_of_the_other_kind_of_scores(argv, message, capsys):
  assert evaluate.main(argv) == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_many_small_pictures_are_scored_together(tiny_config, monkeypatch):
  params, model_state = sseg.init(tiny_config, 0)
  model = SSegSegmenter(params, model_state, tiny_config)
  calls = []
  encode = model._encode
  monkeypatch.setattr(
    model, "_encode", lambda w: calls.append(len(w)) or encode(w)
  )
  images = np.zeros((32, 32, 32, 3), np.uint8)
  segmenter.winners(model, images, ClassSet(("cat", "dog")))
  assert calls == [32]
