import json

import numpy as np
import pytest
from PIL import Image

from sseg_jax import evaluate, segmenter
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError
from sseg_jax.models import sseg
from sseg_jax.segmenter import ClassSet, SSegSegmenter


class Listed:
  """A benchmark from arrays."""

  def __init__(self, samples, *, has_background):
    self.name, self.class_names = "listed", ("cat", "dog")
    self.has_background, self.split = has_background, None
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
  result = evaluate.evaluate(
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
  assert result["best_threshold"]["threshold"] == 0.5
  json.dumps(result)


def test_scores_without_background():
  samples = [
    sample("a", [[0, 1]], np.array([[0.6, 0.2]]), np.array([[0.1, 0.3]])),
  ] * 5
  result = evaluate.evaluate(
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
  evaluate.evaluate(
    Coded(),
    Listed(samples, has_background=False),
    max_images=3,
    observe=lambda s, _: seen.append(s.id),
  )
  assert seen == ["0", "3", "6"]


def test_absent_classes_are_none():
  samples = [sample("a", [[0]], np.array([[0.6]]), np.array([[0.1]]))]
  result = evaluate.evaluate(Coded(), Listed(samples, has_background=False))
  assert result["per_class"] == {"cat": 100, "dog": None}


def test_threshold_sources(tiny_config):
  metadata = {"thresholds": {"voc": 0.4, "default": 0.6}}
  choose = evaluate.choose_threshold
  assert choose("voc", 0.1, metadata, tiny_config) == (0.1, "flag")
  assert choose("voc", None, metadata, tiny_config)[0] == 0.4
  assert choose("coco", None, metadata, tiny_config)[0] == 0.6
  assert choose("coco", None, {}, tiny_config) == (0.95, "config")
  with pytest.raises(InputError, match="negative"):
    choose("voc", -1.0, {}, tiny_config)


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


def save_checkpoint(workdir, config, **metadata):
  from sseg_jax import train_step
  from sseg_jax.checkpoint import Checkpoints

  params, model_state = sseg.init(config, 0)
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
  assert "dog" in printed.out and "4/4 images" in printed.err
  result = json.loads((out / "result.json").read_text())["pets"]
  assert result["images"] == 4 and result["threshold"] == 0.25
  assert result["step"] == 3
  assert (out / "predictions_pets.png").is_file()
  assert evaluate.main([*argv, "--json", "--max_images=2"]) == 0
  assert json.loads(capsys.readouterr().out)["pets"]["images"] == 2


def test_bad_flags(tmp_path, folder, capsys):
  argv = ["--checkpoint=none", f"--benchmarks={folder}"]
  assert evaluate.main([*argv, "--max_images=-1"]) == 2
  assert "max_images=-1" in capsys.readouterr().err
  assert evaluate.main(["--checkpoint=none", "--benchmarks=nothing"]) == 2
  assert "neither a folder" in capsys.readouterr().err
  assert evaluate.main(argv) == 2
  assert "none" in capsys.readouterr().err


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
