"""Published weights as the start of a run, under everybody's names."""

import jax
import numpy as np
import pytest
from flax import nnx

from sseg_jax import default_config, train_step
from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.models import backbones, pretrained, tensors
from sseg_jax.models.resnet import ResNet
from sseg_jax.models.swin import Swin
from sseg_jax.models.text import TextTower
from sseg_jax.models.vit_pyramid import ViTPyramid

SWIN = dict(embed_dim=4, depths=(1, 2), num_heads=(1, 2))
RESNET = dict(depths=(1, 2), width=2)
VIT = dict(patch=16, depth=1, grid=2, position_rule="size", width=8)


def leaves_of(make) -> dict:
  state = nnx.state(nnx.eval_shape(make))
  return named_arrays.flat(nnx.to_pure_dict(state))


def random_arrays(shapes) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def microsoft_swin(depths=(1, 2), dim=4, heads=(1, 2)):
  """A classifier's file as Swin's own code writes it."""
  shapes = {
    "patch_embed.proj.weight": (dim, 3, 4, 4),
    "patch_embed.proj.bias": (dim,),
    "patch_embed.norm.weight": (dim,),
    "patch_embed.norm.bias": (dim,),
    "norm.weight": (2 * dim,),
    "norm.bias": (2 * dim,),
    "head.weight": (10, 2 * dim),
    "head.bias": (10,),
  }
  for i, depth in enumerate(depths):
    d = dim * 2**i
    for j in range(depth):
      block = f"layers.{i}.blocks.{j}"
      shapes |= {
        f"{block}.norm1.weight": (d,),
        f"{block}.norm1.bias": (d,),
        f"{block}.attn.qkv.weight": (3 * d, d),
        f"{block}.attn.qkv.bias": (3 * d,),
        f"{block}.attn.relative_position_bias_table": (169, heads[i]),
        f"{block}.attn.relative_position_index": (49, 49),
        f"{block}.attn.proj.weight": (d, d),
        f"{block}.attn.proj.bias": (d,),
        f"{block}.norm2.weight": (d,),
        f"{block}.norm2.bias": (d,),
        f"{block}.mlp.fc1.weight": (4 * d, d),
        f"{block}.mlp.fc1.bias": (4 * d,),
        f"{block}.mlp.fc2.weight": (d, 4 * d),
        f"{block}.mlp.fc2.bias": (d,),
      }
      if j % 2:
        shapes[f"{block}.attn_mask"] = (4, 49, 49)
    if i + 1 < len(depths):
      shapes |= {
        f"layers.{i}.downsample.reduction.weight": (2 * d, 4 * d),
        f"layers.{i}.downsample.norm.weight": (4 * d,),
        f"layers.{i}.downsample.norm.bias": (4 * d,),
      }
  return random_arrays(shapes)


def test_swin_s_own_names():
  arrays = microsoft_swin()
  leaves = leaves_of(lambda: Swin(**SWIN, rngs=nnx.Rngs(0)))
  found = pretrained.swin(arrays, leaves, "a file")
  assert leaves.keys() - found.keys() == {
    f"norms/{i}/{part}" for i in (0, 1) for part in ("scale", "bias")
  }
  block = "layers.1.blocks.1"
  for ours, theirs in {
    "patch_embedding/kernel": arrays["patch_embed.proj.weight"].transpose(
      2, 3, 1, 0
    ),
    "patch_norm/scale": arrays["patch_embed.norm.weight"],
    "merges/0/reduction/kernel": arrays[
      "layers.0.downsample.reduction.weight"
    ].T,
    "stages/1/1/attention/qkv/kernel": arrays[f"{block}.attn.qkv.weight"].T,
    "stages/1/1/attention/out/bias": arrays[f"{block}.attn.proj.bias"],
    "stages/1/1/attention/relative_position_bias": arrays[
      f"{block}.attn.relative_position_bias_table"
    ],
    "stages/1/1/mlp_in/kernel": arrays[f"{block}.mlp.fc1.weight"].T,
    "stages/1/1/norm2/bias": arrays[f"{block}.norm2.bias"],
  }.items():
    np.testing.assert_array_equal(found[ours], theirs)


