"""`tfds build` of any source of `prepare`."""

import os
import pathlib
import subprocess
import sys

import pytest
from webdata import jpeg, pair, write_tar

from sseg_jax import prepare
from sseg_jax.data import records


def _by_command(source, folder):
  # The command of TFDS imports both at its start.
  for name in ("apache_beam", "mlcroissant"):
    pytest.importorskip(name, reason=f"the command tfds needs {name}")
  program = pathlib.Path(sys.executable).with_name("tfds")
  done = subprocess.run(
    [
      *(program, "build", "captioned_pictures/short256"),
      "--imports=sseg_jax.data.captioned_pictures",
      *(f"--manual_dir={source}", f"--data_dir={folder}"),
    ],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
  )
  assert done.returncode == 0, done.stderr[-3000:]


def _by_python(source, folder):
  tfds = pytest.importorskip("tensorflow_datasets")
  from sseg_jax.data import captioned_pictures

  name = captioned_pictures.CaptionedPictures.name
  builder = tfds.builder(f"{name}/short256", data_dir=folder)
  config = tfds.download.DownloadConfig(manual_dir=source)
  builder.download_and_prepare(download_config=config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TFDS's own
@pytest.mark.parametrize("build", [_by_python, _by_command])
def test_tfds_builds_the_records_of_prepare(tmp_path, build):
  """The same pictures and captions in the same order, and the same counts."""
  tfds = pytest.importorskip("tensorflow_datasets")
  source = tmp_path / "tars"
  members = [m for n in range(6) for m in pair(n)]
  members[4] = (members[4][0], b"rubbish")
  members[0] = (members[0][0], jpeg(0, (900, 600)))
  write_tar(source / "0.tar", members)
  build(str(source), str(tmp_path / "data"))
  prepare.prepare(str(source), str(tmp_path / "one"), image_size=256)
  one = list(records.read(f"{tmp_path}/one/train"))
  place = tmp_path / "data/captioned_pictures/short256/1.0.0"
  builder = tfds.builder_from_directory(place)
  assert builder.info.splits["train"].num_examples == len(one) == 5
  told = builder.info.metadata
  assert (told["read"], told["kept"]) == (6, 5)
  assert told["rejected"]["unreadable"]["examples"] == ["0/00002"]
  # And `prepare` reads what was built.
  prepare.prepare(str(place), str(tmp_path / "two"))
  two = list(records.read(f"{tmp_path}/two/train"))
  assert [(r.image, r.captions) for r in two] == [
    (r.image, r.captions) for r in one
  ]
