"""Cached pseudo-masks: the same labels as online, whatever interrupts."""

import functools
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from PIL import Image

from sseg_jax import prepare, train_step
from sseg_jax.data import (
  import_tensorflow,
  pipeline,
  records,
  region_views,
)
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.pseudo_masks import caching, generator
from sseg_jax.runtime import lease

COUNT = 26


def _record(i, broken=False):
  rng = np.random.default_rng(i)
  image = np.kron(
    rng.integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1), int)
  ).astype(np.uint8)
  return records.Record(
    key=b"%d" % i,
    image=b"no picture" if broken else records.encode_png(image),
    captions=(b"number %d" % i,),
  )


def _write(folder, broken=()):
  with records.RecordWriter(str(folder), shard_size=5) as writer:
    for i in range(COUNT):
      writer.write(_record(i, i in broken))
    writer.info["kind"] = "noise"
  return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return _write(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return small_vit.write(tmp_path_factory.mktemp("weights") / "vit.npz")


@pytest.fixture
def config(tiny_config):
  """Training without augmentation: every crop is the whole picture."""
  tiny_config.data.crop_scale = (1.0, 1.0)
  tiny_config.data.crop_ratio = (1.2, 1.2)
  tiny_config.data.flip = 0.0
  return tiny_config


def _files(folder):
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


def _add(folder, out, config, **fields):
  return caching.add_pseudo_masks(folder, str(out), config, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixels", "dino"])
def test_cached_and_online_are_equal(folder, weights, tmp_path, config, name):
  config.pseudo_masks.update(generator=name, weights=weights)
  report = _add(folder, tmp_path / "out", config, batch_size=4)
  assert (report.records, report.written, report.missing) == (COUNT, 6, 0)
  online = train_step.make_setup(config)
  make = jax.jit(functools.partial(train_step.pseudo_mask_labels, online))
  config.pseudo_masks.mode = "cached"
  batches = pipeline.train_batches(config, folders=[str(tmp_path / "out")])
  seen = set()
  for _ in range(4):
    batch = next(batches)
    assert batch["valid"].all()
    labels, _ = make(online.frozen, batch)
    np.testing.assert_array_equal(batch["pseudo_labels"], labels)
    seen |= set(batch["id"].tolist())
  assert len(seen) == COUNT
  batches.close()


@pytest.mark.slow
def test_nothing_else_of_the_records_changes(folder, tmp_path, config):
  _add(folder, tmp_path / "out", config)
  before, after = (
    records.read_manifest(folder),
    records.read_manifest(str(tmp_path / "out")),
  )
  assert after.pseudo_labels and not before.pseudo_labels
  assert (after.total, after.split) == (before.total, before.split)
  assert after.info["kind"] == "noise" and after.info["pseudo_masks"]["k"] == 4
  pairs = zip(records.read(folder), records.read(after.folder), strict=True)
  for old, new in pairs:
    assert (old.key, old.image, old.captions) == (
      new.key,
      new.image,
      new.captions,
    )
    labels = np.asarray(Image.open(io.BytesIO(new.pseudo_labels)))
    assert labels.shape == (8, 8) and labels.max() < 4


@pytest.mark.slow
def test_a_killed_job_goes_on_without_gap_or_duplicate(
  folder, tmp_path, config, monkeypatch
):
  _add(folder, tmp_path / "whole", config)
  real, calls = region_views.pictures, []

  def dies(*arguments):
    calls.append(1)
    if len(calls) == 13:  # in the middle of the third shard
      raise KeyboardInterrupt
    return real(*arguments)

  monkeypatch.setattr(region_views, "pictures", dies)
  with pytest.raises(KeyboardInterrupt):
    _add(folder, tmp_path / "out", config, batch_size=2)
  with pytest.raises(InputError, match="interrupted"):
    records.read_manifest(str(tmp_path / "out"))
  monkeypatch.setattr(region_views, "pictures", real)
  report = _add(folder, tmp_path / "out", config)
  assert (report.kept, report.written, report.records) == (2, 4, COUNT - 10)
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")
  # Once more: there is nothing left to do.
  assert _add(folder, tmp_path / "out", config).written == 0


@pytest.mark.slow
def test_processes_share_the_shards(folder, tmp_path, config):
  _add(folder, tmp_path / "whole", config)
  share = {"process_count": 2}
  first = _add(folder, tmp_path / "out", config, process_index=0, **share)
  assert (first.written, first.missing) == (3, 3)
  assert "3 shards are left to other processes" in str(first)
  second = _add(folder, tmp_path / "out", config, process_index=1, **share)
  assert (second.written, second.missing) == (3, 0)
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_settings_that_changed_are_not_mixed(folder, tmp_path, config):
  share = {"process_count": 2, "process_index": 0}
  _add(folder, tmp_path / "out", config, **share)
  config.pseudo_masks.k = 3
  report = _add(folder, tmp_path / "out", config)
  assert report.written == 6  # the three of k = 4 as well
  config.pseudo_masks.k = 4
  with pytest.raises(InputError, match="other settings; delete it"):
    _add(folder, tmp_path / "out", config)
  config.pseudo_masks.mode = "cached"
  with pytest.raises(InputError, match="3 pseudo-masks.*k=4"):
    pipeline.train_batches(config, folders=[str(tmp_path / "out")])


@pytest.mark.slow
def test_a_shard_that_was_cut_or_replaced_is_written_again(
  folder, tmp_path, config, monkeypatch
):
  share = {"process_count": 2, "process_index": 0}
  _add(folder, tmp_path / "out", config, **share)
  (shard, *_) = sorted((tmp_path / "out").glob("*.tfrecord"))
  shard.write_bytes(shard.read_bytes()[:100])
  # Replaced by other settings, and killed before that is noted.
  config.pseudo_masks.k = 3

  def dies(self, *arguments):
    real(self, *arguments)
    raise KeyboardInterrupt

  real = records.ShardWriter.finish
  with monkeypatch.context() as patched:
    patched.setattr(records.ShardWriter, "finish", dies)
    with pytest.raises(KeyboardInterrupt):
      _add(folder, tmp_path / "out", config, process_count=2, process_index=0)
  config.pseudo_masks.k = 4
  report = _add(folder, tmp_path / "out", config)
  assert (report.kept, report.written) == (2, 4)
  _add(folder, tmp_path / "whole", config)
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


@pytest.mark.slow
def test_a_resumed_job_in_halves_keeps_its_batch(
  folder, weights, tmp_path, config
):
  config.pseudo_masks.generator = "dino"
  config.pseudo_masks.weights = weights
  config.dtype = "bfloat16"  # rounds as the batch has it
  share = {"process_count": 2, "process_index": 0}
  _add(folder, tmp_path / "out", config, batch_size=2, **share)
  assert _add(folder, tmp_path / "out", config, batch_size=4).kept == 0


@pytest.mark.slow
def test_masks_made_otherwise_are_told(folder, tmp_path, config, caplog):
  _add(folder, tmp_path / "out", config)
  config.pseudo_masks.mode = "cached"
  with caplog.at_level("WARNING"):
    pipeline.train_batches(config, folders=[str(tmp_path / "out")]).close()
    assert "made with" not in caplog.text
    config.seed = 7
    config.pseudo_masks.init = "farthest"
    pipeline.train_batches(config, folders=[str(tmp_path / "out")]).close()
  assert "made with pseudo_masks.init='kmeans++', not 'farthest'" in caplog.text
  assert "seed=0, not 7" in caplog.text


def test_a_full_disk_is_told(folder, tmp_path, config, monkeypatch):
  def full(self, record):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left")

  tf = import_tensorflow()
  monkeypatch.setattr(records.ShardWriter, "write", full)
  with pytest.raises(InputError, match="No space left.*start again"):
    _add(folder, tmp_path / "out", config)


@pytest.mark.slow
def test_a_later_folder_has_later_ids(folder, tmp_path, config):
  _add(folder, tmp_path / "a", config)
  _add(folder, tmp_path / "b", config, first_id=COUNT)
  a, b = (list(records.read(str(tmp_path / name))) for name in "ab")
  assert any(
    x.pseudo_labels != y.pseudo_labels for x, y in zip(a, b, strict=True)
  )


def test_an_unreadable_picture_gets_an_empty_map(tmp_path, config):
  folder = _write(tmp_path / "in", broken=(3,))
  report = _add(folder, tmp_path / "out", config)
  assert (report.unreadable, report.examples) == (1, ("3",))
  assert "1 pictures unreadable (3)" in str(report)
  found = list(records.read(str(tmp_path / "out")))
  assert len(found) == COUNT and found[3].pseudo_labels is not None


def test_a_damaged_shard_is_named(tmp_path, config):
  folder = _write(tmp_path / "in")
  shard = tmp_path / "in" / "train-00001-of-00006.tfrecord"
  data = bytearray(shard.read_bytes())
  data[40] ^= 1
  shard.write_bytes(bytes(data))
  with pytest.raises(InputError, match="train-00001-of-00006.*damaged"):
    _add(folder, tmp_path / "out", config)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"image_size": 30}, "image_size=30 is not a multiple of 4"),
    ({"process_index": 2, "process_count": 2}, "process_index=2"),
  ],
)
def test_what_cannot_work(folder, tmp_path, config, fields, message):
  with pytest.raises(InputError, match=message):
    _add(folder, tmp_path / "out", config, **fields)
  (tmp_path / "link").symlink_to(folder)
  for same in (
    folder,
    tmp_path / "link",
    f"{folder}/../{folder.split('/')[-1]}",
  ):
    with pytest.raises(InputError, match="is the source"):
      _add(folder, same, config)


