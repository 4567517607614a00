"""The whole model: its size, its two embeddings of a query, its mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import default_config
from sseg_jax.errors import InputError
from sseg_jax.models import described, pooling, sseg


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def published():
  """Shapes of the default configuration: the paper's model."""
  return sseg.build(default_config.get_config())[1]


def test_parameter_counts_of_the_paper(published):
  maskformer = published["maskformer"]
  assert count(published["backbone"]) == 48_838_602
  assert count(maskformer["fpn"]) == 4_304_640
  assert count(maskformer) - count(maskformer["fpn"]) == 9_883_648
  assert count(published["backbone"]) + count(maskformer) == 63_026_890
  assert count(published["text"]) == 22_145_792
  assert count(published["image_projection"]) == 2_109_696
  assert count(published["text_projection"]) == 2_109_696
  towers = 63_026_890 + 22_145_792 + 2 * 2_109_696
  assert count(published) == towers + 1  # the logit scale


@pytest.mark.slow
def test_tests_start_from_what_the_package_draws(package_init, tiny_config):
  """conftest.py replaces `sseg.init`, to compile less."""
  assert package_init is not sseg.init
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-7),
    package_init(tiny_config, 3),
    sseg.init(tiny_config, 3),
  )


@pytest.mark.slow
def test_transformer_encoder_pixel_decoder(published):
  """Its encoder takes the projection's place, and the FPN starts from it."""
  config = default_config.get_config()
  config.model.pixel_decoder = "transformer_encoder"
  graphdef, params, model_state = sseg.build(config)
  maskformer = params["maskformer"]
  assert "input_proj" not in maskformer
  d, ffn = 256, 2048
  layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 2 * 2 * d
  assert count(maskformer["encoder"]) == 768 * d + d + 6 * layer
  # The FPN's first convolution reads 256 features in place of 768.
  fpn = count(published["maskformer"]["fpn"]) - count(maskformer["fpn"])
  assert fpn == (768 - 256) * d * 9
  image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.uint8)
  out = jax.eval_shape(
    lambda p, s, x: sseg.apply_image(graphdef, p, s, x),
    params,
    model_state,
    image,
  )
  assert out.mask_logits.shape == (1, 2, 64, 16, 24)
  config.model.memory = "res4"
  maskformer = sseg.build(config)[1]["maskformer"]
  assert maskformer["input_proj"]["kernel"].shape == (384, 256)


def test_parameters_are_float32_whatever_the_products_are(published):
  assert default_config.get_config().dtype == "bfloat16"
  assert {x.dtype for x in jax.tree.leaves(published)} == {jnp.float32.dtype}


# ----------------------------------------------------------- a tiny model


@pytest.fixture(scope="module")
def tiny(make_tiny_config):
  """A configuration with random parameters, drawn without compiling.

  They fit every choice of embedding and mean, as long as what is pooled is as
  wide as the decoder.
  """
  config = make_tiny_config()
  config.model.decoder_layers = 2
  config.model.proj_norm = "ln"
  _, params, model_state = sseg.build(config)
  rng = np.random.default_rng(0)

  def draw(path, x):
    # Norms keep their size and positions stand out, so that queries differ.
    name = jax.tree_util.keystr(path)
    spread = 2 if "query_positions" in name else 0.2
    drawn = rng.normal("scale'" in name, spread, x.shape)
    return jnp.asarray(drawn, x.dtype)

  return config, jax.tree.map_with_path(draw, params), model_state


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  config.model.update(fields)
  return config


IMAGE = np.random.default_rng(1).integers(
  0, 256, (2, 32, 64, 3), dtype=np.uint8
)
_encode = jax.jit(sseg.apply_image, static_argnums=0)


def encoded(tiny, **fields):
  config, params, model_state = tiny
  graphdef = sseg.build(changed(config, **fields))[0]
  return _encode(graphdef, params, model_state, IMAGE)


def project(tiny, features):
  model = nnx.merge(sseg.build(tiny[0])[0], *tiny[1:])
  return model.image_projection(features)


