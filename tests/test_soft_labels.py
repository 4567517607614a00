"""Soft labels: how records hold them, and the losses of all students."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_supervised as text_student

from sseg_jax import default_config
from sseg_jax.data import pipeline, records, soft_labels
from sseg_jax.errors import InputError
from sseg_jax.plan import step as plan_step
from sseg_jax.tasks import fixed_classes, soft_targets, task

MORE = soft_labels.KEPT - 1


def _distributions(labels, planes, count):
  """The probabilities that planes [p,h,w] mean, float64 [h,w,count]."""
  found = np.zeros((*labels.shape, count))
  for y, x in np.ndindex(*labels.shape):
    if labels[y, x] >= count:
      continue
    shares = planes[MORE:, y, x] / 255
    found[y, x, labels[y, x]] += 1 - shares.sum()
    for name, share in zip(planes[:MORE, y, x], shares, strict=True):
      found[y, x, name] += share
  return found


@pytest.mark.parametrize("count", [2, 4, 7])
def test_the_likeliest_classes_are_kept_to_a_255th(rng, count):
  p = rng.dirichlet(np.full(count, 0.5), (6, 5)).astype(np.float32)
  labels = p.argmax(-1)
  labels[0, 0], labels[1, 1] = 255, p[1, 1].argmin()
  planes = soft_labels.planes(3 * p, labels)  # whatever they sum to
  assert planes.shape == (soft_labels.PLANES, 6, 5)
  assert not planes[:, 0, 0].any()
  found = _distributions(labels, planes, count)
  for y, x in np.ndindex(6, 5):
    if labels[y, x] == 255:
      continue
    own = labels[y, x]
    rest = sorted(set(range(count)) - {own}, key=lambda i: -p[y, x, i])[:MORE]
    expected = np.zeros(count)
    expected[[own, *rest]] = p[y, x, [own, *rest]]
    expected /= expected.sum()
    # The label itself has the rounding errors of the others.
    np.testing.assert_allclose(found[y, x], expected, atol=MORE / 255)
    others = np.arange(count) != own
    np.testing.assert_allclose(
      found[y, x][others], expected[others], atol=1.1 / 255
    )


def test_sure_pixels_have_planes_of_zeros_and_shares_never_exceed_one():
  labels = np.array([[0, 1, 2, 2]])
  p = np.array([[[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 0]]])
  planes = soft_labels.planes(p, labels)
  assert not planes[:, 0, [0, 1, 3]].any()
  # Two halves round up to 256.
  assert planes[MORE:, 0, 2].astype(int).sum() == 255
  found = _distributions(labels, planes, 3)[0]
  np.testing.assert_allclose(found[2], [0.5, 0.5, 0], atol=0.003)


def test_planes_come_back_and_other_pngs_do_not(rng):
  tf = pytest.importorskip("tensorflow")
  planes = rng.integers(0, 256, (soft_labels.PLANES, 5, 7), np.uint8)
  data = tf.constant(soft_labels.encode(planes))
  np.testing.assert_array_equal(soft_labels.decode(data), planes)
  other = records.encode_png(np.zeros((5, 7), np.uint8))
  with pytest.raises(tf.errors.InvalidArgumentError):
    soft_labels.decode(tf.constant(other))


def _written(folder, made_for=soft_labels.KEPT, bad=False):
  """Records of which the soft labels can be told from the labels."""
  rng = np.random.default_rng(0)
  with records.RecordWriter(str(folder), num_shards=1) as writer:
    for i in range(8):
      labels = rng.integers(0, 4, (40, 48)).astype(np.uint8)
      planes = np.stack([labels + 10 * j for j in range(soft_labels.PLANES)])
      png = b"no picture" if bad and not i else soft_labels.encode(planes)
      writer.write(
        records.Record(
          b"%d" % i,
          records.encode_png(labels[..., None].repeat(3, -1)),
          labels=records.encode_png(labels),
          soft_labels=png,
        )
      )
    if made_for:
      writer.info[soft_labels.KEY] = made_for
  return str(folder)


def _config(labels="soft"):
  c = default_config.get_config()
  c.task, c.self_training.labels = "supervised", labels
  c.batch_size, c.image_size, c.data.lanes, c.data.threads = 8, 32, 4, 2
  c.data.shuffle_window = 3
  return c


def _take(config, folder, count):
  batches = pipeline.train_batches(config, folders=[folder])
  found = [next(batches) for _ in range(count)]
  batches.close()
  return found


def test_crops_and_flips_take_the_planes_of_the_same_pixels(tmp_path):
  folder = _written(tmp_path / "a")
  hard = _take(_config("hard"), folder, 2)
  for batch, plain in zip(_take(_config(), folder, 2), hard, strict=True):
    planes = batch["soft_labels"]
    assert planes.shape == (8, soft_labels.PLANES, 32, 32)
    assert planes.dtype == np.uint8
    for j in range(soft_labels.PLANES):
      np.testing.assert_array_equal(planes[:, j], batch["labels"] + 10 * j)
    del batch["soft_labels"]
    jax.tree.map(np.testing.assert_array_equal, batch, plain)


def test_planes_that_do_not_decode_are_counted(tmp_path):
  (batch,) = _take(_config(), _written(tmp_path / "a", bad=True), 1)
  (bad,) = np.flatnonzero(~batch["valid"])
  assert batch["id"][bad] == 0
  assert (batch["labels"][bad] == 255).all()
  assert not batch["soft_labels"][bad].any()


def test_records_without_soft_labels_are_refused(tmp_path):
  hard = _written(tmp_path / "hard", made_for=0)
  with pytest.raises(InputError, match="hard holds no soft labels.*'?use"):
    _take(_config(), hard, 1)
  other = _written(tmp_path / "other", made_for=3)
  with pytest.raises(InputError, match="of 3 classes a pixel.* reads 4"):
    _take(_config(), other, 1)


def test_a_plan_has_the_batch_of_the_pipeline(tmp_path):
  config = _config()
  (batch,) = _take(config, _written(tmp_path), 1)
  setup = object.__new__(task.Setup)  # of which only the config is read
  object.__setattr__(setup, "config", config)
  planned = plan_step.abstract_batch(setup)
  assert {k: (v.shape, v.dtype) for k, v in planned.items()} == {
    k: (v.shape, v.dtype) for k, v in batch.items()
  }


# -------------------------------------------------------------------- losses


def _soft(rng, labels, count):
  """Draws planes for labels [b,h,w]; those of ignored pixels are 0."""
  planes = []
  for each in labels:
    p = rng.dirichlet(np.full(count, 0.5), each.shape)
    planes.append(soft_labels.planes(p, each))
  return np.stack(planes)


def test_the_pixel_loss_of_the_text_student_is_numpy_s(rng):
  outputs, text = text_student._outputs()
  batch = text_student._batch()
  count = text_student.CLASSES
  batch["soft_labels"] = _soft(rng, batch["labels"], count)
  loss = jax.jit(
    lambda *a: text_student._loss(text_student._config(False), batch, *a)[1]
  )(outputs, text)["loss/pixel"]
  p = np.exp(text_student._log_probabilities(outputs.query_embeddings, text))
  s = 1 / (1 + np.exp(-outputs.mask_logits[-1].astype(np.float64)))
  scores = np.einsum("bnhw,bnc->bhwc", s / s.sum(1, keepdims=True), p)
  small = batch["labels"][:, ::4, ::4]
  losses = []
  for b in range(2):  # the third is not valid
    wanted = _distributions(
      small[b], batch["soft_labels"][b][:, ::4, ::4], count
    )
    each = -(wanted * np.log(scores[b])).sum(-1)
    losses += each[small[b] != 255].tolist()
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_the_region_loss_of_the_text_student_is_numpy_s(rng):
  outputs, text = text_student._outputs()
  batch = text_student._batch()
  count = text_student.CLASSES
  batch["soft_labels"] = _soft(rng, batch["labels"], count)
  targets = np.eye(count, dtype=np.float32)
  targets[0] = 1 / count  # as background has
  loss = jax.jit(
    lambda *a: text_student._loss(text_student._config(True), batch, *a)[1]
  )(outputs, text, targets)["loss/region"]
  log_p = text_student._log_probabilities(outputs.part_embeddings, text)
  losses = []
  for b in range(2):
    labels = batch["labels"][b]
    wanted = _distributions(labels, batch["soft_labels"][b], count)
    for mask, name in enumerate((3, 254)):
      of_mask = wanted[labels == name].mean(0) @ targets
      losses.append(-(of_mask * log_p[b, mask]).sum())
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("by_regions", [False, True])
def test_sure_labels_give_the_text_student_the_loss_of_hard_ones(by_regions):
  outputs, text = text_student._outputs()
  config, batch = text_student._config(by_regions), text_student._batch()
  sure = np.stack(
    [soft_labels.planes(np.eye(255)[x % 255], x) for x in batch["labels"]]
  )

  def run(batch):
    return jax.jit(
      jax.value_and_grad(
        lambda o, t: text_student._loss(config, batch, o, t)[0], argnums=(0, 1)
      )
    )(outputs, text)

  # Two programs round sums of values up to one differently.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    run(batch | {"soft_labels": sure}),
    run(batch),
  )


def _pixels(rng, b=3, count=5):
  labels = rng.integers(0, count, (b, 8, 8)).astype(np.int32)
  labels[0, :3] = 255
  logits = rng.normal(size=(b, 8, 8, count)).astype(np.float32)
  return logits, labels, jnp.array([True, True, False])


def _pixel_loss(logits, labels, valid, stride, planes):
  arrays = jax.tree.map(jnp.asarray, (logits, labels, planes))
  return fixed_classes.pixel_loss(*arrays[:2], valid, stride, arrays[2])


def _class_loss(logits, names, index, valid, no_object, shares):
  arrays = jax.tree.map(jnp.asarray, (logits, names, index, shares))
  return fixed_classes.class_loss(*arrays[:3], valid, no_object, arrays[3])


@pytest.mark.slow
def test_the_pixel_loss_of_a_list_of_classes_is_numpy_s(rng):
  logits, labels, valid = _pixels(rng)
  planes = _soft(rng, labels, 5)
  found = _pixel_loss(logits, labels, valid, 1, planes)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  losses = []
  for b in range(2):
    each = -(_distributions(labels[b], planes[b], 5) * log_p[b]).sum(-1)
    losses += each[labels[b] != 255].tolist()
  np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)
  # Every second pixel, and of an invalid picture nothing.
  half = _pixel_loss(logits, labels, valid, 2, planes)
  logits[2] = np.nan
  again = _pixel_loss(logits, labels, valid, 2, planes)
  assert half == again != found


@pytest.mark.slow
def test_sure_labels_give_a_list_of_classes_the_loss_of_hard_ones(rng):
  logits, labels, valid = _pixels(rng)
  sure = np.zeros((3, soft_labels.PLANES, 8, 8), np.uint8)
  for stride in (1, 2):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
      *(
        jax.value_and_grad(_pixel_loss)(logits, labels, valid, stride, planes)
        for planes in (None, sure)
      ),
    )


def test_a_mask_s_classes_are_the_mean_of_its_pixels(rng):
  labels = np.repeat([[[0, 2, 4, 255]]], 6, 1).astype(np.int32)
  labels[:, 3:, 0] = 2
  masks = np.select([labels == 0, labels == 4], [0, 1], 2)  # 2 and 255: none
  planes = _soft(rng, labels, 5)
  found = soft_targets.of_masks(
    jnp.asarray(masks), jnp.asarray(labels), jnp.asarray(planes), 2, 5
  )
  wanted = _distributions(labels[0], planes[0], 5)
  for mask in range(2):
    np.testing.assert_allclose(
      found[0, mask], wanted[masks[0] == mask].mean(0), rtol=1e-6
    )
  none = jnp.full(masks.shape, 2)
  assert not soft_targets.of_masks(
    none, jnp.asarray(labels), jnp.asarray(planes), 2, 5
  ).any()


def _queries(rng):
  logits = rng.normal(size=(2, 2, 5, 4)).astype(np.float32)
  names = np.array([[1, 2], [0, 3]])  # the last mask does not exist
  index = np.array([[[4, 0], [1, 2]], [[0, 1], [2, 3]]])
  return logits, names, index, jnp.array([True, True])


@pytest.mark.slow
def test_the_class_loss_of_soft_masks_is_numpy_s(rng):
  logits, names, index, valid = _queries(rng)
  shares = rng.dirichlet(np.ones(3), (2, 2)).astype(np.float32)
  found = _class_loss(logits, names, index, valid, 0.1, shares)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = 0.0
  for layer in range(2):
    wanted = np.zeros((2, 5, 4))
    wanted[..., 3] = 1
    for b, k in ((0, 0), (0, 1), (1, 0)):
      wanted[b, index[layer, b, k]] = [*shares[b, k], 0]
    weight = np.where(wanted[..., 3] == 1, 0.1, 1.0)
    each = -(wanted * log_p[layer]).sum(-1)
    expected += (each * weight).sum() / weight.sum()
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_sure_masks_have_the_class_loss_of_hard_ones(rng):
  logits, names, index, valid = _queries(rng)
  sure = np.eye(4, dtype=np.float32)[names][..., :3]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    *(
      jax.value_and_grad(_class_loss)(logits, names, index, valid, 0.1, shares)
      for shares in (None, sure)
    ),
  )
