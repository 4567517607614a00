"""Stored networks that were damaged or made by somebody else.

`SSEG_FUZZ=1000 pytest -s tests/test_stored_fuzz.py` tries some 2,000; see
`test_inference_fuzz.py`.
"""

import copy
import gc
import json
import os
import shutil
import struct

import fuzz
import hostile
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import sseg_jax
from sseg_jax.checkpoints import exported, integrity
from sseg_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("unchecked_types", "tally")


# -------------------------------------------------------------------- exports


def load_and_segment(kind, sandbox, folder, seconds=60):
  """Loads a model; if that works, it must segment a picture."""
  with sandbox.watched():
    model = hostile.handed(kind, lambda: sseg_jax.load(folder), seconds)
    if model is not None:
      image = np.full((32, 40, 3), 90, np.uint8)
      found = hostile.handed(
        f"{kind}, segment", lambda: model.segment(image, "a, b"), seconds
      )
      if found is not None:
        hostile.check_result(found, (32, 40), ("a", "b"))


def planted(stored_network, sandbox):
  """Returns a copy of the export with what must not be run beside it."""
  folder = sandbox.root / "export"
  folder.mkdir(exist_ok=True)
  if not (folder / "run.py").exists():
    shutil.copytree(stored_network / "export", folder, dirs_exist_ok=True)
    sandbox.plant(folder)
  return folder


@pytest.mark.slow
@fuzz.some(40, 0.6)
@given(data=st.data())
def test_configs_of_exports(stored_network, sandbox, data):
  folder = planted(stored_network, sandbox)
  fields = json.loads((stored_network / "export" / "config.json").read_text())
  content = hostile.changed(data.draw, fields)
  (folder / "config.json").write_bytes(content)
  load_and_segment("configs of exports", sandbox, folder)


@st.composite
def headers(draw, header):
  """A safetensors header with some wrong entries, and its length."""
  header = copy.deepcopy(header)
  names = [name for name in header if name != "__metadata__"]
  for _ in range(draw(st.integers(1, 3))):
    name = draw(st.sampled_from(names))
    entry = header.get(name)
    action = draw(st.integers(0, 7))
    if not isinstance(entry, dict):  # an action before has replaced it
      continue
    if action == 0:
      del header[name]
    elif action == 1:
      entry["dtype"] = draw(
        st.sampled_from(
          "F64 F16 BF16 I32 U32 BOOL F8_E4M3 C64 I64 X F4".split()
        )
      )
    elif action == 2:
      entry["shape"] = draw(
        st.sampled_from(
          [[2**62, 2**62], [0, 2**63], [0, 2**70], [2**40], [-1], [1] * 70]
          + [[], [0], [1.5], ["a"], None]
        )
      )
    elif action == 3:
      entry["data_offsets"] = draw(
        st.sampled_from([[0, 4], [4, 0], [0, 2**63], [-4, 0], [0], [0, 2**70]])
      )
    elif action == 4:
      other = draw(
        st.sampled_from(
          ["params", "params/", "/", "params/0", "params/²", "params/9" * 3000]
          + ["params" + "/a" * 50_000, "params/" + "9" * 5000, "model_state"]
          + [
            "../x",
            "params/a\nb",
            "params/\ud800",
            "other/x",
            "params/../../x",
          ]
        )
      )
      header[other] = header.pop(name)
    elif action == 5:
      header["params/more/" + draw(st.text(max_size=3))] = {
        "dtype": "F32",
        "shape": draw(st.sampled_from([[0], [0, 5]])),
        "data_offsets": entry.get("data_offsets", [0, 0])[:1] * 2,
      }
    elif action == 6:
      header["__metadata__"] = draw(hostile.junk)
    else:
      header[name] = draw(hostile.junk)
  text = json.dumps(header).encode()
  length = draw(
    st.sampled_from([len(text)] * 8 + [0, 7, len(text) + 9, 2**40, 2**64 - 1])
  )
  return struct.pack("<Q", length) + text


