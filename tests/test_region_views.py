"""Several views of a picture, of whose regions features are stored."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_eye import config, weights, write_pictures
from test_train_step import BATCH

from sseg_jax import prepare
from sseg_jax.data import manifest, pipeline, records, region_views
from sseg_jax.errors import InputError
from sseg_jax.pseudo_masks import caching, eye
from sseg_jax.study import photos

__all__ = ["config", "weights"]  # fixtures

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def png(pixels):
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "PNG")
  return out.getvalue()


def test_the_views_are_whole_mirrored_and_crops(tiny_config):
  data = png(PICTURE)
  views = region_views.pictures(data, 32, 6, tiny_config, 7)
  assert views.shape == (6, 32, 32, 3) and views.dtype == np.uint8
  whole = Image.fromarray(PICTURE).resize((32, 32), Image.Resampling.BILINEAR)
  assert np.abs(views[0].astype(int) - np.asarray(whole)).mean() < 1
  np.testing.assert_array_equal(views[1], views[0, :, ::-1])
  assert len({view.tobytes() for view in views}) == 6
  # The same picture gives the same crops, another record others.
  again = region_views.pictures(data, 32, 6, tiny_config, 7)
  np.testing.assert_array_equal(views, again)
  other = region_views.pictures(data, 32, 6, tiny_config, 8)
  np.testing.assert_array_equal(views[:2], other[:2])
  assert all((views[i] != other[i]).any() for i in range(2, 6))
  assert region_views.pictures(b"no picture", 32, 2, tiny_config, 0) is None


def test_crops_have_the_shares_of_the_config(tiny_config):
  """Where the red channel tells the column, a narrow crop has few of them."""
  ramp = np.zeros((64, 64, 3), np.uint8)
  ramp[..., 0] = np.arange(64)
  tiny_config.data.crop_scale = (0.25, 0.25)
  tiny_config.data.crop_ratio = (1.0, 1.0)
  views = region_views.pictures(png(ramp), 32, 12, tiny_config, 0)
  columns = views[2:, 0, :, 0].astype(int)
  assert (np.ptp(columns, axis=1) == 31).all()
  assert len(set(columns.min(1))) > 5
  mirrored = columns[:, 0] > columns[:, -1]
  assert 0 < mirrored.sum() < 10


def test_every_view_is_drawn_alike_often():
  ids, epochs = np.arange(3000), np.zeros(3000, np.int64)
  drawn = region_views.drawn(0, ids, epochs, 3)
  assert (np.bincount(drawn, minlength=3) > 900).all()
  assert (drawn != region_views.drawn(0, ids, epochs + 1, 3)).mean() > 0.5
  assert not region_views.drawn(0, ids, epochs, 1).any()


@pytest.fixture
def source(config, tmp_path):
  """A folder of six records; the last has no picture."""
  config.image_size = 32
  config.batch_size = config.data.lanes = 2
  folder = str(tmp_path / "source")
  write_pictures(folder)
  return folder


@pytest.mark.slow
def test_a_step_takes_one_of_the_stored_views(config, source, tmp_path):
  one, three = str(tmp_path / "one"), str(tmp_path / "three")
  caching.add_pseudo_masks(source, one, config, features=True)
  caching.add_pseudo_masks(
    source, three, config, features=True, region_views=3, batch_size=4
  )
  made = manifest.read_manifest(three).info["pseudo_masks"]["region_features"]
  assert made["views"] == 3 and made["crop_scale"] == [*config.data.crop_scale]
  assert (
    "views"
    not in manifest.read_manifest(one).info["pseudo_masks"]["region_features"]
  )

  def features(folder, views):
    return np.stack(
      [
        np.frombuffer(r.region_features, np.float16).reshape(views, 3, 128)
        for r in records.read(folder)
      ]
    )

  stored = features(three, 3)
  # The whole picture is the view that is stored without others.
  np.testing.assert_allclose(stored[:, 0], features(one, 1)[:, 0], atol=1e-3)
  for a, b in zip(records.read(one), records.read(three), strict=True):
    assert a.pseudo_labels == b.pseudo_labels
  assert not stored[5].any()
  # The mirrored view is what the eye sees in the mirrored picture.
  seer = eye.build(config, load=True)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(
    jnp.arange(4)
  )
  assert config.seed == 0
  seen = jax.jit(seer.see)(
    seer.frozen,
    jnp.asarray(BATCH["image"][:4, :, ::-1]),
    jax.vmap(jax.random.fold_in, (0, None))(keys, 1),
  )
  np.testing.assert_allclose(stored[:4, 1], seen.features, atol=1e-3)

  config.data.train, config.pseudo_masks.mode = three, "cached"
  batches = pipeline.train_batches(config)
  found, taken = [next(batches) for _ in range(12)], set()
  batches.close()
  for batch in found:
    for number, shown in zip(
      batch["id"], batch["region_features"], strict=True
    ):
      equal = [v for v in range(3) if (stored[number, v] == shown).all()]
      assert equal
      if number != 5:
        taken.add((int(number), equal[0]))
  assert len(taken) > 8 and {view for _, view in taken} == {0, 1, 2}
  # `study` takes the same.
  same = itertools.islice(photos.batches(config, photos.read(three)), 12)
  for mine, theirs in zip(same, found, strict=True):
    assert mine.keys() == theirs.keys()
    for name in mine:
      np.testing.assert_array_equal(mine[name], theirs[name])
  # Folders with different views do not go together.
  config.data.train = f"{one},{three}"
  with pytest.raises(InputError, match="views of regions differ"):
    pipeline.train_batches(config)


def test_views_without_features_are_refused(source, config, tmp_path, capsys):
  with pytest.raises(InputError, match="region_views=2: needs --add_region"):
    caching.add_pseudo_masks(
      source, str(tmp_path / "x"), config, region_views=2
    )
  argv = ["--add_pseudo_masks", "--add_region_features", "--region_views=0"]
  argv += [f"--records={source}", f"--out={tmp_path / 'x'}", "--config=photos"]
  assert prepare.main(argv) == 2
  assert "--region_views=0: must be at least 1" in capsys.readouterr().err
  assert (
    prepare.main([f"--source={source}", "--region_views=2", "--out=x"]) == 2
  )
  assert "--region_views=2 has no meaning" in capsys.readouterr().err
