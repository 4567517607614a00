"""Other systems: from files that transformers saved to scores."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
import saved_networks
from PIL import Image

from sseg_jax import baselines, evaluate
from sseg_jax.baselines import b1, groupvit, maskclip
from sseg_jax.baselines.options import Options
from sseg_jax.errors import InputError
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models import hf_files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Two pictures, their labels, and right predictions of them."""
  root = tmp_path_factory.mktemp("data") / "pets"
  for name in ("images", "labels", "right"):
    (root / name).mkdir(parents=True)
  (root / "classes.txt").write_text("background\ncat\ndog\n")
  rng = np.random.default_rng(0)
  for i in range(2):
    pixels = rng.integers(0, 256, (40, 50 + i, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    labels = rng.integers(0, 3, (40, 50 + i), dtype=np.uint8)
    Image.fromarray(labels).save(root / "right" / f"{i}.png")
    labels[0] = 255
    Image.fromarray(labels).save(root / "labels" / f"{i}.png")
  return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  folder = tmp_path_factory.mktemp("saved")
  saved_networks.clip(folder / "clip")
  saved_networks.groupvit(folder / "groupvit")
  return folder


def run(data, capsys, *flags):
  argv = [f"--benchmarks={data}", "--json", *flags]
  code = evaluate.main(argv)
  captured = capsys.readouterr()
  assert code == 0, captured.err
  return json.loads(captured.out)["pets"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("system", "weights", "flags"),
  [
    ("clip", "clip", ["--image_size=64"]),
    ("clip", "clip/model.safetensors", ["--protocol=tcl"]),
    ("clip", "clip", ["--image_size=64", "--pamr", "--flip"]),
    (
      "maskclip",
      "clip",
      ["--image_size=64", "--key_smoothing=1", "--prompt_denoising=0.3"],
    ),
    ("maskclip", "clip", ["--protocol=maskclip_context"]),
    (
      "b1",
      "clip",
      ["--image_size=64", "--mask_generator=pixels", "--k=3"],
    ),
    ("groupvit", "groupvit", ["--protocol=square448"]),
    (
      "groupvit",
      "groupvit",
      ["--protocol=groupvit", "--background_threshold=0.5"],
    ),
  ],
)
def test_systems_run(system, weights, flags, data, saved, capsys):
  result = run(
    data, capsys, f"--system={system}", f"--weights={saved / weights}", *flags
  )
  assert result["images"] == 2 and 0 <= result["mIoU"] <= 100
  assert result["system"] == system and result["curve"]
  wanted = [f.split("=")[1] for f in flags if f.startswith("--protocol")]
  own = "own_pamr_views" if "--pamr" in flags else "own"
  assert result["protocol"] == (wanted or [own])[0]
  # MaskCLIP has sentences of its own.
  if system == "maskclip":
    assert len(result["templates"]) == 85
  assert result["protocol_settings"]["name"] == result["protocol"]


def test_predictions(data, tmp_path, capsys):
  flags = ["--system=predictions", f"--predictions={data / 'right'}"]
  result = run(data, capsys, *flags)
  assert result["mIoU"] == 100 and result["protocol"] == "predictions"
  assert result["threshold"] is None and "curve" not in result

  def error(change):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    for path in (data / "right").iterdir():
      Image.open(path).save(folder / path.name)
    change(folder)
    argv = ["--system=predictions", f"--predictions={folder}"]
    assert evaluate.main([f"--benchmarks={data}", *argv]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and str(folder / "1.png") in message
    return message

  def labels(value):
    return Image.fromarray(np.full((40, 51), value, np.uint8))

  assert "missing" in error(lambda f: (f / "1.png").unlink())
  small = labels(0).resize((40, 51))
  assert "40x51 but" in error(lambda f: small.save(f / "1.png"))
  assert "label 3 is out" in error(lambda f: labels(3).save(f / "1.png"))
  assert "label 255" in error(lambda f: labels(255).save(f / "1.png"))
  coloured = labels(0).convert("RGB")
  assert "colours" in error(lambda f: coloured.save(f / "1.png"))


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--system=nothing"], "system='nothing' is unknown; use one of sseg"),
    (["--system=clip"], "--weights is missing"),
    (["--system=clip", "--predictions=x"], "--predictions: means nothing"),
    (["--system=predictions"], "--predictions is missing"),
    (["--system=predictions", "--predictions=x"], "no such folder"),
    (
      ["--system=predictions", "--predictions=.", "--protocol=tcl"],
      "--protocol: means nothing for --system=predictions",
    ),
    (["--system=groupvit", "--weights=x"], "weights=x: no such file"),
    (["--system=clip", "--checkpoint=x"], "--checkpoint: means nothing"),
    (["--checkpoint=x", "--key_smoothing=1"], "--key_smoothing: belongs"),
    (
      ["--system=clip", "--weights=x", "--refine=none"],
      "--refine: means nothing for --system=clip",
    ),
  ],
)
def test_wrong_flags_are_one_line(flags, message, data, capsys):
  assert evaluate.main([f"--benchmarks={data}", *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_wrong_files_are_one_line(saved, tmp_path):
  build = baselines.system("clip")

  def error(folder):
    with pytest.raises(InputError) as caught:
      build(Options(weights=str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)

  assert "model_type is groupvit, where clip" in error(saved / "groupvit")
  assert "neither model.safetensors nor" in error(tmp_path)
  weights = (saved / "clip" / "model.safetensors").read_bytes()
  (tmp_path / "model.safetensors").write_bytes(weights)
  assert "config.json: is missing" in error(tmp_path)
  config = json.loads((saved / "clip" / "config.json").read_text())
  for change, message in (
    ({"projection_dim": 25}, "has shape"),
    ({"projection_dim": "x"}, "projection_dim is x, not a number"),
    ({"vision_config": None}, "vision_config is missing"),
    (
      {"text_config": {**config["text_config"], "hidden_act": "relu"}},
      "hidden_act is relu, and only quick_gelu",
    ),
  ):
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert message in error(tmp_path)
  with pytest.raises(InputError, match="no multiple|from this machine"):
    hf_files.read("https://x/y", "clip")


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_key_smoothing_and_prompt_denoising_are_maskclips():
  rng = np.random.default_rng(0)
  scale = 4.0
  cosines = rng.uniform(-1, 1, (1, 20, 6)).astype(np.float32)
  cosines[..., 5] = -1  # a class that is nowhere likely
  found = np.asarray(maskclip.denoised(jnp.asarray(cosines), scale, 0.5))
  chances = softmax(scale * cosines)
  kept = chances.max(1)[0] >= 0.5
  assert not kept[5] and 1 < kept.sum() < 6
  assert (found[..., ~kept] == -100).all()
  np.testing.assert_array_equal(found[..., kept], cosines[..., kept])
  # Nothing is likely: all classes stay.
  flat = np.full((1, 3, 4), 0.25, np.float32)
  same = maskclip.denoised(jnp.asarray(flat), scale, 0.5)
  np.testing.assert_array_equal(same, flat)
  # maskclip_head.py: keys are normalised over dim 1, which are the patches.
  keys = rng.normal(size=(1, 20, 8)).astype(np.float32) + 1
  unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
  mixed = unit @ unit.swapaxes(1, 2) @ chances
  unsure = chances.max(-1, keepdims=True) < 0.7
  assert unsure.any() and not unsure.all()
  found = maskclip.smoothed(*map(jnp.asarray, (chances, keys)), 0.7)
  np.testing.assert_allclose(
    found, np.where(unsure, mixed, chances), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("key_smoothing", [0.0, 1.0])
def test_maskclips_scores_are_chances_with_the_winners_of_its_maps(
  saved, key_smoothing
):
  options = Options(weights=str(saved / "clip"), key_smoothing=key_smoothing)
  system = baselines.system("maskclip")(options)
  maps = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
  maps[0] = -1 - np.arange(7)  # no class has a positive sum
  chances = system.chances(maps)
  assert chances.min() >= 0
  np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(chances.argmax(-1), maps.argmax(-1))


def test_groupvit_names_groups_by_two_probabilities():
  rng = np.random.default_rng(0)
  vectors = [rng.normal(size=s) for s in ((8,), (3, 8), (9, 8))]
  whole, groups, classes = (
    (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    for x in vectors
  )
  found = groupvit.named(
    *map(jnp.asarray, (whole[None], groups[None], classes)),
    jnp.float32(np.log(20)),
  )[0]
  logits = 20 * groups @ classes.T
  others = np.argsort(-classes @ whole)[5:]
  masked = logits.copy()
  masked[:, others] = -np.inf
  np.testing.assert_allclose(
    found, softmax(logits) * softmax(masked), rtol=1e-4
  )


def test_b1_shows_clip_one_region_at_a_time():
  image = np.arange(4 * 6 * 3, dtype=np.float32).reshape(4, 6, 3)
  masks = np.zeros((2, 4, 6), bool)
  masks[0, :, :3] = masks[1, :, 3:] = True
  found = np.asarray(b1.masked(*map(jnp.asarray, (image, masks)), 12))
  assert found.shape == (2, 12, 12, 3)
  assert not found[0, :, 7:].any() and not found[1, :, :5].any()
  # The middle of three rows, between two columns: at 1/4 and 3/4.
  np.testing.assert_allclose(
    found[0, 4, 2], 0.25 * image[1, 0] + 0.75 * image[1, 1]
  )
  assert found[1, :, 9:].all()


def test_b1_pads_windows_to_whole_patches_of_the_generator():
  system = object.__new__(b1.MasksThenClip)
  system._masks = types.SimpleNamespace(stride=14, frozen={})
  system._words = types.SimpleNamespace(of=lambda names: names)
  system._state, sizes = {}, []

  def see(state, frozen, window, classes):
    sizes.append(window.shape[1:3])
    return np.zeros((*window.shape[:3], 2))

  system._see = see
  window, names = np.zeros((1, 512, 224, 3), np.float32), ClassSet(("a", "b"))
  assert system.score_windows(window, names).shape == (1, 512, 224, 2)
  system._masks.stride = 8
  system.score_windows(window, names)
  assert sizes == [(518, 224), (512, 224)]
