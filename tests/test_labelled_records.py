"""Label maps of benchmarks as records, and what the run takes from them."""

import io

import numpy as np
import pytest
from etils import epath
from layouts import write_folder
from PIL import Image

from sseg_jax import prepare
from sseg_jax.data import label_classes, manifest, records, training_data
from sseg_jax.errors import InputError


def _labels(record):
  return np.asarray(Image.open(io.BytesIO(record.labels)))


def test_a_benchmark_becomes_records_that_name_their_classes(tmp_path, capsys):
  root = write_folder(tmp_path / "mine", labels=np.array([[0, 2], [255, 1]]))
  out = tmp_path / "out"
  argv = [f"--benchmark={root}", "--split=val", f"--out={out}"]
  assert prepare.main(argv) == 0
  assert "1 labelled pictures of 3 classes" in capsys.readouterr().out
  (record,) = records.read(str(out))
  np.testing.assert_array_equal(_labels(record), [[0, 2], [255, 1]])
  found = manifest.read_manifest(str(out))
  assert found.labels
  assert found.info[label_classes.KEY] == ["background", "cat", "dog"]
  assert prepare.main([*argv, "--captions=x"]) == 2
  assert "--captions=x has no meaning" in capsys.readouterr().err
  assert prepare.main(argv) == 2
  assert "holds finished records" in capsys.readouterr().err


def _write(folder, *names, labels=True):
  png = records.encode_png(np.zeros((4, 4), np.uint8))
  with records.RecordWriter(str(folder), num_shards=1) as writer:
    writer.write(records.Record(b"0", png, labels=png if labels else None))
    if names:
      writer.info[label_classes.KEY] = list(names)
  return str(folder)


def test_the_class_list_of_a_run(tmp_path, tiny_config):
  listed = _write(tmp_path / "a", "cat", "dog")
  same, bare = _write(tmp_path / "b", "cat", "dog"), _write(tmp_path / "c")
  other = _write(tmp_path / "d", "cat", "cow")
  tiny_config.task = "supervised"

  def names(*folders, classes=()):
    tiny_config.data.train = ",".join(folders)
    tiny_config.data.classes = classes
    made = training_data.prepare(tiny_config, epath.Path(tmp_path))
    return made.class_names

  assert names(listed, same) == ("cat", "dog")
  assert names(bare, classes=("a", "b")) == ("a", "b")
  assert names(listed, bare) == ("cat", "dog")
  for folders, classes, message in (
    ((bare,), (), "c: does not say which classes"),
    ((listed, other), (), "d: .*label 1 as 'cow', which is 'dog' in .*a; make"),
    ((listed,), ("cat",), "a: .*2 classes, not the 1 of data.classes"),
  ):
    with pytest.raises(InputError, match=message):
      names(*folders, classes=classes)
