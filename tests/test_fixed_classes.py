"""Networks with a fixed list of classes: losses, inference, a whole run."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_VIT
from flax import nnx
from layouts import write_voc

import sseg_jax
from sseg_jax import config_check, main, optim, prepare, train_step
from sseg_jax.errors import InputError
from sseg_jax.inference import fixed_classes
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models import pretrained, sseg, vit_pyramid
from sseg_jax.tasks import fixed_classes as tasks

NAMES = ("background", "red", "green", "blue")


def _config(make, head, **fields):
  c = make()
  c.task, c.model.head = "supervised", head
  c.data.classes = NAMES
  if head in ("upernet", "linear"):
    c.model.backbone, c.model.hidden_dim = "tiny_vit", 16
    c.model.frozen = head == "linear"
  for name, value in fields.items():
    part, _, field = name.rpartition("__")
    (c[part] if part else c)[field] = value
  return c


@pytest.mark.slow
def test_rates_of_the_blocks_are_beit_s():
  """Number by number, the table of BEiT's 12 blocks with 0.65."""
  shapes = nnx.eval_shape(
    lambda: vit_pyramid.ViTPyramid(
      **vit_pyramid.PYRAMID_SIZES["vit_b16"],
      dtype=jnp.float32,
      rngs=nnx.Rngs(0),
    )
  )
  params = {
    "backbone": nnx.to_pure_dict(nnx.split(shapes, nnx.Param, ...)[1]),
    "upernet": {"kernel": jnp.zeros((2, 2))},
  }
  found = optim.layer_factors(params, 0.65)
  table = [  # 0.65 ** (13 - i), i from the embeddings to the heads
    *(0.0036972046, 0.0056880071, 0.0087507802, 0.0134627387, 0.0207119057),
    *(0.0318644703, 0.0490222620, 0.0754188646, 0.1160290225, 0.17850625),
    *(0.274625, 0.4225, 0.65, 1.0),
  ]
  vit = found["backbone"]["vit"]
  for part in (vit["tokens"], vit["positions"]):
    np.testing.assert_allclose(part, table[0], rtol=1e-6)
  for i in range(12):
    values = jax.tree.leaves(vit["blocks"][i])
    np.testing.assert_allclose(values, table[i + 1], rtol=1e-6)
  assert set(jax.tree.leaves(vit["patch_embedding"])) == {vit["tokens"]}
  assert set(jax.tree.leaves(found["backbone"]["twice"])) == {1.0}
  assert found["upernet"]["kernel"] == 1.0


def test_updates_are_scaled_by_layer(make_tiny_config):
  config = make_tiny_config()
  config.optim.clip_norm = 0.0
  params = {
    "backbone": {
      "vit": {"blocks": {i: {"kernel": jnp.ones((2, 2))} for i in (0, 1)}}
    },
    "head": {"kernel": jnp.ones((2, 2))},
  }
  updates = {}
  for decay in (1.0, 0.5):
    config.optim.layer_decay = decay
    made = optim.build(config)
    updates[decay], _ = made.update(params, made.init(params), params)
  factors = jax.tree.map(
    lambda a, b: float((a / b).mean()), updates[0.5], updates[1.0]
  )
  assert factors["head"]["kernel"] == pytest.approx(1)
  blocks = factors["backbone"]["vit"]["blocks"]
  assert blocks[1]["kernel"] == pytest.approx(0.5)
  assert blocks[0]["kernel"] == pytest.approx(0.25)


