"""The background rule and its threshold, up to the real commands."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import cc12m, cc15m, cc26m, quickstart
from sseg_jax import evaluate, predict, prompts, stored_config, train
from sseg_jax.checkpoints import checkpoint
from sseg_jax.default_config import COMBINERS
from sseg_jax.inference import background, segmenter, sources
from sseg_jax.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("signs_of_gradients")

CLASSES = prompts.CLASS_NAMES["voc"]


def perfect_network():
  """64 queries: one a class, right at every pixel, and 44 that mean nothing.

  No loss ever pushed these down: they have half of every pixel (paper, §3.4:
  unmatched queries get no loss).
  """
  tokens = Tokenizer()([f"a photo of a {name}." for name in CLASSES])
  count = len(CLASSES)

  def apply_image(graphdef, params, model_state, images):
    number = jnp.round(images[..., 0] / 12)  # 0 for background
    own = number[:, None] == jnp.arange(1, count + 1)[None, :, None, None]
    sure = jnp.linspace(1.0, 9.0, images.shape[2])  # less on the left
    logits = jnp.where(own, sure[None, None, None], -9.0)
    rest = jnp.zeros((len(images), 64 - count, *images.shape[1:3]))
    queries = jnp.eye(64, count)[None].repeat(len(images), 0)
    return types.SimpleNamespace(
      mask_logits=jnp.concatenate([logits, rest], 1)[None],
      query_embeddings=queries,
    )

  def apply_text(graphdef, params, model_state, given):
    known = jnp.asarray(tokens[None, :, : given.shape[1]])
    return (given[:, None] == known).all(-1).astype(jnp.float32)

  return types.SimpleNamespace(
    build=lambda config: ("graph", {"logit_scale": jnp.zeros(())}, {}),
    apply_image=apply_image,
    apply_text=apply_text,
  )


def use(network, monkeypatch):
  """Lets this network stand for those of all checkpoints."""
  monkeypatch.setattr(segmenter, "sseg", network)
  monkeypatch.setattr(sources, "sseg", network)


def picture(seed, side):
  """Blocks of background and of things, grey by class, and their labels."""
  rng = np.random.default_rng(seed)
  cells = rng.integers(0, len(CLASSES) + 1, (8, 8))
  cells[rng.random(cells.shape) < 0.6] = 0  # most of it is background
  labels = cells.repeat(side // 8, 0).repeat(side // 8, 1)
  return (labels[..., None] * 12).repeat(3, -1).astype(np.uint8), labels


def write_voc(root, side):
  """Makes the layout of Pascal VOC 2012, four pictures in each split."""
  base = root / "VOCdevkit" / "VOC2012"
  lists = base / "ImageSets" / "Segmentation"
  for folder in (base / "JPEGImages", base / "SegmentationClass", lists):
    folder.mkdir(parents=True)
  for start, split in ((0, "train"), (100, "val")):
    names = [f"2007_{start + i:06d}" for i in range(4)]
    for i, name in enumerate(names):
      image, labels = picture(start + i, side)
      Image.fromarray(image).save(
        base / "JPEGImages" / f"{name}.jpg", quality=100
      )
      Image.fromarray(labels.astype(np.uint8)).save(
        base / "SegmentationClass" / f"{name}.png"
      )
    (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
  return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
  """Pictures of 64 pixels a side."""
  return write_voc(tmp_path_factory.mktemp("data"), 64)


def small():
  """The paper's fields for pictures of 64 pixels, to be quick."""
  config = cc26m.get_config()
  config.evaluate.image_size = 64
  config.evaluate.stride = 32
  return config


def save(workdir, config, **metadata):
  checkpoints = checkpoint.Checkpoints(
    workdir / "checkpoints",
    keep=1,
    every_steps=1,
    every_minutes=0.0,
    metadata={"config": config.to_dict(), **metadata},
  )
  scale = jnp.asarray(np.log(1 / 0.07), jnp.float32)
  checkpoints.save(7, {"params": {"logit_scale": scale}, "model_state": {}})
  checkpoints.close()
  return workdir


def scores(capsys, argv):
  assert evaluate.main([*argv, "--json"]) == 0
  return json.loads(capsys.readouterr().out)["voc"]


@pytest.mark.slow
def test_a_perfect_network_scores_100_under_the_papers_configs(
  tmp_path, capsys, monkeypatch
):
  voc = write_voc(tmp_path, 448)
  config = cc26m.get_config()
  for other in (cc12m, cc15m):
    assert other.get_config().evaluate == config.evaluate
    assert other.get_config().model == config.model
  use(perfect_network(), monkeypatch)
  workdir = save(tmp_path, config)
  argv = [
    f"--checkpoint={workdir}",
    f"--data_root={voc}",
    "--benchmarks=voc",
  ]
  found = scores(capsys, argv)
  assert found["mIoU"] == 100
  assert found["threshold_source"] == "chosen on 4 pictures of train"
  # It is stored, and used by the other commands.
  kept = checkpoint.load(workdir).metadata["thresholds"]
  assert kept["voc"] == found["threshold"]
  image, labels = picture(100, 448)
  Image.fromarray(image).save(tmp_path / "p.png")
  argv = [
    f"--checkpoint={workdir}",
    f"--words={','.join(CLASSES)}",
    f"--image={tmp_path / 'p.png'}",
    f"--out={tmp_path / 'out'}",
    "--json",
  ]
  assert predict.main(argv) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["threshold_source"] == "checkpoint (default)"
  with Image.open(result["labels"]) as found:
    np.testing.assert_array_equal(np.asarray(found), labels)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_every_combiner_has_its_threshold(
  combiner, voc, tmp_path, capsys, monkeypatch
):
  """Also the commands take each of them, and choose anew for another one."""
  use(perfect_network(), monkeypatch)
  workdir = save(tmp_path, small(), thresholds={"voc": 0.07})
  argv = [
    f"--checkpoint={workdir}",
    f"--data_root={voc}",
    "--benchmarks=voc",
    "--choose_threshold_split=train",
    f"--combiner={combiner}",
  ]
  found = scores(capsys, argv)
  assert found["mIoU"] == 100
  assert found["combiner"] == combiner
  assert found["threshold_choice"]["without_labels"]["mIoU"] == 100
  stored = checkpoint.load(workdir).metadata["thresholds"]
  assert stored == {"voc": 0.07}, "another combiner's threshold is not kept"