@pytest.mark.slow
@fuzz.some(60, 1)
@given(data=st.data())
def test_weights_of_exports(stored_network, sandbox, data):
  folder = planted(stored_network, sandbox)
  whole = (stored_network / "export" / "weights.safetensors").read_bytes()
  end = 8 + struct.unpack("<Q", whole[:8])[0]
  kind = data.draw(st.sampled_from(["header"] * 5 + ["bytes", "values", "cut"]))
  if kind == "header":
    found = data.draw(headers(json.loads(whole[8:end]))) + whole[end:]
  elif kind == "bytes":
    at = data.draw(st.integers(0, end - 1))
    byte = bytes([data.draw(st.integers(0, 255))])
    found = whole[:at] + byte + whole[at + 1 :]
  elif kind == "values":  # NaN, or numbers too large to compute with
    at = end + 4 * data.draw(st.integers(0, (len(whole) - end) // 4 - 40))
    value = data.draw(st.sampled_from([np.nan, np.inf, 3e38]))
    found = whole[:at] + np.full(40, value, "<f4").tobytes() + whole[at + 160 :]
  else:
    found = whole[: data.draw(st.integers(0, len(whole)))]
  (folder / "weights.safetensors").write_bytes(found)
  load_and_segment("weights of exports", sandbox, folder)


# ---------------------------------------------------------------- checkpoints


def is_plain(path):
  return path.is_file() and not path.is_symlink()


def hurt(draw, sandbox, step):
  """Damages one thing in a checkpoint's folder.

  Nothing is written through a link or into a pipe that an earlier damage left.
  """
  paths = sorted(p for p in step.rglob("*") if is_plain(p))
  path = draw(st.sampled_from(paths))
  action = draw(
    st.sampled_from(
      ["remove", "cut", "byte", "pickle", "folder", "link", "loop", "fifo"]
      + ["empty", "json", "remove_folder", "zero", "json", "json"]
    )
  )
  if action == "remove":
    path.unlink()
  elif action == "remove_folder":
    shutil.rmtree(draw(st.sampled_from([step / "state", step / "metadata"])))
  elif action in ("cut", "byte"):
    content = path.read_bytes()
    at = draw(st.integers(0, max(0, len(content) - 1)))
    rest = b"" if action == "cut" else b"\x55" + content[at + 1 :]
    path.write_bytes(content[:at] + rest)
  elif action == "pickle":
    path.write_bytes(sandbox.harm["pickle"])
  elif action == "empty":
    path.write_bytes(b"")
  elif action == "loop":
    (path.parent / "loop").symlink_to(step)
    (path.parent / "loop2").symlink_to(path.parent)
  elif action == "json":
    names = ("manifest.json", "metadata/metadata", "thresholds.json")
    path = step / draw(st.sampled_from(names))
    if os.path.lexists(path) and not is_plain(path):
      return
    known = {"thresholds": {"default": 0.5}, "thresholds_of": {"classes": {}}}
    content = json.loads(path.read_text()) if path.exists() else known
    path.write_bytes(hostile.changed(draw, content))
  else:
    path.unlink()
    if action == "folder":
      path.mkdir()
    elif action == "fifo":
      os.mkfifo(path)
    else:
      path.symlink_to("/dev/zero" if action == "zero" else sandbox.elsewhere)


@pytest.fixture
def orbax_leftovers():
  """Ends the tasks that Orbax leaves behind where a file is damaged."""
  yield
  gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
@fuzz.some(25, 0.4)
@given(data=st.data())
def test_checkpoint_folders(stored_network, sandbox, data):
  run = sandbox.root / "run"
  shutil.rmtree(run, ignore_errors=True)
  shutil.copytree(stored_network / "run", run)
  step = run / "checkpoints" / "3"
  sandbox.plant(step / "state")
  sandbox.plant(run)
  for _ in range(data.draw(st.integers(1, 2))):
    if step.is_dir() and any(map(is_plain, step.rglob("*"))):
      try:
        hurt(data.draw, sandbox, step)
      except (OSError, ValueError):
        pass  # an earlier damage took the place away, or the JSON
  if data.draw(st.booleans()):  # as if it had been saved so
    try:
      (step / integrity.MANIFEST).unlink(missing_ok=True)
      integrity.write_manifest(step)
    except (OSError, ValueError):
      pass
  load_and_segment("checkpoint folders", sandbox, run)


# ---------------------------------------------- what the fuzz found, one by one


def _wide(name):
  return {name: np.zeros(0, np.float32)}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"thresholds": {"values": {"default": "x"}}}, "thresholds are damaged"),
    ({"thresholds": {"values": 5}}, "thresholds are damaged"),
    ({"thresholds": {"values": {}, "classes": {"a": []}}}, "are damaged"),
    ({"templates": ["{}"] * 2000}, "templates="),
    ({"templates": []}, "templates="),
    ({"text.layers": 10**8}, "text.layers=100000000 is not from 0"),
    ({"model.stem_depths": [10**8]}, "model.stem_depths"),
    ({"evaluate.image_size": 2**25}, "evaluate.image_size=33554432 is not"),
    ({"pseudo_masks.iterations": 2**30}, "pseudo_masks.iterations"),
    (_wide("params/²"), "must be missing"),
    (_wide("params/" + "9" * 200), "must be missing"),
    (_wide("params/7"), "another network"),  # beside names
    (_wide("params" + "/a" * 5000), "has 10006 letters"),
    ({"params/logit_scale": np.zeros((), np.int32)}, "holds int32"),
    ({"params/logit_scale": np.zeros((), np.complex64)}, "complex64"),
  ],
)
def test_exports_that_were_no_line(stored_network, tmp_path, change, message):
  export = stored_network / "export"
  fields = json.loads((export / "config.json").read_text())
  leaves = exported.read_weights(export)
  for name, value in change.items():
    if isinstance(value, np.ndarray):
      leaves[name] = value
    elif name in fields:
      fields[name] = value
    else:
      part, last = name.split(".")
      fields["config"][part][last] = value
  (tmp_path / "config.json").write_text(json.dumps(fields))
  safetensors.numpy.save_file(leaves, tmp_path / "weights.safetensors")
  with hostile.bounded(20), pytest.raises(InputError, match=message) as raised:
    sseg_jax.load(tmp_path)
  hostile.check_line(str(raised.value))


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_weights_that_are_no_numbers(stored_network, tmp_path, value):
  export = stored_network / "export"
  leaves = exported.read_weights(export)
  leaves = {k: np.full_like(v, value) for k, v in leaves.items()}
  shutil.copy(export / "config.json", tmp_path)
  safetensors.numpy.save_file(leaves, tmp_path / "weights.safetensors")
  model = sseg_jax.load(tmp_path)
  for use in (model.segment, model.scores):
    with pytest.raises(InputError, match="weights are damaged"):
      use(np.zeros((32, 40, 3), np.uint8), "a, b")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("manifest.json", '{"sha256": [1]}', "is whole"),
    ("manifest.json", '{"sha256": {}}', "is whole"),
    ("manifest.json", '{"sha256": ' + "[" * 10**5, "is whole"),
    ("manifest.json", None, "is whole"),
    ("metadata/metadata", "[]", "metadata cannot be read"),
    ("metadata/metadata", "{", "metadata cannot be read"),
    ("state/_METADATA", "{}", "is no checkpoint"),
    ("state/manifest.ocdbt", "", "is no checkpoint"),
  ],
)
def test_checkpoints_that_were_no_line(
  stored_network, tmp_path, name, content, message
):
  shutil.copytree(stored_network / "run", tmp_path / "run")
  step = tmp_path / "run" / "checkpoints" / "3"
  (step / name).unlink()
  if content is None:
    os.mkfifo(step / name)
  else:
    (step / name).write_text(content)
  (step / "state" / "loop").symlink_to(step)
  (step / "state" / "loop_2").symlink_to(step)
  with hostile.bounded(20):
    if name != "manifest.json":
      integrity.write_manifest(step)
    with pytest.raises(InputError, match=message) as raised:
      sseg_jax.load(tmp_path / "run")
  hostile.check_line(str(raised.value))


@pytest.mark.parametrize("path", ["n" * 5000, "s3://x/y", "x://y", "a\0b", ""])
def test_places_that_are_none(path, sandbox):
  with hostile.bounded(20), pytest.raises(InputError) as raised:
    sseg_jax.load(path)
  hostile.check_line(str(raised.value))