def test_a_poly_schedule_with_its_warmup():
  c = types.SimpleNamespace(
    schedule="poly", power=0.9, peak_lr=2.0, end_lr=0.0, start_lr=2e-6,
    warmup_steps=10,
  )  # fmt: skip
  rate = optim.schedule(c, 100)
  for step, warm in ((0, 1e-6), (5, 0.5), (10, 1), (60, 1), (100, 1)):
    expected = 2 * (1 - step / 100) ** 0.9 * warm
    np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_the_class_loss_is_torch_s(rng):
  torch = pytest.importorskip("torch")
  logits = rng.normal(size=(2, 2, 5, 4)).astype(np.float32)
  names = np.array([[1, 2], [0, 3]])  # the last mask does not exist
  index = np.array([[[4, 0], [1, 2]], [[0, 1], [2, 3]]])
  wanted = np.full((2, 2, 5), 3)
  for layer, b, k in np.ndindex(2, 2, 2):
    wanted[layer, b, index[layer, b, k]] = names[b, k]
  expected = sum(
    torch.nn.functional.cross_entropy(
      torch.from_numpy(logits[layer]).permute(0, 2, 1),
      torch.from_numpy(wanted[layer]),
      torch.tensor([1.0, 1.0, 1.0, 0.1]),
    )
    for layer in range(2)
  )
  valid = jnp.array([True, True])
  found = tasks.class_loss(
    jnp.asarray(logits), jnp.asarray(names), jnp.asarray(index), valid, 0.1
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # A picture that is not valid reaches nothing.
  logits[:, 1] = np.nan
  alone = tasks.class_loss(
    jnp.asarray(logits), jnp.asarray(names), jnp.asarray(index),
    jnp.array([True, False]), 0.1,
  )  # fmt: skip
  assert np.isfinite(alone)


def test_the_pixel_loss_is_torch_s(rng):
  torch = pytest.importorskip("torch")
  logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
  labels = rng.integers(0, 3, (2, 16, 16)).astype(np.int32)
  labels[0, :5] = 255
  large = torch.nn.functional.interpolate(
    torch.from_numpy(logits).permute(0, 3, 1, 2), size=(16, 16), mode="bilinear"
  )
  expected = torch.nn.functional.cross_entropy(
    large, torch.from_numpy(labels).long(), ignore_index=255
  )
  valid = jnp.array([True, True])
  found = tasks.pixel_loss(jnp.asarray(logits), jnp.asarray(labels), valid, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("head", ["classes", "upernet"])
@pytest.mark.parametrize("background", [True, False])
def test_scores_are_shares_and_win_as_the_sum_does(head, background, rng):
  first = int(background)
  found = rng.uniform(size=(1, 3, 4, 3 + first)).astype(np.float32)
  if head == "upernet":
    found = np.log(found)
  wanted = jnp.array([2, 0])
  logits = head == "upernet"
  scores = np.asarray(
    fixed_classes._shares(jnp.asarray(found), wanted, logits, background)
  )
  p = np.exp(found) if logits else found
  chosen = p[..., np.asarray(wanted) + first]
  total = chosen + p[..., :1] if background else p.sum(-1, keepdims=True)
  np.testing.assert_allclose(scores, chosen / total, rtol=1e-5)
  if background:  # over one half exactly where it is likelier than background
    np.testing.assert_array_equal(scores > 0.5, chosen > p[..., :1])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classes", "upernet", "linear"])
def test_a_segmenter_takes_its_classes_in_any_order(
  head, make_tiny_config, tiny_vit, rng
):
  config = _config(make_tiny_config, head)
  params, state = sseg.init(config, 0)
  made = fixed_classes.build(params, state, config)
  image = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
  scores = made.scores(image, ClassSet(("blue", "red")))
  assert scores.shape == (40, 32, 2)
  assert (scores >= 0).all() and (scores <= 1).all()
  np.testing.assert_allclose(
    scores, made.scores(image, ClassSet(("red", "blue")))[..., ::-1], atol=1e-6
  )
  best, index = made.winners_many(image[None], ClassSet(("blue", "red")))
  np.testing.assert_allclose(best[0], scores.max(-1), atol=1e-6)
  np.testing.assert_array_equal(index[0], scores.argmax(-1))
  with pytest.raises(InputError, match="knows 3 classes .* not 'dog'"):
    made.scores(image, ClassSet(("dog",)))
  with pytest.raises(InputError, match="combiner='mean'"):
    fixed_classes.build(params, state, config, combiner="mean")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"task": "sseg"}, "task='sseg': model.head='upernet' .* needs 'super"),
    ({"text__frozen": True}, "text.frozen=True"),
    ({"model__backbone": "swin_t"}, "model.backbone='swin_t': .*one of vit"),
    (
      {"model__head": "classes", "model__backbone": "conv_tiny",
       "optim__layer_decay": 0.65},
      "optim.layer_decay=0.65: needs the blocks of a ViT",
    ),
  ],
)  # fmt: skip
def test_fields_that_do_not_go_together(
  make_tiny_config, tiny_vit, fields, message
):
  config = _config(make_tiny_config, "upernet", **fields)
  with pytest.raises(InputError, match=message):
    config_check.check(config)