@pytest.mark.slow
def test_the_papers_form_projects_the_mean_of_the_decoders_features(tiny):
  out = encoded(tiny)
  assert out.mask_logits.shape == (1, 2, 8, 8, 16)
  assert out.query_features.shape == (2, 8, 32)
  np.testing.assert_allclose(
    out.query_embeddings, project(tiny, out.query_features), atol=1e-4
  )
  np.testing.assert_allclose(
    out.image_embedding, project(tiny, out.query_features.mean(1)), atol=1e-4
  )
  # Not the mean of the projected queries, which is the other form.
  other = out.query_embeddings.mean(1)
  assert np.abs(out.image_embedding - other).max() > 1e-2


@pytest.mark.slow
def test_mean_after_averages_the_projected_queries(tiny):
  out = encoded(tiny, mean="after")
  expected = out.query_embeddings.mean(1)
  np.testing.assert_allclose(out.image_embedding, expected, atol=1e-4)
  unit = encoded(tiny, mean="after", normalize_queries=True)
  length = jnp.linalg.norm(out.query_embeddings, axis=-1, keepdims=True)
  expected = (out.query_embeddings / length).mean(1)
  np.testing.assert_allclose(unit.image_embedding, expected, atol=1e-4)


def owned(mask_logits):
  """Share of each cell that a query wins, judged at twice the resolution."""
  b, n, h, w = mask_logits.shape
  fine = jax.image.resize(mask_logits, (b, n, 2 * h, 2 * w), "bilinear")
  best = np.asarray(fine).argmax(1)
  won = best[:, None] == np.arange(n)[None, :, None, None]
  return won.reshape(b, n, h, 2, w, 2).mean((3, 5))


@pytest.mark.slow
def test_counted_owners_are_the_queries_that_win_a_pixel(tiny):
  out = encoded(tiny, mean="after", counted_queries="owners")
  won = owned(out.mask_logits[-1]).any((2, 3))
  assert not won.all()  # else the test could not fail
  for i, counted in enumerate(won):
    expected = np.asarray(out.query_embeddings)[i, counted].mean(0)
    np.testing.assert_allclose(out.image_embedding[i], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pool_masks", ["soft", "hard"])
def test_mask_pooled_queries_average_pixels_under_their_masks(tiny, pool_masks):
  config, params, model_state = tiny
  fields = dict(query_embedding="mask_pooled", pool_masks=pool_masks)
  out = encoded(tiny, **fields)
  logits = np.asarray(out.mask_logits[-1], np.float64)
  if pool_masks == "soft":
    masks = 1 / (1 + np.exp(-logits))
  else:
    masks = owned(out.mask_logits[-1])

  @jax.jit
  def pixel_features(image):
    model = nnx.merge(sseg.build(config)[0], params, model_state)
    pixels = sseg.normalize_pixels(image)
    return model.maskformer(model.backbone(pixels)).pixel_features

  features = np.asarray(pixel_features(IMAGE), np.float64)
  sums = np.einsum("bnhw,bhwd->bnd", masks, features)
  expected = sums / (masks.sum((2, 3))[..., None] + 1e-6)
  np.testing.assert_allclose(out.query_features, expected, atol=1e-4)
  np.testing.assert_allclose(
    out.query_embeddings, project(tiny, out.query_features), atol=1e-4
  )


def test_pooling_a_coarser_level_averages_the_masks_over_its_cells():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  masks = rng.uniform(size=(2, 6, 6, 8)).astype(np.float32)
  masks[0, 0] = 0  # an empty mask gives zeros, not NaN
  got = pooling.pool_under_masks(jnp.asarray(features), jnp.asarray(masks))
  # The same as pooling at the masks' size what each of its pixels lies in.
  fine = features.repeat(2, 1).repeat(2, 2)
  area = np.maximum(masks.sum((2, 3)), 1e-9)[..., None]
  expected = np.einsum("bnhw,bhwd->bnd", masks, fine) / area
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert not got[0, 0].any()


def test_owned_pixels_go_to_the_highest_logit():
  logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
  logits = jnp.asarray(logits, jnp.float32)
  got = pooling.owned_pixels(logits)
  np.testing.assert_allclose(got, owned(logits), atol=1e-6)
  assert 0 < np.mean((got > 0) & (got < 1)) < 0.5  # some cells are shared
  tie = pooling.owned_pixels(jnp.zeros((1, 3, 2, 2)))
  np.testing.assert_array_equal(tie.sum(1), np.ones((1, 2, 2)))


def disk(y, x, radius, side=64):
  rows, columns = np.mgrid[0:side, 0:side] + 0.5
  return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.float32)


