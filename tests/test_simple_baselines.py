"""The simple baselines that are trained here: B1, B2 and linear probes."""

import functools
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from stored import save_checkpoint
from test_train_step import CLASSES

from sseg_jax import config_check, evaluate, main, tokenizer, train_step
from sseg_jax.baselines import trained
from sseg_jax.baselines.b1_of_run import MasksThenRun
from sseg_jax.checkpoints import checkpoint
from sseg_jax.errors import InputError
from sseg_jax.exporting import source, write
from sseg_jax.inference import fixed_classes, sources
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import backbones, sseg
from sseg_jax.models.layers import PIXEL_MEAN, normalize_pixels
from sseg_jax.models.vit_pyramid import TokenMap
from sseg_jax.study import __main__ as study

pytestmark = pytest.mark.usefixtures("signs_of_gradients")

SIDE, PATCH = 32, 8
SIZES = dict(
  patch=PATCH, width=16, depth=1, num_heads=2, grid=4, position_rule="size"
)
WORDS = ClassSet(CLASSES, ("a {}",))


@pytest.fixture
def config(tiny_config, monkeypatch):
  """B2, shrunk to compile in seconds."""
  monkeypatch.setitem(backbones.BACKBONES, "vit_tiny8", (TokenMap, SIZES))
  c = tiny_config
  c.model.backbone = "vit_tiny8"
  c.model.query_embedding = "segments"
  c.model.proj_norm = "ln"
  c.evaluate.refine = "pseudo_masks"
  c.evaluate.combiner = "hard"
  c.text.layers = 1
  c.pseudo_masks.position_weight = 0.0
  c.pseudo_masks.merge_distance = 0.1
  c.pseudo_masks.init = "farthest"
  config_check.check(c)
  return c


def pictures(seed, count=8):
  """Pictures of two flat halves, their captions and their label maps."""
  rng = np.random.default_rng(seed)
  # Far apart, and the same in every batch.
  colours = 25 * np.array(
    [[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 0], [0, 9, 9]]
  )
  pairs = [rng.permutation(len(CLASSES))[:2] for _ in range(count)]
  labels = np.array(pairs)[:, None, np.repeat([0, 1], SIDE // 2)]
  labels = labels.repeat(SIDE, 1).astype(np.int32)
  noise = rng.integers(-9, 10, (*labels.shape, 3))
  texts = [f"a {CLASSES[a]} and a {CLASSES[b]}" for a, b in pairs]
  return {
    "id": np.arange(count, dtype=np.uint32),
    "valid": np.ones(count, bool),
    "image": (colours[labels] + noise).clip(0, 255).astype(np.uint8),
    "text": tokenizer.Tokenizer(16)(texts),
    "labels": labels,
  }


def learned(config, steps, rate=3e-3):
  """Returns losses, and the state after the last step."""
  config.optim.peak_lr = config.optim.start_lr = rate
  config.total_steps = 1000
  setup = train_step.make_setup(config, CLASSES)
  state = train_step.init_state(setup)
  step = jax.jit(functools.partial(train_step.train_step, setup))
  losses = []
  for i in range(steps):
    state, metrics = step(state, setup.frozen, pictures(i))
    losses.append(float(metrics["loss"]))
  return losses, state


def right(segmenter, seed=99):
  """Returns the share of pixels with the right name, in new pictures."""
  batch = pictures(seed)
  _, index = segmenter.winners_many(batch["image"], WORDS)
  return (index == batch["labels"]).mean()


def test_a_segment_is_the_mean_of_the_tokens_in_its_mask(config, rng):
  graphdef, variables = sseg.build(config)[0], sseg.init(config, 0)
  image = rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
  # Masks of whole patches: the left half, and the rest in two parts.
  labels = np.zeros((2, 4, 4), np.int32)
  labels[:, :2, 2:], labels[:, 2:, 2:] = 1, 3

  @jax.jit
  def see(variables, image, labels):
    model = nnx.merge(graphdef, *variables)
    found = model.image_features(image, labels=labels)
    tokens = model.backbone(normalize_pixels(image, jnp.float32))["tokens"]
    # S-Seg's order: the mean over segments, then the projection.
    mean = found.part_features[:, jnp.array([0, 1, 3])].mean(1)
    projected = model.image_projection(mean)
    return found, model.embed_image(found), tokens, projected

  found, outputs, tokens, projected = jax.device_get(
    see(variables, image, labels)
  )
  for label in (0, 1, 3):
    expected = tokens[0][labels[0] == label].mean(0)
    np.testing.assert_allclose(
      found.part_features[0, label], expected, atol=1e-5
    )
  np.testing.assert_array_equal(found.counts, [[1, 1, 0, 1]] * 2)
  np.testing.assert_array_equal(found.mask_logits[-1].argmax(1), labels)
  np.testing.assert_allclose(outputs.image_embedding, projected, atol=1e-5)
  with pytest.raises(InputError, match="refine='pseudo_masks'"):
    jax.eval_shape(
      lambda x: nnx.merge(graphdef, *variables).image_features(x), image
    )


@pytest.mark.slow
def test_b2_learns_names_from_captions(config):
  losses, state = learned(config, 80)
  assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:4])
  segmenter = SSegSegmenter(state.params, state.model_state, config)
  assert right(segmenter) > 0.6  # of five names
  # As protocols show pictures.
  image = pictures(9)["image"][:1]
  np.testing.assert_allclose(
    segmenter.score_windows(image.astype(np.float32), WORDS),
    segmenter.scores_many(image, WORDS),
    atol=1e-6,
  )