def test_torchvision_s_names():
  """As transformers' own, which the parity tests compare with ours."""
  leaves = leaves_of(lambda: ResNet(**RESNET, rngs=nnx.Rngs(0)))

  def names(conv, norm, layers):
    shapes = {}
    for place, ours in layers.items():
      *window, i, o = leaves[f"{ours}/conv/kernel"].shape
      shapes[f"{place[0]}{conv}.weight"] = (o, i, *window)
      for end in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{place[1]}{norm}.{end}"] = (o,)
      shapes[f"{place[1]}{norm}.num_batches_tracked"] = ()
    return random_arrays(shapes)

  places = {("conv1", "bn1"): "stem"}
  for i, depth in enumerate(RESNET["depths"]):
    for j in range(depth):
      for k in (1, 2, 3):
        block = f"layer{i + 1}.{j}"
        ours = f"stages/{i}/{j}/conv{k}"
        places[f"{block}.conv{k}", f"{block}.bn{k}"] = ours
    short = f"layer{i + 1}.0.downsample"
    places[f"{short}.0", f"{short}.1"] = f"stages/{i}/0/shortcut"
  torchvision = names("", "", places)
  places = {("embedder.embedder",) * 2: "stem"}
  for i, depth in enumerate(RESNET["depths"]):
    for j in range(depth):
      for k in range(3):
        place = f"encoder.stages.{i}.layers.{j}.layer.{k}"
        places[place, place] = f"stages/{i}/{j}/conv{k + 1}"
    short = f"encoder.stages.{i}.layers.0.shortcut"
    places[short, short] = f"stages/{i}/0/shortcut"
  transformers = names(".convolution", ".normalization", places)
  torchvision |= {"fc.weight": np.zeros((3, 2)), "fc.bias": np.zeros(3)}
  first = pretrained.resnet(torchvision, leaves, "a file")
  second = pretrained.resnet(transformers, leaves, "a file")
  assert first.keys() == leaves.keys()
  jax.tree.map(np.testing.assert_array_equal, first, second)


def text_arrays():
  d = 8
  shapes = {
    "token_embedding.weight": (49408, d),
    "positional_embedding": (6, d),
    "text_projection": (d, 5),
    "logit_scale": (),
    "visual.transformer.resblocks.0.ln_1.weight": (3,),
    "visual.conv1.weight": (3, 3, 2, 2),
    "ln_final.weight": (d,),
    "ln_final.bias": (d,),
  }
  for norm in ("ln_1", "ln_2"):
    for end in ("weight", "bias"):
      shapes[f"transformer.resblocks.0.{norm}.{end}"] = (d,)
  for layer, size in {
    "attn.in_proj_": (3 * d, d),
    "attn.out_proj.": (d, d),
    "mlp.c_fc.": (4 * d, d),
    "mlp.c_proj.": (d, 4 * d),
  }.items():
    shapes[f"transformer.resblocks.0.{layer}weight"] = size
    shapes[f"transformer.resblocks.0.{layer}bias"] = size[:1]
  return random_arrays(shapes)