def bar(y, x, half_height, half_width, side=64):
  rows, columns = np.mgrid[0:side, 0:side] + 0.5
  inside = np.abs(rows - y) <= half_height
  return (inside & (np.abs(columns - x) <= half_width)).astype(np.float32)


def test_an_outline_tells_the_form_wherever_it_is():
  masks = [
    disk(20, 20, 12),
    disk(40, 37, 12),
    disk(32, 32, 24),
    bar(32, 32, 6, 18),
    bar(32, 32, 18, 6),
    np.zeros((64, 64), np.float32),
  ]
  got = np.asarray(pooling.outline(jnp.asarray(np.stack(masks))[None]))[0]
  assert got.shape == (6, pooling.OUTLINE_SIZE)
  np.testing.assert_allclose(got[1], got[0], atol=1e-2)  # moved
  form = got[:, :-1]
  np.testing.assert_allclose(form[2], form[0], atol=0.1)  # twice as large
  assert got[2, -1] > got[0, -1] + 0.5
  assert np.abs(form[3] - form[0]).max() > 0.5
  assert np.abs(form[4] - form[3]).max() > 0.5  # turned by a quarter
  assert not got[5].any()


@pytest.mark.slow
def test_masks_are_snapped_to_regions_before_they_are_pooled(tiny, monkeypatch):
  config, params, model_state = tiny
  config = changed(config, query_embedding="mask_pooled", pool_masks="pseudo")
  graphdef = sseg.build(config)[0]
  b, h, w, _ = IMAGE.shape
  labels = np.zeros((b, h, w), np.int32)
  labels[:, :, w // 3 :] = 1
  labels = jnp.asarray(labels)
  out = _encode(graphdef, params, model_state, jnp.asarray(IMAGE), labels)
  plain = _encode(graphdef, params, model_state, jnp.asarray(IMAGE))
  k = config.pseudo_masks.k
  monkeypatch.setattr(described.Described, "masks", lambda self, logits: logits)
  whole = sseg.apply_image(graphdef, params, model_state, jnp.asarray(IMAGE))
  expected = pooling.snap(whole.mask_logits[-1], labels, k)
  shown = np.asarray(out.query_features).any(-1)
  assert shown.any(1).all()
  np.testing.assert_allclose(
    np.asarray(out.mask_logits[-1])[shown], expected[shown], atol=1e-4
  )
  assert np.abs(out.query_features - plain.query_features).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("pool_masks", ["soft", "hard"])
def test_no_gradient_reaches_the_masks_through_the_pooling(tiny, pool_masks):
  config, params, model_state = tiny
  config = changed(
    config, query_embedding="mask_pooled", pool_masks=pool_masks, mean="after"
  )
  graphdef = sseg.build(config)[0]

  @jax.jit
  def gradient(params):
    def loss(params):
      image = jnp.asarray(IMAGE)
      out = sseg.apply_image(graphdef, params, model_state, image)
      return (out.image_embedding**2).sum()

    return jax.grad(loss)(params)

  def size(tree):
    return sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree))

  grads = gradient(params)
  # The decoder and the mask heads have the masks alone to act by.
  for name in ("mask_embed", "layers", "query_positions", "input_proj"):
    assert size(grads["maskformer"][name]) == 0
  assert size(grads["maskformer"]["fpn"]["mask_features"]) == 0
  assert size(grads["maskformer"]["fpn"]["outputs"]) > 0
  assert size(grads["backbone"]) > 0


