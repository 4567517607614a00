import json
import sys

import numpy as np
import pytest

from sseg_jax import metrics


def _lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def _write(workdir, steps, **options):
  writer = metrics.MetricWriter(workdir, **options)
  for step in steps:
    writer.scalars(step, {"loss": np.float32(step / 2)})
  writer.close()


@pytest.fixture
def without_tensorflow(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)


def test_scalars_are_appended_as_json(tmp_path, without_tensorflow):
  _write(tmp_path, [1, 2])
  assert _lines(tmp_path) == [
    {"step": 1, "loss": 0.5},
    {"step": 2, "loss": 1.0},
  ]


def test_lines_beyond_the_resumed_step_are_removed(
  tmp_path, without_tensorflow
):
  _write(tmp_path, [1, 2, 3, 4])
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 5, "lo')  # the process was killed here
  _write(tmp_path, [3, 4], resume_step=2)
  assert [x["step"] for x in _lines(tmp_path)] == [1, 2, 3, 4]


def test_an_evaluation_of_the_resumed_step_is_known(
  tmp_path, without_tensorflow
):
  for evaluated in (False, True):
    writer = metrics.MetricWriter(tmp_path, resume_step=2)
    assert writer.evaluated == evaluated
    writer.scalars(2, {"mIoU/plain": 40.0})
    writer.scalars(3, {"loss": 1.0})
    writer.close()
  writer = metrics.MetricWriter(tmp_path, resume_step=3)
  assert not writer.evaluated
  writer.close()


def test_missing_tensorflow_is_said_once(tmp_path, caplog, without_tensorflow):
  writer = metrics.MetricWriter(tmp_path)
  writer.images(1, {"mask": np.zeros((4, 4, 3), np.uint8)})
  writer.scalars(1, {"loss": 1.0})
  writer.flush()
  writer.close()
  assert caplog.text.count("sseg_jax[train]") == 1
  assert not (tmp_path / "tensorboard").exists()


@pytest.mark.slow
def test_tensorboard_gets_scalars_and_images(tmp_path):
  pytest.importorskip("tensorflow")
  pytest.importorskip("clu")
  from tensorboard.backend.event_processing import event_accumulator

  writer = metrics.MetricWriter(tmp_path)
  writer.scalars(7, {"loss": 0.25})
  writer.images(7, {"mask": np.full((4, 6, 3), 200, np.uint8)})
  writer.flush()
  writer.close()
  events = event_accumulator.EventAccumulator(
    str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
  ).Reload()
  (loss,) = events.Tensors("loss")
  assert loss.step == 7
  assert np.frombuffer(loss.tensor_proto.tensor_content, np.float32) == 0.25
  (mask,) = events.Tensors("mask")
  assert mask.tensor_proto.string_val[:2] == [b"6", b"4"]


def test_throughput_over_a_window():
  now = [0.0]
  throughput = metrics.Throughput(8, 130, window=2, clock=lambda: now[0])
  assert throughput.scalars() == {} and throughput.time_left() == "?"
  # The first step compiles for 100 seconds and leaves the window.
  for step, seconds in ((0, 0), (10, 100), (20, 120), (30, 140)):
    now[0] = float(seconds)
    throughput.update(step)
  assert throughput.scalars() == {
    "ms_per_step": 2000.0,
    "images_per_second": 4.0,
  }
  assert throughput.time_left() == "3m20s"
  throughput.reset()
  assert throughput.scalars() == {}


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0s"),
    (45.4, "45s"),
    (59.6, "1m00s"),
    (200, "3m20s"),
    (3725, "1h02m"),
    (2 * 86400 + 3 * 3600, "2d03h"),
  ],
)
def test_format_duration(seconds, text):
  assert metrics.format_duration(seconds) == text


def test_profiler_traces_its_window(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr("jax.profiler.start_trace", calls.append)
  monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
  profiler = metrics.Profiler("logdir", first_step=2, steps=2)
  for step in range(6):
    calls.append(step)
    profiler.update(step)
  profiler.close()
  assert calls == [0, 1, 2, "logdir", 3, 4, "stop", 5]
