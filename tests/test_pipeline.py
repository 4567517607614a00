"""Tests of the batches: their order, their randomness and their failures."""

import io
import itertools
import os
import pathlib
import shutil

import numpy as np
import pytest
from absl import logging as absl_logging
from PIL import Image

from sseg_jax.data import examples, order, pipeline, records, shards
from sseg_jax.default_config import get_config
from sseg_jax.errors import InputError
from sseg_jax.tokenizer import Tokenizer

COUNT = 26


def _picture(i, size=(20, 24)):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (*size, 3), np.uint8)


def _record(i, **fields):
  return records.Record(
    key=b"%d" % i,
    image=records.encode_png(_picture(i)),
    captions=(b"a picture %d" % i, b"number %d" % i),
    **fields,
  )


def _write(folder, items, shard_size=5):
  with records.RecordWriter(str(folder), shard_size=shard_size) as writer:
    for item in items:
      writer.write(item)
  return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return _write(
    tmp_path_factory.mktemp("records"), [_record(i) for i in range(COUNT)]
  )


def _config(**data):
  config = get_config()
  config.batch_size = 8
  config.image_size = 16
  config.text.context_length = 12
  config.data.lanes = 4
  config.data.shuffle_window = 3
  config.data.threads = 2
  config.data.update(data)
  return config


def _take(config, folder, count, **kwargs):
  batches = pipeline.train_batches(config, folders=[folder], **kwargs)
  return [next(batches) for _ in range(count)]


def _assert_same(one, two):
  assert one.keys() == two.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_batch_contract(folder):
  (batch,) = _take(_config(), folder, 1)
  found = {k: (v.dtype.name, v.shape) for k, v in batch.items()}
  assert found == {
    "id": ("uint32", (8,)),
    "valid": ("bool", (8,)),
    "image": ("uint8", (8, 16, 16, 3)),
    "text": ("int32", (8, 12)),
  }
  assert batch["valid"].all()


def test_text_is_one_of_the_captions(folder):
  tokenizer = Tokenizer(12)
  choices = set()
  for batch in _take(_config(), folder, 4):
    for i, text in zip(batch["id"], batch["text"], strict=True):
      rows = tokenizer([f"a picture {i}", f"number {i}"])
      (match,) = np.nonzero((rows == text).all(1))[0]
      choices.add(int(match))
  assert choices == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 5, 9])
def test_resume_gives_the_same_bits(folder, start):
  whole = _take(_config(), folder, 11)
  resumed = _take(_config(), folder, 11 - start, start_step=start)
  for one, two in zip(whole[start:], resumed, strict=True):
    _assert_same(one, two)


@pytest.mark.slow
def test_process_count_does_not_change_the_global_batch(folder):
  whole = _take(_config(), folder, 5)
  parts = [
    _take(_config(), folder, 5, process_index=p, process_count=2)
    for p in range(2)
  ]
  for step, batch in enumerate(whole):
    joined = {
      name: np.concatenate([part[step][name] for part in parts])
      for name in batch
    }
    _assert_same(batch, joined)


@pytest.mark.slow
def test_batches_put_pictures_that_learn_masks_where_the_step_takes_them(
  folder,
):
  """Over two epochs each record is once at an even place of a batch."""
  config = _config()
  config.loss.mask_every = 2
  # 26 records in 4 lanes of 6 or 7: after 6 steps all lanes of 6 are through.
  taken = _take(config, folder, 7)
  learnt = [int(i) for batch in taken for i in batch["id"][::2]]
  assert len(set(learnt)) >= 24
  assert (
    _take(_config(), folder, 7)[0]["id"].tolist() != taken[0]["id"].tolist()
  )


def test_threads_do_not_change_the_bits(folder):
  for one, two in zip(
    _take(_config(threads=1), folder, 3),
    _take(_config(threads=8), folder, 3),
    strict=True,
  ):
    _assert_same(one, two)


@pytest.mark.slow
def test_seed_and_epoch_change_the_pictures(folder):
  config = _config()
  one = _take(config, folder, 1)[0]
  config.seed = 1
  two = _take(config, folder, 1)[0]
  assert (one["id"] != two["id"]).any()
  pictures = {}
  config.seed = 0
  for batch in _take(config, folder, 10):
    for i, image in zip(batch["id"], batch["image"], strict=True):
      pictures.setdefault(int(i), set()).add(image.tobytes())
  # Some three epochs: a picture is cut anew each time it comes back.
  assert set(pictures) == set(range(COUNT))
  assert sum(len(seen) > 1 for seen in pictures.values()) > 20


