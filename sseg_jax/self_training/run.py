"""S-Seg+: from a teacher to a student and scores of both (§3.7)."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sseg_jax import (
  benchmarks,
  checkpoint_scores,
  config_check,
  evaluator,
  files,
  train,
)
from sseg_jax.errors import InputError
from sseg_jax.runtime import preemption, provenance
from sseg_jax.self_training import class_share, labelling, pictures
from sseg_jax.self_training import teacher as teachers

LABELS, STUDENT, TEACHER = "labels", "student", "teacher"


def run(
  config: ml_collections.ConfigDict,
  workdir: str | epath.PathLike,
  stop: preemption.Stop | None = None,
) -> dict[str, Any]:
  """Labels pictures, trains a student on them, and scores teacher and student.

  With `self_training.rounds` above 1 the student labels the pictures again, for
  a student of its own. A run that was stopped goes on in the phase in which it
  was.

  Args:
    config: fields as in `default_config.py`; `self_training` describes labels
      and teacher, all others the student.
    workdir: folder of the run. It gets `labels/`, the student's run in
      `student/`, those of further rounds in `round2/` and so on, the teacher's
      scores in `teacher/`, and result.json.
    stop: tells the run when to stop. None listens for SIGTERM.

  Returns:
    The content of WORKDIR/result.json: `teacher` and `student`, the last one,
    each with its `benchmarks`; `difference`, the student's mIoU less the
    teacher's, of each benchmark and their mean; `rounds`, with the `gain` of
    each student over the model that taught it; `labels` of the last round. In
    other processes than the first, {}. A run that was asked to stop returns
    {"preempted": step} in every process.

  Raises:
    InputError: if a field cannot work, if the teacher has no background
      threshold, if there is no picture, or if the folder has other labels.
  """
  stop = stop or preemption.Stop().listen()
  workdir = epath.Path(files.expand(workdir))
  config_check.check(config)
  specs = _specs(config)
  fields = config.self_training
  commit = provenance.git_commit()

  rows: list[dict[str, Any]] = []
  path, step = str(fields.teacher), 0
  before: dict[str, Any] | None = None
  of_teacher: dict[str, Any] | None = None
  for number in range(1, fields.rounds + 1):
    place = workdir if number == 1 else workdir / f"round{number}"
    labels = label_pictures(fields, path, str(place / LABELS), stop)
    if labels is None:
      return {"preempted": step}
    student = student_config(
      config, str(place / LABELS), path, labels.pop("names")
    )
    trained = train.train(student, place / STUDENT, stop)
    if any_process("preempted" in trained):
      return {"preempted": int(trained.get("preempted", config.total_steps))}
    step = config.total_steps
    if of_teacher is None:
      settings = _settings(workdir, TEACHER)
      before = of_teacher = _scored(path, specs, settings, stop)
    path = str(place / STUDENT)
    scores = None
    if before is not None:
      scores = _scored(path, specs, _settings(place, STUDENT), stop)
    if before is None or scores is None:
      logging.warning("asked to stop: start again to evaluate")
      return {"preempted": step}
    rows.append(
      {
        "student": path,
        "benchmarks": scores,
        "gain": difference(before, scores),
      }
    )
    before = scores

  result: dict[str, Any] = {}
  if jax.process_index() == 0:
    assert of_teacher is not None
    last = rows[-1]["benchmarks"]
    result = {
      TEACHER: {"checkpoint": fields.teacher, "benchmarks": of_teacher},
      STUDENT: trained | {"benchmarks": last},
      "difference": difference(of_teacher, last),
      "rounds": rows,
      "labels": labels,
      "git_commit": commit,
    }
    text = json.dumps(result, indent=2) + "\n"
    files.write_text(workdir / "result.json", text)
  _wait_for_all("the result is written")
  return result


def _scored(
  path: str,
  specs: Sequence[str],
  settings: checkpoint_scores.Settings,
  stop: preemption.Stop,
) -> dict[str, Any] | None:
  """Returns a model's scores, {} in further processes, None after a stop."""
  found: dict[str, Any] | None = {}
  if jax.process_index() == 0:
    logging.info("scoring %s", path)
    found = None
    if not stop.is_set():
      found = checkpoint_scores.run(path, specs, settings)
  return None if any_process(found is None) else found