def test_clip_s_own_names_are_transformers():
  arrays = text_arrays()
  leaves = leaves_of(
    lambda: TextTower(
      vocab_size=49408,
      context_length=6,
      width=8,
      layers=1,
      num_heads=2,
      rngs=nnx.Rngs(0),
    )
  )
  first = pretrained.text(arrays, leaves, "a file")
  old, new = "transformer.resblocks.0", "text_model.encoder.layers.0"
  theirs = {
    "text_model.embeddings.token_embedding.weight": arrays[
      "token_embedding.weight"
    ],
    "text_model.embeddings.position_embedding.weight": arrays[
      "positional_embedding"
    ],
    "text_model.embeddings.position_ids": np.arange(6)[None],
    "vision_model.encoder.layers.0.mlp.fc1.bias": np.zeros(2),
    "vision_model.embeddings.position_embedding.weight": np.zeros((2, 2)),
    "logit_scale": np.zeros(()),
  }
  for end in ("weight", "bias"):
    theirs[f"text_model.final_layer_norm.{end}"] = arrays[f"ln_final.{end}"]
    qkv = np.split(arrays[f"{old}.attn.in_proj_{end}"], 3)
    for part, value in zip("qkv", qkv, strict=True):
      theirs[f"{new}.self_attn.{part}_proj.{end}"] = value
    for ours, name in {
      "ln_1": "layer_norm1",
      "ln_2": "layer_norm2",
      "attn.out_proj": "self_attn.out_proj",
      "mlp.c_fc": "mlp.fc1",
      "mlp.c_proj": "mlp.fc2",
    }.items():
      theirs[f"{new}.{name}.{end}"] = arrays[f"{old}.{ours}.{end}"]
  second = pretrained.text(theirs, leaves, "a file")
  assert first.keys() == leaves.keys()
  jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture
def config(monkeypatch):
  for name, entry in {
    "swin_small": (
      Swin,
      dict(embed_dim=4, depths=(1,) * 4, num_heads=(1,) * 4),
    ),
    "vit_small": (ViTPyramid, dict(VIT, num_heads=1)),
  }.items():
    monkeypatch.setitem(backbones.BACKBONES, name, entry)
  c = default_config.get_config()
  c.update(batch_size=2, image_size=32, dtype="float32")
  c.model.update(backbone="swin_small", hidden_dim=32, mask_dim=8)
  c.model.update(num_queries=8, decoder_layers=1, ffn_dim=16, num_heads=2)
  c.model.update(proj_hidden=8, embed_dim=8)
  c.text.update(width=8, layers=1, num_heads=1, context_length=6)
  return c


def save(path, arrays):
  np.savez(path, **arrays)
  return str(path)


@pytest.mark.slow
def test_a_run_starts_from_them(config, tmp_path):
  arrays = microsoft_swin((1,) * 4, heads=(1,) * 4)
  before = train_step.init_state(train_step.make_setup(config))
  config.model.weights = save(tmp_path / "swin.npz", arrays)
  config.text.weights = save(tmp_path / "text.npz", text_arrays())
  after = train_step.init_state(train_step.make_setup(config))
  assert jax.tree.structure(before) == jax.tree.structure(after)
  same = {
    name
    for (name, a), b in zip(
      named_arrays.flat(before.params).items(),
      jax.tree.leaves(after.params),
      strict=True,
    )
    if np.array_equal(a, b)
  }
  assert not [n for n in same if n.startswith("text/")]
  of_backbone = {n for n in same if n.startswith("backbone/")}
  assert of_backbone == {
    f"backbone/norms/{i}/{part}" for i in range(4) for part in ("scale", "bias")
  }
  assert all(
    name in same
    for name in named_arrays.flat(before.params)
    if name.startswith(("maskformer/", "image_projection/"))
  )
  np.testing.assert_array_equal(
    after.params["backbone"]["stages"][0][0]["mlp_in"]["bias"],
    arrays["layers.0.blocks.0.mlp.fc1.bias"],
  )