def test_mae_s_weights_are_taken_by_their_names(
  make_tiny_config, tiny_vit, tmp_path, rng
):
  from sseg_jax.models import vit_weights

  arrays = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, (shape, _) in vit_weights._expected(TINY_VIT).items()
  }
  # What MAE's own file has besides.
  arrays["mask_token"] = np.zeros((1, 1, 16), np.float32)
  arrays["decoder_blocks.0.norm1.weight"] = np.zeros(16, np.float32)
  np.savez(tmp_path / "mae.npz", **arrays)
  config = _config(
    make_tiny_config, "upernet", model__weights=str(tmp_path / "mae.npz")
  )
  params, state = pretrained.load(config, *sseg.init(config, 0))
  vit = params["backbone"]["vit"]
  np.testing.assert_array_equal(vit["positions"], arrays["pos_embed"][0])
  np.testing.assert_array_equal(
    vit["blocks"][2]["qkv"]["kernel"], arrays["blocks.2.attn.qkv.weight"].T
  )


def test_moco_s_weights_are_taken_by_their_names(
  make_tiny_config, tiny_vit, tmp_path, rng
):
  from sseg_jax.models import vit_sizes, vit_weights

  arrays = {
    f"module.base_encoder.{name}": rng.normal(size=shape).astype(np.float32)
    for name, (shape, _) in vit_weights._expected(TINY_VIT).items()
  }
  zeros = np.zeros(16, np.float32)  # what MoCo's own file has besides
  for name in ("base_encoder.head.1", "momentum_encoder.norm", "predictor.1"):
    arrays[f"module.{name}.weight"] = zeros
  np.savez(tmp_path / "moco.npz", **arrays)
  config = _config(
    make_tiny_config, "linear", model__weights=str(tmp_path / "moco.npz")
  )
  params, _ = pretrained.load(config, *sseg.init(config, 0))
  np.testing.assert_array_equal(
    params["backbone"]["vit"]["norm"]["scale"],
    arrays["module.base_encoder.norm.weight"],
  )
  # Its ViT-S has twelve heads; tensors do not show it, the sizes' names do.
  heads = vit_sizes.VIT_SIZES["moco_v3_vits16"]["num_heads"]
  assert heads == vit_pyramid.PYRAMID_SIZES["vit_s16_h12"]["num_heads"] == 12
  config.model.backbone, config.model.weights = "vit_s16", "moco_v3_vits16"
  with pytest.raises(InputError, match="moco_v3_vits16' are weights of"):
    pretrained._image(config, {})


@pytest.mark.parametrize(
  ("backbone", "takes", "refuses"),
  [
    ("vit_s8", "dino_vits8", "dino_vits16"),
    ("vit_s14", "dinov2_vits14", "dinov2_vits14_reg"),
  ],
)
def test_networks_of_tokens_take_the_weights_of_their_sizes_alone(
  make_tiny_config, monkeypatch, backbone, takes, refuses
):
  config = _config(make_tiny_config, "linear")
  config.model.backbone = backbone

  def found(source, *_, **__):
    raise FileNotFoundError(source)  # it would be fetched

  monkeypatch.setattr(pretrained.weights, "fetch", found)
  config.model.weights = refuses
  with pytest.raises(InputError, match=f"{refuses}' are weights of"):
    pretrained._image(config, {})
  config.model.weights = takes
  with pytest.raises(FileNotFoundError, match=takes):
    pretrained._image(config, {})