def label_pictures(
  fields: Any, path: str, out: str, stop: preemption.Stop
) -> dict[str, Any] | None:
  """Labels the pictures of a round, in all processes.

  Args:
    fields: `config.self_training`.
    path: the model that labels; instead of `fields.teacher`.
    out: folder of the labels.
    stop: ends the job between two pictures.

  Returns:
    What the labels are, for result.json, and `names` of the labels 0, 1, …. In
    other processes than the first the names alone. None if any process was
    asked to stop.
  """
  fields = ml_collections.ConfigDict(fields)
  with fields.unlocked():
    fields.teacher = path
  teacher = teachers.load(fields)
  parts = pictures.open_parts(fields.pictures, fields.names, fields.shard_size)
  stopped = False
  try:
    teacher = class_share.limited(teacher, parts, fields, out, stop.check)
    labelling.label(
      teacher,
      parts,
      out,
      batch_size=fields.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      progress=jax.process_index() == 0,
      check=stop.check,
    )
  except preemption.Stopped:
    stopped = True
  if any_process(stopped):
    logging.warning("asked to stop: start again to go on with the labels")
    return None
  found: dict[str, Any] = {"names": teacher.names}
  if jax.process_index() == 0:
    report = labelling.finish(teacher, parts, out)
    logging.info("%s: %s", out, report)
    found |= {
      "made_with": labelling.described(teacher, parts),
      "pictures": report.records,
      "rejected": report.rejected,
      "shares": report.shares,
      "ignored": report.ignored,
    }
  _wait_for_all("labels are finished")
  return found


def any_process(flag: bool) -> bool:
  """Returns in every process whether the flag is set in any of them."""
  if jax.process_count() == 1:
    return flag
  votes = multihost_utils.process_allgather(np.int32(flag))
  return bool(np.max(votes))


def student_config(
  config: ml_collections.ConfigDict,
  labels: str,
  teacher: str,
  names: Sequence[str],
) -> ml_collections.ConfigDict:
  """Returns the config with which a student is trained.

  Args:
    config: of the whole run.
    labels: the folder of labelled pictures.
    teacher: the model that labelled them.
    names: of the labels 0, 1, ….
  """
  student = ml_collections.ConfigDict(config).copy_and_resolve_references()
  with student.unlocked():
    student.data.train = labels
    # From here on it is a run on records as any other, which goes on alone.
    student.self_training.teacher = ""
    if not config.evaluate.every_steps:
      student.evaluate.benchmarks = ""  # scored once, beside the teacher
    if config.self_training.start == "teacher":
      student.start_from = teacher
    if student.model.head != "text":
      student.data.classes = tuple(names)
  return student


def difference(
  teacher: dict[str, Any], student: dict[str, Any]
) -> dict[str, float]:
  """Returns the student's mIoU less the teacher's, by benchmark, and the mean.

  Benchmarks on which either has no mIoU are left out.
  """
  found = {
    name: round(student[name]["mIoU"] - result["mIoU"], 2)
    for name, result in teacher.items()
    if None not in (result["mIoU"], student[name]["mIoU"])
  }
  if found:
    found["mean"] = round(sum(found.values()) / len(found), 2)
  return found


def headline(result: dict[str, Any]) -> str:
  """Returns the result in lines to print."""
  lines = [
    f"{name}: {evaluator.headline(result[name])}" for name in (TEACHER, STUDENT)
  ]
  rounds = result.get("rounds", [])
  if len(rounds) > 1:
    lines += [
      f"gain of round {i}: {_changes(row['gain'])}"
      for i, row in enumerate(rounds, 1)
    ]
  return "\n".join([*lines, f"difference: {_changes(result['difference'])}"])


def _changes(values: dict[str, float]) -> str:
  return ", ".join(f"{name} {value:+.2f}" for name, value in values.items())


def _specs(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the benchmarks that both are scored on."""
  if not config.evaluate.benchmarks:
    raise InputError(
      "evaluate.benchmarks is empty; name the target's benchmark, on which"
      " teacher and student are compared"
    )
  return benchmarks.parse_specs(config.evaluate.benchmarks)


def _settings(workdir: epath.Path, name: str) -> checkpoint_scores.Settings:
  out = None
  if "://" not in str(workdir):
    out = files.path(str(workdir)) / (TEACHER if name == TEACHER else "scores")
  # The teacher's folder is not this run's, so nothing is stored there.
  return checkpoint_scores.Settings(out=out, store=name == STUDENT)


def _wait_for_all(what: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