def test_levels_that_are_pooled_together_widen_the_projection(tiny):
  fields = dict(query_embedding="mask_pooled", pool_feature="res2+res4+pixel")
  _, params, _ = sseg.build(changed(tiny[0], **fields))
  widths = 16 + 32 + 32  # of conv_tiny's res2 and res4, and hidden_dim
  assert params["image_projection"]["fc1"]["kernel"].shape == (widths, 64)
  _, params, _ = sseg.build(changed(tiny[0], **fields, pool_outline=True))
  widths += pooling.OUTLINE_SIZE
  assert params["image_projection"]["fc1"]["kernel"].shape == (widths, 64)
  fields |= dict(pool_outline=True, region_hidden=24)
  _, params, _ = sseg.build(changed(tiny[0], **fields))
  assert params["region"]["linear"]["kernel"].shape == (widths, 24)
  assert params["image_projection"]["fc1"]["kernel"].shape == (24, 64)


def test_shapes_are_those_of_what_is_initialised(tiny):
  config = tiny[0]
  made = jax.eval_shape(lambda: sseg.init(config, 0))
  _, params, model_state = sseg.build(config)
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(
      (a.shape, a.dtype), (b.shape, b.dtype)
    ),
    made,
    (params, model_state),
  )


def test_embeddings_are_float32_in_bfloat16(tiny):
  config = tiny[0].copy_and_resolve_references()
  config.dtype = "bfloat16"
  graphdef, params, model_state = sseg.build(config)
  image = jax.eval_shape(
    lambda p, s: sseg.apply_image(graphdef, p, s, jnp.asarray(IMAGE)),
    params,
    model_state,
  )
  text = jax.eval_shape(
    lambda p, s: sseg.apply_text(graphdef, p, s, jnp.ones((3, 16), jnp.int32)),
    params,
    model_state,
  )
  assert text.shape == (3, 32) and text.dtype == jnp.float32
  for name in ("mask_logits", "query_embeddings", "image_embedding"):
    assert getattr(image, name).dtype == jnp.float32, name
  assert image.query_features.dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(33, 32), (32, 48)])
def test_a_picture_of_the_wrong_size_is_named(tiny, size):
  graphdef, params, model_state = sseg.build(tiny[0])
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
  with pytest.raises(InputError, match=f"{size[0]}x{size[1]}.*multiple of 32"):
    jax.eval_shape(
      lambda p, s, x: sseg.apply_image(graphdef, p, s, x),
      params,
      model_state,
      image,
    )


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("backbone", "vgg"),
    ("pixel_decoder", "unet"),
    ("query_embedding", "pooled"),
    ("pool_masks", "both"),
    ("counted_queries", "some"),
    ("mean", "between"),
    ("proj_norm", "gn"),
    ("memory", "res1"),
    ("pool_feature", "res2+res7"),
    ("hidden_dim", 30),
  ],
)
def test_a_value_that_cannot_work_is_named(tiny, field, value):
  config = changed(
    tiny[0], **({"query_embedding": "mask_pooled"} | {field: value})
  )
  wrong = "res7" if field == "pool_feature" else str(value)
  with pytest.raises(InputError, match=f"model.{field}.*{wrong}"):
    sseg.build(config)


def test_an_unknown_dtype_is_named(tiny):
  config = tiny[0].copy_and_resolve_references()
  config.dtype = "bf16"
  with pytest.raises(InputError, match="dtype='bf16'.*bfloat16"):
    sseg.build(config)


@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("model.decoder_layers", 0, "at least 1"),
    ("model.num_heads", 0, "at least 1"),
    ("text.context_length", 0, "at least 2"),
    ("model.dropout", 1.0, "from 0 to below 1"),
    ("model.drop_path", -0.2, "from 0 to below 1"),
    ("loss.init_temperature", 0.0, "over 0"),
    ("loss.max_logit_scale", 0.0, "over 0"),
  ],
)
def test_values_that_make_no_network(tiny_config, field, value, wanted):
  tiny_config.update_from_flattened_dict({field: value})
  with pytest.raises(InputError, match=f"{field}={value}: must be {wanted}"):
    sseg.SSeg(tiny_config, rngs=nnx.Rngs(0))
