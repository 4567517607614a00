import errno
import os
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from sseg_jax import files
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import records
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.models import weights


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("~/runs/a", "/home/me/runs/a"),
    ("~", "/home/me"),
    ("", ""),
    ("runs/~a", "runs/~a"),
    ("a~", "a~"),
    ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
    ("gs://bucket/~/a", "gs://bucket/~/a"),
    (pathlib.Path("~/a"), "/home/me/a"),
  ],
)
def test_the_home_folder_is_put_in(given, expected, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert files.expand(given) == expected


def test_another_user_has_a_home_as_well():
  user = pathlib.Path("~root").expanduser()
  assert files.expand("~root/a") == os.path.join(user, "a")


def test_what_reads_a_path_puts_the_home_folder_in(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  with records.RecordWriter(str(tmp_path / "a"), num_shards=1) as writer:
    writer.write(records.Record(b"0", b"png", (b"cat",)))
  assert records.read_manifest("~/a").folder == str(tmp_path / "a")
  save_file({"x": np.ones(2, np.float32)}, tmp_path / "w.safetensors")
  path = weights.locate("~/w.safetensors", ())
  assert path == tmp_path / "w.safetensors"
  assert weights.read_arrays("~/w.safetensors").keys() == {"x"}
  with pytest.raises(InputError, match=f"{tmp_path}/run holds no checkpoint"):
    checkpoint.load("~/run")


def test_what_may_pass_is_no_fault_of_the_input(tmp_path):
  full = OSError(errno.ENOSPC, "No space left on device")
  error = files.unwritable("workdir", tmp_path / "a", full)
  assert isinstance(error, Unavailable) and "make room" in str(error)
  denied = OSError(errno.EACCES, "Permission denied")
  error = files.unwritable("out", tmp_path / "a", denied)
  assert isinstance(error, InputError)
  assert str(error).startswith(
    f"out={tmp_path}/a cannot be written (Permission"
  )


def test_a_folder_for_results_is_made_or_told(tmp_path):
  folder = tmp_path / "a" / "b"
  files.make_folder("out", folder)
  files.make_folder("out", folder)  # it may exist
  assert folder.is_dir()
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="out=.*file is a file; give a folder"):
    files.make_folder("out", tmp_path / "file" / "b")
  with pytest.raises(InputError, match="is no folder's name"):
    files.make_folder("out", pathlib.Path("a\0b"))