def _batch(rng, side=32, b=4):
  labels = rng.integers(0, 4, (b, side, side)).astype(np.int32)
  labels[0, :9] = 255
  return {
    "id": np.arange(b, dtype=np.uint32),
    "valid": np.array([True] * (b - 1) + [False]),
    "image": rng.integers(0, 256, (b, side, side, 3), dtype=np.uint8),
    "text": np.zeros((b, 16), np.int32),
    "labels": labels,
  }


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classes", "upernet", "linear"])
def test_a_student_learns_a_batch(head, make_tiny_config, tiny_vit, rng):
  config = _config(make_tiny_config, head, batch_size=4, total_steps=60)
  config.optim.peak_lr = 1e-2 if head == "linear" else 3e-3
  setup = train_step.make_setup(config, NAMES)
  state = train_step.init_state(setup)
  step = jax.jit(lambda s, b: train_step.train_step(setup, s, setup.frozen, b))
  batch = _batch(rng)
  # Colours that tell the label.
  batch["image"] = (batch["labels"][..., None] * 60 % 256).repeat(3, -1)
  batch["image"] = batch["image"].astype(np.uint8)
  batch["labels"][1:] = np.arange(4)[:3, None, None]
  batch["image"][1:] = batch["labels"][1:, ..., None] * 60
  name = "loss/class" if head == "classes" else "loss/pixel"
  rows, before = [], state.params["backbone"]
  for _ in range(40):
    state, metrics = step(state, batch)
    rows.append(float(metrics[name]))
    assert not metrics["bad"]
  assert rows[-1] < 0.7 * rows[0]
  same = jax.tree.map(np.array_equal, before, state.params["backbone"])
  # A linear probe changes nothing of its backbone, by weight decay neither.
  assert all(jax.tree.leaves(same)) == (head == "linear")


def _written(folder, head):
  """Writes a small config as a file, as a user does."""
  lines = [
    "import conftest",
    "def get_config():",
    "  c = conftest._tiny_config()",
    f"  c.task, c.model.head = 'supervised', {head!r}",
    "  c.batch_size, c.total_steps, c.data.lanes = 2, 2, 2",
    "  c.optim.warmup_steps = 1",
    "  c.evaluate.every_steps = 0",
  ]
  if head in ("upernet", "linear"):
    lines.append("  c.model.backbone, c.model.hidden_dim = 'tiny_vit', 16")
    lines.append(f"  c.model.frozen = {head == 'linear'}")
  path = folder / "tiny.py"
  path.write_text("\n".join([*lines, "  return c\n"]))
  return path


@pytest.mark.usefixtures("signs_of_gradients")
@pytest.mark.slow
@pytest.mark.parametrize("head", ["classes", "upernet", "linear"])
def test_real_labels_of_voc_from_the_command_to_the_scores(
  head, tmp_path, monkeypatch, capsys, tiny_vit
):
  """`prepare` reads VOC's layout, `main` trains, scores and goes on."""
  root = write_voc(tmp_path, b"a\nb\n", names=("a", "b"))
  lists = root / "VOC2012" / "ImageSets" / "Segmentation"
  (lists / "train.txt").write_text("a\nb\n")
  out = tmp_path / "records"
  argv = [f"--benchmark=voc={root}", "--split=train", f"--out={out}"]
  assert prepare.main(argv) == 0
  argv = [
    f"--config={_written(tmp_path, head)}",
    f"--workdir={tmp_path / 'run'}",
    f"--config.data.train={out}",
    f"--config.evaluate.benchmarks=voc={root}",
    "--json",
  ]
  capsys.readouterr()
  assert main.run(argv) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["steps"] == 2
  scored = result["benchmarks"]["voc"]
  assert 0 <= scored["mIoU"] <= 100 and scored["threshold"] == 0.5
  # Started again it is evaluated again, and no field counts as changed.
  assert main.run(argv) == 0
  again = json.loads(capsys.readouterr().out)
  for name in ("mIoU", "per_class", "threshold"):
    assert again["benchmarks"]["voc"][name] == scored[name]
  assert again["changes"] == []
  # The stored network segments with words of its list, background included.
  model = sseg_jax.load(tmp_path / "run")
  image = np.zeros((40, 48, 3), np.uint8)
  found = model.segment(image, ["dog", "cat"])
  assert found.labels.shape == (40, 48) and found.labels.max() <= 2
  with pytest.raises(InputError, match="knows 20 classes .* not 'unicorn'"):
    model.segment(image, ["unicorn"])
  stored = json.loads((tmp_path / "run" / "config.json").read_text())
  assert stored["data"]["classes"][:2] == ["background", "aeroplane"]
