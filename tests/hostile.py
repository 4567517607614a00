"""Guards for tests that hand broken or harmful files to the package.

`handed` runs one call under the rules of all of them; `Sandbox` watches the
files around it. `TALLY` counts what became of the inputs.
"""

import collections
import contextlib
import copy
import hashlib
import io
import json
import os
import pathlib
import pickle
import signal
import stat
import time
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from sseg_jax.errors import InputError

LONGEST = 5000  # letters of a message
# (kind of input, "result" or "refused") -> number of inputs.
TALLY: collections.Counter = collections.Counter()


class TooSlow(BaseException):
  """Is no Exception, so that no handler of the package takes it."""


@contextlib.contextmanager
def bounded(seconds):
  """Raises TooSlow inside the block after so many seconds."""

  def ring(*_):
    raise TooSlow(f"not done after {seconds} s")

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def handed(kind, call, seconds=30):
  """Returns what a call gives; None if it raises an InputError of one line.

  Every other exception passes, and so fails the test.
  """
  with bounded(seconds):
    try:
      result = call()
    except InputError as error:
      check_line(str(error))
      TALLY[kind, "refused"] += 1
      return None
  TALLY[kind, "result"] += 1
  return result


def check_line(text):
  assert len(text.splitlines()) == 1, text
  assert len(text) < LONGEST, text[:200]
  text.encode(errors="backslashreplace")


def check_command(kind, code, error):
  """Checks exit code and standard error of a command, and counts it."""
  lines = error.splitlines()
  assert "Traceback" not in error, error
  if code == 0:
    TALLY[kind, "result"] += 1
    assert not [line for line in lines if "error:" in line], error
  else:
    assert code in (1, 2), (code, error)
    assert [x for x in lines if "error: " in x], error
    assert all(len(line) < LONGEST for line in lines), error[:500]
    TALLY[kind, "refused"] += 1