@pytest.mark.parametrize(
  ("total", "lanes", "window"),
  [(26, 4, 3), (64, 8, 100), (9, 8, 1), (53, 1, 7)],
)
def test_each_record_is_seen_once_a_lane_epoch(total, lanes, window):
  lane_order = order.LaneOrder(
    total, lanes=lanes, batch_size=lanes * 2, window=window, seed=3
  )
  drawn = {}
  for step in range(2 * total):  # more than two epochs of each lane
    index, epoch = lane_order.batch(step, 0, lanes)
    lane = np.repeat(np.arange(lanes), 2)
    for key in zip(lane, epoch, index, strict=True):
      drawn.setdefault(key[:2], []).append(key[2])
  whole = {}
  for (lane, epoch), seen in drawn.items():
    assert len(set(seen)) == len(seen)
    if (lane, epoch + 1) in drawn:
      whole.setdefault(epoch, []).extend(seen)
  assert sorted(whole[0]) == list(range(total))
  assert sorted(whole[1]) == list(range(total))
  if total / lanes > 5:
    assert whole[0] != whole[1]


def test_reads_stay_within_one_window_at_a_time():
  lane_order = order.LaneOrder(100, lanes=1, batch_size=1, window=10, seed=0)
  drawn = [int(lane_order.batch(step, 0, 1)[0][0]) for step in range(100)]
  windows = [index // 10 for index in drawn]
  assert all(len(set(windows[i : i + 10])) == 1 for i in range(0, 100, 10))
  assert windows != sorted(windows)
  assert drawn[:10] != sorted(drawn[:10])


@pytest.mark.parametrize(
  ("total", "lanes", "rows", "every", "hosts"),
  [
    (64, 8, 8, 8, 1),  # every lane gives one record, as the quickstart's
    (61, 8, 8, 4, 2),
    (50, 4, 16, 8, 1),  # half a group of 8 a lane
    (53, 1, 6, 3, 1),
    (47, 2, 12, 4, 1),  # one and a half groups of 4 a lane
    (90, 8, 24, 6, 4),
    (7, 4, 4, 2, 2),  # lanes of one and two records
  ],
)
def test_every_record_learns_masks_in_turn(total, lanes, rows, every, hosts):
  """Those that learn are at every n-th place, each record once a cycle."""
  lane_order = order.LaneOrder(
    total, lanes=lanes, batch_size=rows, window=9, seed=5, mask_every=every
  )
  bounds = np.array([lane * total // lanes for lane in range(lanes + 1)])
  seen, learnt = {}, {}
  for step in range(3 * every * total * lanes // (rows * lanes) + 2 * total):
    index, epoch = lane_order.batch(step, 0, lanes)
    per_host = lanes // hosts
    parts = [
      lane_order.batch(step, host * per_host, (host + 1) * per_host)
      for host in range(hosts)
    ]
    for whole, joined in zip(
      (index, epoch), zip(*parts, strict=True), strict=True
    ):
      np.testing.assert_array_equal(whole, np.concatenate(joined))
    lane = np.searchsorted(bounds, index, "right") - 1
    for i, e in zip(index, epoch, strict=True):
      seen.setdefault(int(e), []).append(int(i))
    learner = slice(None, None, every)
    for w, i, e in zip(
      lane[learner], index[learner], epoch[learner], strict=True
    ):
      learnt.setdefault((int(w), int(e) // every), []).append(int(i))
  assert sorted(seen[0]) == sorted(seen[1]) == list(range(total))
  for lane in range(lanes):
    records_of_lane = list(range(bounds[lane], bounds[lane + 1]))
    assert sorted(learnt[lane, 0]) == records_of_lane
    assert sorted(learnt[lane, 1]) == records_of_lane
    if len(records_of_lane) > 8:
      assert learnt[lane, 0] != learnt[lane, 1]


def test_mix_is_fixed():
  """A stored run must resume in the same order under any later version."""
  assert order.mix(0, 1, 2).tolist() == [6768782832058643234]
  values = order.mix(7, np.arange(4096), 1)
  assert len(set(values.tolist())) == 4096
  assert abs(np.mean((values >> np.uint64(63)).astype(float)) - 0.5) < 0.04


def test_the_order_is_fixed():
  """Three windows of at most five a lane, in a new order each epoch."""
  lanes = order.LaneOrder(23, lanes=2, batch_size=4, window=5, seed=7)
  drawn = np.array([lanes.batch(step, 0, 2)[0] for step in range(12)])
  first, second = drawn[:, :2].ravel(), drawn[:, 2:].ravel()
  assert first[:11].tolist() == [3, 1, 0, 2, 4, 7, 6, 5, 9, 10, 8]
  assert first[11:22].tolist() == [10, 9, 8, 6, 5, 4, 7, 1, 0, 2, 3]
  assert second[:12].tolist() == [
    13,
    11,
    12,
    14,
    18,
    16,
    17,
    15,
    22,
    19,
    21,
    20,
  ]
  assert second[12:].tolist() == [
    11,
    12,
    13,
    14,
    20,
    21,
    22,
    19,
    15,
    17,
    18,
    16,
  ]


def test_labels_and_cached_pseudo_masks_follow_the_picture(tmp_path):
  """Pictures whose red channel is their label map, at two sizes."""
  items = []
  for i in range(8):
    board = (np.indices((48, 48)) // 12).sum(0) % 2
    board[: i + 4] = 1
    image = np.repeat((board * 255).astype(np.uint8)[..., None], 3, -1)
    png = records.encode_png(board.astype(np.uint8))
    items.append(
      records.Record(b"%d" % i, records.encode_png(image), (b"x",), png, png)
    )
  folder = _write(tmp_path, items)
  config = _config()
  config.task = "supervised"
  config.image_size = 32
  config.pseudo_masks.mode = "cached"
  config.pseudo_masks.stride = 4
  for batch in _take(config, folder, 3):
    assert batch["labels"].shape == (8, 32, 32)
    assert batch["labels"].dtype == np.int32
    assert batch["pseudo_labels"].shape == (8, 8, 8)
    seen = batch["image"][..., 0] > 127
    assert np.mean(seen == batch["labels"]) > 0.95
    # The centres of 4x4 blocks lie between pixels: any of the four will do.
    near = [
      seen[:, y::4, x::4] == batch["pseudo_labels"]
      for y in (1, 2)
      for x in (1, 2)
    ]
    assert np.mean(np.any(near, axis=0)) > 0.97


@pytest.mark.slow
def test_photometric_alters_the_students_view_alone(folder):
  plain = _take(_config(), folder, 2)
  altered = _take(_config(photometric=1.0), folder, 2)
  for one, two in zip(plain, altered, strict=True):
    np.testing.assert_array_equal(one["image"], two["teacher_image"])
    assert (one["image"] != two["image"]).any()
    assert "teacher_image" not in one


def _with_bad_records(tmp_path):
  items = [_record(i) for i in range(COUNT)]
  items[3] = records.Record(b"3", b"rubbish", (b"a",))
  items[4] = records.Record(b"4", items[4].image[:-300], (b"a",))
  items[5] = records.Record(b"5", items[5].image, ())
  items[6] = records.Record(b"6", items[6].image, (b" ",))
  folder = _write(tmp_path / "bad", items)
  # And one record whose length is damaged on disk, and one whose caption is:
  # the record still parses.
  _flip(tmp_path / "bad" / "train-00002-of-00006.tfrecord", 0)
  shard = tmp_path / "bad" / "train-00003-of-00006.tfrecord"
  _flip(shard, shard.read_bytes().index(b"picture 15"))
  return folder, {3, 4, 5, 6, 10, 15}


def _flip(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)


def test_bad_records_keep_their_slot(tmp_path, folder, caplog):
  bad_folder, bad = _with_bad_records(tmp_path)
  absl_logging.get_absl_logger().propagate = True
  batches = pipeline.train_batches(_config(), folders=[bad_folder])
  good = pipeline.train_batches(_config(), folders=[folder])
  found, empty = set(), Tokenizer(12)([""])[0]
  for _ in range(4):
    one, two = next(batches), next(good)
    np.testing.assert_array_equal(one["id"], two["id"])
    for slot, i in enumerate(one["id"]):
      if one["valid"][slot]:
        np.testing.assert_array_equal(one["image"][slot], two["image"][slot])
      else:
        found.add(int(i))
        assert not one["image"][slot].any()
        np.testing.assert_array_equal(one["text"][slot], empty)
  assert found == bad
  assert batches.seen == 32
  assert batches.bad_records >= 5
  warnings = [r for r in caplog.records if "cannot be used" in r.message]
  assert len(warnings) == 1


def _read_all(folder):
  table = shards.RecordTable([str(folder)])
  found = []
  for i in range(len(table)):
    try:
      found.append(table[i].key)
    except ValueError:
      found.append(None)
  return found


def test_each_byte_of_a_shard_is_checked(tmp_path):
  items = [records.Record(b"%d" % i, b"png", (b"a",)) for i in range(3)]
  folder = pathlib.Path(_write(tmp_path / "small", items))
  (shard,) = folder.glob("*.tfrecord")
  ends = np.fromfile(shard.with_suffix(".index"), "<u8")[1:]
  whole = [b"0", b"1", b"2"]
  for place in range(int(ends[-1])):
    _flip(shard, place)
    bad = int(np.searchsorted(ends, place, side="right"))
    expected = [None if i == bad else key for i, key in enumerate(whole)]
    assert _read_all(folder) == expected, place
    _flip(shard, place)
  assert _read_all(folder) == whole


@pytest.mark.parametrize(
  "wrong",
  [
    lambda index: index[:-1],
    lambda index: np.r_[np.uint64(8), index[1:]],
    lambda index: index[::-1],
    lambda index: np.r_[index[:2], index[2] - np.uint64(17), index[3:]],
    lambda index: np.r_[index[:1], index[1:-1] + np.uint64(4), index[-1:]],
  ],
)
def test_an_index_that_does_not_fit_is_told_and_not_used(
  folder, tmp_path, wrong, caplog
):
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  path = copy / "train-00001-of-00006.index"
  wrong(np.fromfile(path, "<u8")).tofile(path)
  absl_logging.get_absl_logger().propagate = True
  assert _read_all(copy) == [b"%d" % i for i in range(COUNT)]
  told = [r.message for r in caplog.records if "does not fit" in r.message]
  assert len(told) == 1 and "train-00001-of-00006" in told[0]


def test_too_many_bad_records_stop_the_run(tmp_path, monkeypatch):
  bad_folder, _ = _with_bad_records(tmp_path)
  monkeypatch.setattr(pipeline, "_MIN_SEEN", 24)
  batches = pipeline.train_batches(_config(), folders=[bad_folder])
  with pytest.raises(InputError, match="max_bad_share=0.05"):
    for _ in range(5):
      next(batches)
  assert batches.seen == 24
  few = _take(_config(max_bad_share=0.5), bad_folder, 5)
  assert len(few) == 5


def test_vanished_shard_surfaces_as_input_error(tmp_path):
  folder = _write(tmp_path, [_record(i) for i in range(COUNT)])
  batches = pipeline.train_batches(_config(), folders=[folder])
  for path in tmp_path.glob("*.tfrecord"):
    path.unlink()
  with pytest.raises(InputError, match="cannot open"):
    for _ in range(50):
      next(batches)


def test_vanished_shard_surfaces_from_eval_pairs(tmp_path):
  # Many shards: batches are read ahead, and the last is not among those.
  folder = _write(tmp_path, [_record(i) for i in range(60)], shard_size=2)
  last = tmp_path / "train-00029-of-00030.tfrecord"
  pairs = pipeline.eval_pairs(
    folder, image_size=16, context_length=12, batch_size=2
  )
  last.rename(tmp_path / "moved")
  with pytest.raises(InputError, match="missing"):
    next(pairs)
  (tmp_path / "moved").rename(last)
  pairs = pipeline.eval_pairs(
    folder, image_size=16, context_length=12, batch_size=2
  )
  next(pairs)
  last.unlink()
  with pytest.raises(InputError, match="cannot open"):
    list(pairs)


@pytest.mark.parametrize(
  ("change", "kwargs", "message"),
  [
    ({"data.lanes": 3}, {}, "data.lanes=3: must divide batch_size"),
    ({"data.lanes": 0}, {}, "data.lanes=0: must divide batch_size"),
    ({}, {"process_count": 3}, "split over 3 processes"),
    ({"loss.mask_every": 8}, {"process_count": 2}, "mask_every=8 .*the 4 pic"),
    ({"batch_size": 32}, {}, "fewer than config.batch_size=32"),
    ({"pseudo_masks.mode": "cached"}, {}, "pseudo_masks.mode"),
    ({"task": "supervised"}, {}, "label maps"),
    ({"data.shuffle_window": 0}, {}, "shuffle_window"),
  ],
)
def test_settings_that_do_not_fit(folder, change, kwargs, message):
  config = _config()
  config.update_from_flattened_dict(change)
  with pytest.raises(InputError, match=message):
    pipeline.train_batches(config, folders=[folder], **kwargs)


def test_no_folders_and_empty_folder(tmp_path):
  with pytest.raises(InputError, match="config.data.train is empty"):
    pipeline.train_batches(_config())
  folder = _write(tmp_path, [])
  with pytest.raises(InputError, match="0 records"):
    pipeline.train_batches(_config(), folders=[folder])


def test_folders_from_the_config_are_joined(folder, tmp_path):
  other = _write(tmp_path, [_record(i) for i in range(10)])
  batches = pipeline.train_batches(_config(train=f"{folder}, {other}"))
  assert batches.num_records == COUNT + 10
  ids = {int(i) for _ in range(6) for i in next(batches)["id"]}
  assert ids == set(range(COUNT + 10))


def test_eval_pairs_come_in_order_and_are_padded(tmp_path):
  items = [_record(i) for i in range(7)]
  items[2] = records.Record(b"2", b"rubbish", (b"a",))
  folder = _write(tmp_path, items)
  batches = list(
    pipeline.eval_pairs(
      folder, image_size=20, context_length=12, limit=6, batch_size=4
    )
  )
  valid = np.concatenate([batch["valid"] for batch in batches])
  assert valid.tolist() == [True, True, False, True, True, True, False, False]
  image = np.concatenate([batch["image"] for batch in batches])
  assert image.shape == (8, 20, 20, 3)
  # The short side fits: the central square, untouched.
  np.testing.assert_array_equal(image[4], _picture(4)[:, 2:22])
  text = np.concatenate([batch["text"] for batch in batches])
  np.testing.assert_array_equal(text[5], Tokenizer(12)(["a picture 5"]))
  assert [batch["id"].tolist() for batch in batches] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
  ]


def test_eval_pairs_with_several_captions(tmp_path):
  items = [
    records.Record(b"0", _record(0).image, (b"one", b"two", b"three", b"four")),
    records.Record(b"1", _record(1).image, (b"five", b"six")),
  ]
  folder = _write(tmp_path, items)
  (batch,) = pipeline.eval_pairs(
    folder, image_size=20, context_length=12, captions=3, batch_size=4
  )
  assert batch["text"].shape == (4, 3, 12)
  tokens = Tokenizer(12)
  np.testing.assert_array_equal(
    batch["text"][:2].reshape(6, 12),
    tokens(["one", "two", "three", "five", "six", "five"]),
  )
  assert batch["valid"].tolist() == [True, True, False, False]
  with pytest.raises(InputError, match="retrieval_captions=0"):
    next(
      pipeline.eval_pairs(folder, image_size=20, context_length=12, captions=0)
    )


@pytest.mark.skipif(
  not pathlib.Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc"
)
@pytest.mark.parametrize("taken", [1, None], ids=["one", "all"])
def test_eval_pairs_close_their_files(folder, taken):
  def opened():
    links = map(os.path.realpath, pathlib.Path("/proc/self/fd").iterdir())
    return [path for path in links if path.startswith(os.path.realpath(folder))]

  before = opened()  # by tests before this one
  pairs = pipeline.eval_pairs(
    folder, image_size=20, context_length=12, batch_size=4
  )
  next(pairs)
  assert len(opened()) > len(before)
  for _ in itertools.islice(pairs, taken):
    pass
  pairs.close()
  assert len(opened()) == len(before)


def test_close_ends_the_iteration(folder):
  batches = pipeline.train_batches(_config(), folders=[folder])
  next(batches)
  batches.close()
  batches.close()
  assert list(batches) == []


def test_jpegs_are_read(tmp_path):
  out = io.BytesIO()
  Image.new("RGB", (30, 20), (200, 40, 30)).save(out, "JPEG", quality=95)
  items = [records.Record(b"%d" % i, out.getvalue(), (b"a",)) for i in range(8)]
  (batch,) = _take(_config(), _write(tmp_path, items), 1)
  assert np.abs(batch["image"].astype(int) - (200, 40, 30)).max() < 8


def test_word_dropout_leaves_some_words_and_their_order():
  caption = " ".join(f"w{i}" for i in range(200))
  kept = examples.drop_words(caption, 0.25, 7).split()
  assert 0.65 < len(kept) / 200 < 0.85
  assert kept == sorted(kept, key=lambda w: int(w[1:]))
  assert examples.drop_words(caption, 0.25, 7).split() == kept
  assert examples.drop_words(caption, 0.25, 8).split() != kept
  assert examples.drop_words("one two", 1.0, 0) in ("one", "two")