@pytest.mark.slow
def test_a_vit_for_the_pyramid(config, tmp_path):
  config.model.backbone = "vit_small"
  d = VIT["width"]
  shapes = {
    "cls_token": (1, 1, d),
    "pos_embed": (1, 5, d),
    "patch_embed.proj.weight": (d, 3, 16, 16),
    "patch_embed.proj.bias": (d,),
    "norm.weight": (d,),
    "norm.bias": (d,),
  }
  for layer, size in {
    "attn.qkv": (3 * d, d),
    "attn.proj": (d, d),
    "mlp.fc1": (4 * d, d),
    "mlp.fc2": (d, 4 * d),
  }.items():
    shapes[f"blocks.0.{layer}.weight"] = size
    shapes[f"blocks.0.{layer}.bias"] = size[:1]
  for norm in ("norm1", "norm2"):
    for end in ("weight", "bias"):
      shapes[f"blocks.0.{norm}.{end}"] = (d,)
  arrays = random_arrays(shapes)
  config.model.weights = save(tmp_path / "vit.npz", arrays)
  state = train_step.init_state(train_step.make_setup(config))
  vit = state.params["backbone"]["vit"]
  np.testing.assert_array_equal(
    vit["blocks"][0]["qkv"]["kernel"], arrays["blocks.0.attn.qkv.weight"].T
  )
  arrays["pos_embed"] = np.zeros((1, 10, d), np.float32)
  save(tmp_path / "vit.npz", arrays)
  with pytest.raises(InputError, match=r"positions has shape \(10, 8\)"):
    train_step.init_state(train_step.make_setup(config))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("field", "source", "message"),
  [
    ("model", "nothing", "model.weights='nothing' is neither a file nor one"),
    ("model", "none.npz", "model.weights=none.npz: no such file of weights"),
    ("text", "gs://b/x.npz", "text.weights=gs://b/x.npz: .* local files"),
    ("model", "dino_vits8", "model.weights='dino_vits8' are weights of dino"),
    ("text", "swin_t", "text.weights='swin_t' are weights of swin_t, which is"),
  ],
)
def test_sources_that_do_not_fit(config, field, source, message):
  config[field].weights = source
  with pytest.raises(InputError, match=message):
    train_step.init_state(train_step.make_setup(config))


@pytest.mark.slow
def test_a_number_of_heads_that_no_shape_shows(config, tmp_path, caplog):
  config.text.weights = save(tmp_path / "text.npz", text_arrays())
  config.text.num_heads = 2
  train_step.init_state(train_step.make_setup(config))
  assert "text.num_heads=2, where published networks" in caplog.text
  config.text.weights = "clip_vitb32"
  config.text.update(width=512, num_heads=4)
  with pytest.raises(InputError, match="text.num_heads=4, .* have 8, as text"):
    train_step.init_state(train_step.make_setup(config))


@pytest.mark.slow
def test_networks_without_published_weights(config, tmp_path):
  config.model.update(backbone="conv_small", weights="swin_t")
  with pytest.raises(InputError, match="no weights are published.*conv_small"):
    train_step.init_state(train_step.make_setup(config))


@pytest.mark.slow
def test_files_of_other_sizes(config, tmp_path):
  arrays = microsoft_swin((1,) * 4, dim=8, heads=(1,) * 4)
  config.model.weights = save(tmp_path / "swin.npz", arrays)
  with pytest.raises(
    InputError,
    match=r"swin.npz \(model.weights, for model.backbone='swin_small'\):"
    r".* has shape .* another network",
  ):
    train_step.init_state(train_step.make_setup(config))
  del arrays["layers.0.blocks.0.norm1.bias"]
  save(tmp_path / "swin.npz", arrays)
  with pytest.raises(InputError, match="1 tensors are missing: stages.0.0.no"):
    train_step.init_state(train_step.make_setup(config))


def test_queries_keys_and_values_belong_together():
  arrays = {f"a.{part}.weight": np.zeros((2, 2)) for part in "qkv"}
  joined = tensors.join_qkv(arrays, "a.", "a file")
  assert joined["a.qkv.weight"].shape == (6, 2)
  del arrays["a.k.weight"]
  with pytest.raises(InputError, match="a file: the tensor a.k.weight"):
    tensors.join_qkv(arrays, "a.", "a file")