def test_cached_training_loads_no_network(config):
  config.pseudo_masks.update(
    generator="dino", weights="nowhere.npz", mode="cached"
  )
  made = generator.for_training(config)
  assert (made.k, made.stride, made.frozen) == (4, 4, {})
  with pytest.raises(ValueError, match="read from the records"):
    made.generate({}, jnp.zeros(1), jnp.zeros(1))
  config.pseudo_masks.mode = "offline"
  with pytest.raises(InputError, match="mode='offline'.*online, cached"):
    generator.for_training(config)


@pytest.mark.slow
def test_the_command(folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  path = tmp_path / "config.py"
  path.write_text(
    "from sseg_jax import default_config\n"
    "def get_config():\n"
    "  c = default_config.get_config()\n"
    "  c.image_size = 32\n"
    "  return c\n"
  )
  arguments = [
    "--add_pseudo_masks",
    f"--records={folder}",
    "--out=~/out",
    "--config=~/config.py",
    "--set=pseudo_masks.k=5",
  ]
  assert prepare.main(arguments) == 0
  assert "the data set is complete" in capsys.readouterr().out
  manifest = records.read_manifest(str(tmp_path / "out"))
  assert manifest.info["pseudo_masks"]["k"] == 5
  assert prepare.main([*arguments, "--set=pseudo_masks.knots=5"]) == 2
  assert "pseudo_masks.knots=5: there is no such field" in (
    capsys.readouterr().err
  )
  wrong = ["--set=pseudo_masks.iterations=0", "--set=pseudo_masks.init=none"]
  assert prepare.main([*arguments, *wrong]) == 2
  error = capsys.readouterr().err
  assert "pseudo_masks.iterations=0: must be at least 1" in error
  assert "pseudo_masks.init='none': must be one of" in error


def test_a_second_job_on_the_same_shards_is_refused(folder, tmp_path, config):
  out = tmp_path / "out"
  with lease.Lease(out, "lease-1.json"):
    with pytest.raises(Unavailable, match="in use by another run"):
      _add(folder, out, config, process_count=2, process_index=1)
    _add(folder, out, config, process_count=2, process_index=0)