@pytest.mark.parametrize("split", ["val", "val2012"])
def test_no_threshold_from_the_pictures_that_are_scored(
  split, voc, tmp_path, capsys, monkeypatch
):
  use(perfect_network(), monkeypatch)
  workdir = save(tmp_path, small())
  lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
  (lists / "val2012.txt").write_text((lists / "val.txt").read_text())
  argv = [
    f"--checkpoint={workdir}",
    f"--data_root={voc}",
    "--benchmarks=voc",
    f"--choose_threshold_split={split}",
  ]
  assert evaluate.main(argv) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "is the split that is scored" in error or "chosen on it" in error


def test_a_folder_without_splits_has_no_training_pictures(
  tmp_path, capsys, monkeypatch
):
  use(perfect_network(), monkeypatch)
  folder = tmp_path / "mine"
  for part in ("images", "labels"):
    (folder / part).mkdir(parents=True)
  (folder / "classes.txt").write_text("\n".join(["background", *CLASSES]))
  image, labels = picture(3, 64)
  Image.fromarray(image).save(folder / "images" / "a.png")
  Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / "a.png")
  workdir = save(tmp_path, small())
  argv = [f"--checkpoint={workdir}", f"--benchmarks={folder}"]
  assert evaluate.main([*argv, "--choose_threshold_split=train"]) == 2
  assert "has no split='train'" in capsys.readouterr().err
  assert evaluate.main([*argv, "--json"]) == 0
  result = json.loads(capsys.readouterr().out)["mine"]
  assert result["threshold_source"] == "the scores, without labels"
  assert result["mIoU"] == 100 and result["split"] is None


def test_thresholds_move_with_the_number_of_words():
  """A threshold at chance stays at chance; the odds against others stay."""
  assert background.same_odds(1 / 20, 20, 4) == pytest.approx(1 / 4)
  # Three times as likely as each of the others, among 20 and among 2.
  assert background.same_odds(3 / 22, 20, 2) == pytest.approx(3 / 4)
  for value, classes, other in ((0.0, 20, 3), (0.4, 1, 3), (0.4, 3, 1)):
    assert background.same_odds(value, classes, other) == value
  metadata = background.to_store(
    {"voc": 3 / 22, "coco": 0.2}, {"voc": 20, "coco": 80}, "mean"
  )
  two = background.stored(metadata, "default", 2, "mean")
  assert two.value == pytest.approx(3 / 4)
  assert background.stored(metadata, "coco", 80, "mean").value == 0.2
  assert background.stored(metadata, "coco", 80, "hard") is None


def test_the_best_threshold_is_in_the_middle_of_equals():
  curve = [(0.0, 10.0), (0.2, 50.0), (0.3, 50.0), (0.6, 50.0), (0.9, np.nan)]
  assert background.choose(curve) == (0.3, 50.0)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 64.0])
def test_calibration_parts_two_kinds_of_scores(scale, rng):
  low = rng.uniform(0.05, 0.1, 3000)
  high = rng.uniform(0.3, 0.9, 1000)
  found = background.calibrate(np.concatenate([low, high]) * scale)
  assert 0.1 * scale <= found <= 0.3 * scale
  assert background.calibrate(np.full((4, 4), 0.3)) == 0


def test_the_old_default_is_no_threshold():
  """Checkpoints of older runs hold 0.95, which nobody chose."""
  stored = quickstart.get_config().to_dict()
  stored["evaluate"]["background_threshold"] = 0.95
  assert stored_config.completed(stored).evaluate.background_threshold is None
  stored["evaluate"]["background_threshold"] = 0.5
  assert stored_config.completed(stored).evaluate.background_threshold == 0.5


@pytest.mark.slow
def test_a_run_chooses_and_stores_its_thresholds(tmp_path, tiny_config):
  """On the training split of its benchmark, at each evaluation and its end."""
  folder = tmp_path / "mine"
  for split, start in (("train", 0), ("val", 9)):
    for part in ("images", "labels"):
      (folder / part / split).mkdir(parents=True)
    for i in range(2):
      image, labels = picture(start + i, 64)
      name = f"{split}/{i}.png"
      Image.fromarray(image).save(folder / "images" / name)
      Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / name)
  (folder / "classes.txt").write_text("\n".join(["background", *CLASSES]))
  tiny_config.text.layers = 1
  tiny_config.data.source = "shapes"
  tiny_config.total_steps = 4
  tiny_config.checkpoint.every_steps = 2
  tiny_config.evaluate.every_steps = 2
  tiny_config.evaluate.benchmarks = str(folder)
  workdir = tmp_path / "run"
  result = train.train(tiny_config, workdir)
  scored = result["benchmarks"]["mine"]
  assert scored["threshold_source"] == "chosen on 2 pictures of train"
  for step, count in ((2, None), (4, scored["threshold"])):
    metadata = checkpoint.load(workdir, step=step).metadata
    kept = metadata["thresholds"]
    assert kept["mine"] == kept["default"]
    assert count is None or kept["mine"] == count
    assert metadata["thresholds_of"]["combiner"] == "mean"