@pytest.mark.slow
def test_b1_names_masks_with_a_network_of_whole_pictures(config):
  config.pseudo_masks.k = 1
  losses, state = learned(config, 80)
  assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:4])
  config.pseudo_masks.k = 4
  assert right(MasksThenRun(state.params, state.model_state, config)) > 0.4


@pytest.mark.slow
def test_a_linear_probe_learns_labels_from_random_tokens(
  config, tmp_path, unchecked_types
):
  config.task, config.model.head, config.model.frozen = (
    *("supervised", "linear", True),
  )
  config.data.classes, config.evaluate.refine = CLASSES, "none"
  config_check.check(config)
  losses, state = learned(config, 80, rate=3e-2)
  assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:4])
  made = fixed_classes.build(state.params, state.model_state, config)
  assert right(made) > 0.6
  # And can be exported, traced with unknown sizes.
  params, model_state = jax.tree.map(
    np.asarray, (state.params, state.model_state)
  )
  run = checkpoint.Loaded(config.to_dict(), params, model_state, 80, {})
  done = write.write(
    source.make(run), "stablehlo", tmp_path, pictures(9)["image"][:1]
  )
  assert done.report.difference <= 1e-4 and done.report.equal >= 0.999


def test_b1_hides_the_rest_of_the_picture(config, monkeypatch):
  seen = []

  def apply_image(graphdef, params, model_state, image, labels):
    assert labels.shape == (len(image), 1, 1)
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), image)
    return types.SimpleNamespace(image_embedding=image.mean((1, 2)))

  from sseg_jax.baselines import b1_of_run

  fake = types.SimpleNamespace(
    build=lambda config: (None,), apply_image=apply_image
  )
  params, state = sseg.init(config, 0)
  monkeypatch.setattr(b1_of_run, "sseg", fake)
  made = MasksThenRun(params, state, config)
  monkeypatch.setattr(
    made, "_probabilities", lambda embedded, words: jax.nn.softmax(embedded)
  )
  batch = pictures(0, 1)
  best, index = made.winners_many(batch["image"], WORDS)
  jax.effects_barrier()
  cut = seen[0].reshape(-1, SIDE, SIDE, 3)
  rest = np.asarray(PIXEL_MEAN, np.float32)
  shown = [(x != rest).any(-1) for x in cut]
  halves = [x for x in shown if x.any()]
  assert len(halves) == 2 and not (halves[0] & halves[1]).any()
  assert (halves[0] | halves[1]).all()
  assert best.shape == index.shape == (1, SIDE, SIDE)
  assert len(np.unique(index[0, :, : SIDE // 2])) == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.backbone": "conv_tiny"}, "'segments' needs one of .*vit_s16"),
    ({"model.query_embedding": "decoder"}, "gives tokens alone"),
    ({"evaluate.refine": "none"}, "refine='none': .* needs 'pseudo_masks'"),
    ({"task": "supervised"}, "task='supervised': .* needs 'sseg'"),
    ({"loss.contrastive": 0.0}, "learns nothing else"),
    ({"loss.mask_every": 2}, "loss.mask_every=2"),
    ({"model.pool_stride": 3}, "model.pool_stride=3: must divide the patch 8"),
    ({"model.frozen": True}, "model.frozen=True: .*model.head='linear'"),
  ],
)
def test_fields_that_do_not_go_together(config, fields, message):
  config.update_from_flattened_dict(fields)
  with pytest.raises(InputError, match=message):
    config_check.check(config)


@pytest.fixture
def folder(tmp_path):
  """A hand-made benchmark of two pictures."""
  batch = pictures(3, 2)
  for name in ("images", "labels"):
    (tmp_path / "halves" / name).mkdir(parents=True)
  (tmp_path / "halves" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
  for i in range(2):
    place = tmp_path / "halves"
    Image.fromarray(batch["image"][i]).save(place / "images" / f"{i}.png")
    labels = batch["labels"][i].astype(np.uint8)
    Image.fromarray(labels).save(place / "labels" / f"{i}.png")
  return tmp_path / "halves"


@pytest.mark.slow
def test_a_checkpoint_is_scored_under_its_own_name(
  config, folder, tmp_path, capsys
):
  save_checkpoint(tmp_path / "run", config)
  capsys.readouterr()
  argv = [f"--checkpoint={tmp_path / 'run'}", f"--benchmarks={folder}"]
  for flags in ([], ["--system=b2"]):
    assert evaluate.main([*argv, "--json", *flags]) == 0
    result = json.loads(capsys.readouterr().out)["halves"]
    assert result["system"] == "b2" and 0 <= result["mIoU"] <= 100
  for system in ("sseg", "linear_probe", "maskformer"):
    assert evaluate.main([*argv, f"--system={system}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"--system={system}: the checkpoint is one of b2" in message


# Of both configs, to draw, compile and run in seconds.
TINY = {
  "total_steps": 2, "batch_size": 2, "image_size": SIDE, "data.lanes": 2,
  "data.shapes.train_size": 4, "data.shapes.eval_size": 1, "data.threads": 1,
  "optim.warmup_steps": 1, "log_every_steps": 1, "evaluate.every_steps": 0,
  "evaluate.image_size": SIDE, "evaluate.stride": SIDE, "text.width": 16,
  "model.embed_dim": 16, "model.proj_hidden": 16, "pseudo_masks.iterations": 1,
  "evaluate.threshold_images": 1,
}  # fmt: skip


@pytest.mark.slow
def test_the_configs_from_main_to_scores_and_a_figure(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(backbones.BACKBONES, "vit_tiny8", (TokenMap, SIZES))
  configs = pathlib.Path(__file__).parents[1] / "configs"
  runs = {name: tmp_path / name for name in ("b2", "linear_probe")}
  fields = dict(TINY)
  for name, run in runs.items():
    if name == "linear_probe":
      fields["start_from"] = runs["b2"]
    argv = [f"--config.{field}={value}" for field, value in fields.items()]
    argv += [f"--config={configs / name}.py", f"--workdir={run}", "--json"]
    assert main.run(argv) == 0
    told = json.loads(capsys.readouterr().out)
    plain = run / "data" / "plain"
    flags = [f"--checkpoint={run}", f"--benchmarks={plain}", "--json"]
    assert evaluate.main([*flags, f"--system={name}"]) == 0
    result = json.loads(capsys.readouterr().out)["plain"]
    assert result["system"] == name and result["images"] == 1
    assert result["mIoU"] == told["benchmarks"]["plain"]["mIoU"]
  # The probe has the tokens of B2, as they were.
  b2, probe = (sources.read(run).params["backbone"] for run in runs.values())
  assert jax.tree.all(jax.tree.map(np.array_equal, b2, probe))
  systems = ",".join(f"{name}={run}" for name, run in runs.items())
  argv = ["--figure=9", f"--systems={systems}", f"--benchmarks={plain}"]
  argv += [f"--out={tmp_path}", "--pictures=1"]
  assert study.main(argv) == 0
  told = json.loads(capsys.readouterr().out)["figure_9_plain.png"]["systems"]
  assert [s["title"] for s in told] == ["B2", "linear probe"]
  assert told[1]["mIoU"] == result["mIoU"]
  assert (tmp_path / "figure_9_plain.png").is_file()
  argv[1] = f"--systems=sseg={runs['b2']}"
  assert study.main(argv) == 2
  assert "the checkpoint is one of b2" in capsys.readouterr().err


def test_the_system_of_a_config(tiny_config):
  c = tiny_config
  assert trained.system_of(c) == trained.system_of(c, "sseg") == "sseg"
  for head, name in (
    ("classes", "maskformer"), ("linear", "linear_probe"), ("upernet", "sseg"),
  ):  # fmt: skip
    c.model.head = head
    assert trained.system_of(c) == name
  with pytest.raises(InputError, match=r"--system=b2: .* configs/b2.py"):
    trained.system_of(c, "b2")
