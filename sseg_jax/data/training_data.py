"""The data of a run: checked, or drawn, before anything is compiled."""

from typing import Any, NamedTuple

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sseg_jax import errors
from sseg_jax.data import label_classes, manifest, shapes


class TrainingData(NamedTuple):
  """What `prepare` found.

  Attributes:
    class_names: the classes of the records' label maps, "background" first
      where label 0 means that; () if unknown.
    records: fingerprint of the training records; None if the run draws them.
  """

  class_names: tuple[str, ...]
  records: str | None


def prepare(config: Any, workdir: epath.Path) -> TrainingData:
  """Checks the folders of records, or draws the embedded data set.

  Args:
    config: fields as in `default_config.py`. If the data set is drawn,
      `data.train`, `data.val` and `evaluate.benchmarks` are set to its folders.
    workdir: folder of the run; the embedded data set is drawn to WORKDIR/data.

  Raises:
    InputError: if a folder of records is missing or holds no records; or if the
      supervised task does not know the classes of the label maps.
  """
  if config.data.source == "shapes":
    return _draw(config, workdir)
  folders = [f.strip() for f in config.data.train.split(",") if f.strip()]
  if not folders:
    raise errors.InputError(
      "data.train is empty; name one or more folders of records, as"
      " `python -m sseg_jax.prepare` writes them"
    )
  found = [_manifest("data.train", folder) for folder in folders]
  if config.data.val and config.task == "sseg":
    if not _manifest("data.val", config.data.val).total:
      raise errors.InputError(
        f"data.val={config.data.val}: holds no records; write it again, or"
        ' leave it out with --config.data.val=""'
      )
  names: tuple[str, ...] = ()
  if config.task == "supervised":
    names = label_classes.of(config.data.classes, found)
  return TrainingData(names, manifest.fingerprint(found))


def _draw(config: Any, workdir: epath.Path) -> TrainingData:
  folder = workdir / "data"
  arguments = config.data.shapes.to_dict()
  if jax.process_index() == 0:
    logging.info(
      "drawing %d training pictures to %s", arguments["train_size"], folder
    )
    shapes.write(folder, **arguments)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("shapes are written")
  # The files exist now, so this call only returns their names.
  names = shapes.write(folder, **arguments)
  config.data.train = names["train"]
  config.data.val = names["val"]
  own = [names[kind] for kind in shapes.KINDS]
  given = [s for s in config.evaluate.benchmarks.split(",") if s]
  config.evaluate.benchmarks = ",".join(own + given)
  return TrainingData(shapes.CLASS_NAMES, None)


def _manifest(field: str, folder: str) -> manifest.Manifest:
  """Returns the manifest of a folder of records that a field names."""
  try:
    return manifest.read_manifest(folder)
  except errors.InputError as error:
    # Only retrieval reads these records; a run can do without them.
    hint = "; or leave it out with --config.data.val=''"
    raise errors.InputError(
      f"{field}={folder}: {error}{hint if field == 'data.val' else ''}"
    ) from None
