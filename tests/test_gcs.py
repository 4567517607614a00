"""Tars and records in a bucket, by TensorFlow's client and no network."""

import io
import json
import subprocess
import tarfile

import fake_gcs
import preloaded
import pytest
from PIL import Image

from sseg_jax import prepare


def _tar(first: int, count: int) -> bytes:
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w") as tar:
    for i in range(first, first + count):
      picture = io.BytesIO()
      Image.new("RGB", (40, 30), (i * 20, 50, 99)).save(picture, "PNG")
      for suffix, data in (
        ("png", picture.getvalue()),
        ("txt", f"number {i}".encode()),
      ):
        member = tarfile.TarInfo(f"{i:05d}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
  return out.getvalue()


def _prepare(environment, source, out):
  command = [preloaded.python(), "-m", "sseg_jax.prepare"]
  command += [
    f"--source={source}",
    f"--out={out}",
    "--workers=0",
    "--image_size=16",
    "--val_size=2",
  ]
  return subprocess.run(
    [*command, "--shard_size=4", "--json"],
    env=environment,
    capture_output=True,
    text=True,
  )


def _shards(objects):
  return {
    name: data
    for name, data in objects.items()
    if name.endswith((".tfrecord", ".index"))
  }


@pytest.mark.slow
def test_tars_of_a_bucket_give_the_same_records(tmp_path):
  """They are streamed; a range, a folder, and a tar that is missing."""
  tars = {f"cc/{i:05d}.tar": _tar(6 * i, 6) for i in range(2)}
  local = tmp_path / "cc"
  local.mkdir()
  for name, data in tars.items():
    (tmp_path / name).write_bytes(data)
  options = {"image_size": 16, "val_size": 2, "shard_size": 4}
  prepare.prepare(f"{local}/{{00000..00001}}.tar", f"{tmp_path}/o", **options)
  expected = {
    str(path.relative_to(tmp_path / "o")): path.read_bytes()
    for path in (tmp_path / "o").rglob("*.*")
    if path.is_file()
  }
  with fake_gcs.bucket(tmp_path, objects := dict(tars)) as (environment, log):
    done = _prepare(environment, "gs://b/cc/{00000..00001}.tar", tmp_path / "g")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["read"], report["train"], report["val"]) == (12, 10, 2)
    made = {
      str(path.relative_to(tmp_path / "g")): path.read_bytes()
      for path in (tmp_path / "g").rglob("*.*")
      if path.is_file()
    }
    assert _shards(made) == _shards(expected)
    assert any("cc%2F00001.tar bytes=" in line for line in log), log
    done = _prepare(environment, "gs://b/cc/{00000..00002}.tar", tmp_path / "x")
    assert done.returncode == 2 and "gs://b/cc/00002.tar" in done.stderr
    assert "Traceback" not in done.stderr
    # Into the bucket as well, from the folder; nothing but records is left.
    done = _prepare(environment, "gs://b/cc", "gs://b/out")
    assert done.returncode == 0, done.stderr
  written = {
    name.removeprefix("out/"): data
    for name, data in objects.items()
    if name.startswith("out/") and not name.endswith("/")
  }
  assert _shards(written) == _shards(expected)
  assert written.keys() == expected.keys()