class _Harm:
  """Writes a file when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return (open, (str(self.marker), "w"))


class Sandbox:
  """A folder in which only `out` may change, and no code of a file may run."""

  def __init__(self, root: pathlib.Path):
    self.root, self.out = root, root / "out"
    self._marker = root / "code_was_run"
    self.elsewhere = root / "elsewhere"  # what links may point to
    self.elsewhere.write_bytes(b"not to be changed\n")
    self.harm = {
      "pickle": pickle.dumps(_Harm(self._marker)),
      "python": f"open({str(self._marker)!r}, 'w')\n".encode(),
    }

  def plant(self, folder):
    """Puts files that would leave a mark if they were run or unpickled."""
    for name in ("run.py", "__init__.py", "conftest.py", "setup.py"):
      (folder / name).write_bytes(self.harm["python"])
    for name in (
      *("params.pkl", "checkpoint", "pytorch_model.bin", "weights.pth"),
      *("model.msgpack", "weights.npy"),
    ):
      (folder / name).write_bytes(self.harm["pickle"])
    with (folder / "weights.npz").open("wb") as file:
      np.savez(file, a=np.array([_Harm(self._marker)], object))

  @contextlib.contextmanager
  def watched(self):
    """Fails if anything beside `out` differs after the block."""
    before = self._listing()
    yield
    assert not self._marker.exists(), "code of a file was run"
    after = self._listing()
    changed = {
      name
      for name in before.keys() | after.keys()
      if before.get(name) != after.get(name)
    }
    assert not changed, f"written outside of out: {sorted(changed)[:5]}"

  def _listing(self):
    found = {}
    for folder, folders, files in os.walk(self.root):
      if folder == str(self.root) and "out" in folders:
        folders.remove("out")
      for name in (*folders, *files):
        path = os.path.join(folder, name)
        status = os.lstat(path)
        content = status.st_size, status.st_mtime_ns
        if stat.S_ISREG(status.st_mode) and status.st_size < 2**20:
          data = pathlib.Path(path).read_bytes()
          content = hashlib.sha1(data).hexdigest()
        elif stat.S_ISDIR(status.st_mode):
          content = None
        found[path] = status.st_mode, content
    return found


def report():
  """Prints the counts by kind, with `SSEG_FUZZ`, and begins anew."""
  if "SSEG_FUZZ" not in os.environ:
    return
  kinds = sorted({kind for kind, _ in TALLY})
  for kind in kinds:
    result, refused = TALLY[kind, "result"], TALLY[kind, "refused"]
    print(f"{kind}: {result + refused} inputs, {refused} refused")
  print(f"all: {sum(TALLY.values())} inputs, {time.process_time():.0f} s")
  TALLY.clear()


def check_result(found, shape=None, words=None):
  h, w = found.labels.shape
  assert shape is None or (h, w) == shape
  assert found.image.shape == (h, w, 3) and found.image.dtype == np.uint8
  assert 0 <= found.labels.min() <= found.labels.max() < len(found.names)
  assert np.isfinite(found.scores).all()
  assert found.threshold is None or np.isfinite(found.threshold)
  assert sum(found.areas.values()) == pytest.approx(1)
  assert words is None or found.words == words


def often(good, other):
  """Draws the good value in half of the cases, so that more is reached."""
  return st.booleans().flatmap(lambda is_good: good if is_good else other)


# Values that no field expects.
junk = st.one_of(
  st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 32, 64, 0.5, 2**31, 2**63, 10**30, -0.0]
    + [1e300, float("nan"), float("inf"), "", "x", "1", "none", "nan", "\x00"]
    + ["../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x", "\ud800"]
    + ["weights.pth", "n" * 4000, [], {}, [[]], [None], [1, 2], {"a": 1}]
    + [[1e9] * 3, [10**6] * 4, {"default": "x"}, {"default": [1]}]
  ),
  st.integers(-40, 70),
  st.floats(),
  st.text(max_size=5),
)


def places(value, at=()):
  """Where values stand in nested lists and objects."""
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, inner in items:
    yield (*at, key)
    if isinstance(inner, dict | list):
      yield from places(inner, (*at, key))


def changed(draw, data):
  """Replaces or removes some values; returns it as JSON, maybe damaged."""
  data, where = copy.deepcopy(data), list(places(data))
  for _ in range(draw(st.integers(1, 3))):
    *path, last = draw(st.sampled_from(where))
    node = data
    try:
      for key in path:
        node = node[key]
      if draw(st.integers(0, 5)) == 0:
        del node[last]
      else:
        node[last] = draw(junk)
    except (TypeError, KeyError, IndexError):
      pass  # an earlier change took the place away
  text = json.dumps(data)
  return damaged(draw, text.encode())


def damaged(draw, data):
  kind = draw(st.sampled_from(["no"] * 8 + ["cut", "flip", "deep", "other"]))
  if kind == "cut":
    return data[: draw(st.integers(0, len(data)))]
  if kind == "flip":
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
  if kind == "deep":
    return b'{"config": ' + b'{"a":' * draw(st.sampled_from([200, 900, 10**5]))
  if kind == "other":
    return draw(st.sampled_from([b"", b"[]", b"3", b"null", b"\xff\xfe{}"]))
  return data


SIZES = [(1, 1), (5, 7), (32, 32), (33, 90), (3, 200), (200, 1)]
MODES = "1 L P RGB RGBA LA PA CMYK YCbCr LAB HSV I F I;16 La RGBa RGBX".split()
_FORMATS = (
  "PNG JPEG WEBP GIF TIFF BMP PPM TGA JPEG2000 ICO QOI SGI PCX DDS IM"
  " ICNS AVIF BLP DIB MPO XBM MSP SPIDER"
).split()


@st.composite
def encoded(draw):
  """Bytes of a picture in any format, then damaged or not."""
  size = draw(st.sampled_from(SIZES))
  mode = draw(st.sampled_from(["RGB", "L", "1", "P", "RGBA", "I;16", "F"]))
  picture, file = Image.new("RGB", size, "red").convert(mode), io.BytesIO()
  name = draw(st.sampled_from(_FORMATS))
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # formats that Pillow will drop
      picture.save(file, name)
  except (OSError, ValueError, KeyError, TypeError):
    picture.convert("RGB").save(file, "PNG")
  data = bytearray(file.getvalue())
  for _ in range(draw(st.integers(0, 4))):
    at = draw(st.integers(0, min(len(data), 400) - 1))
    value = draw(
      st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    )
    data[at : at + draw(st.integers(1, 4))] = bytes([value]) * 4
  if draw(st.integers(0, 4)) == 0:
    data = data[: draw(st.integers(0, len(data)))]
  return bytes(data)


letters = st.text(st.characters(exclude_categories=()), max_size=12)
word = st.one_of(
  st.sampled_from(
    ["cat", "CAT", "sky", "background", " ", "", "a,b", "{}", "a{}b", "#x"]
    + [
      "🐈‍⬛",
      "קָט, שמים",
      "\u202ecat\u202c",
      "\u200d",
      "e\u0301",
      "é",
      "ß",
      "SS",
    ]
    + ["a\0b", "a\nb", "\x1b[31m", "\ud83d", "&#0;", "&amp;amp;", "&nbsp;"]
    + ["<end_of_text>", "<start_of_text> x", "x" * 10_000, "ﷺ" * 40]
    + ["word " * 3000, "\ufeff", "\uffff", "\U0010ffff", "İ", "i̇"]
  ),
  letters,
)
