"""S-Seg+: from a teacher to a student and scores of both (§3.7)."""

import json
from typing import Any

import jax
import ml_collections
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
from sseg_jax.self_training import labelling, pictures
from sseg_jax.self_training import teacher as teachers

LABELS, STUDENT, TEACHER = "labels", "student", "teacher"


def run(
  config: ml_collections.ConfigDict,
  workdir: str | epath.PathLike,
  stop: preemption.Stop | None = None,
) -> dict[str, Any]:
  """Labels pictures, trains a student on them, and scores teacher and student.

  A run that was stopped goes on in the phase in which it was.

  Args:
    config: fields as in `default_config.py`; `self_training` describes labels
      and teacher, all others the student.
    workdir: folder of the run. It gets `labels/`, the student's run in
      `student/`, the teacher's scores in `teacher/`, and result.json.
    stop: tells the run when to stop. None listens for SIGTERM.

  Returns:
    The content of WORKDIR/result.json: `teacher` and `student`, each with its
    `benchmarks`; `difference`, the student's mIoU less the teacher's, of each
    benchmark and their mean; `labels`. A run that was asked to stop returns
    {"preempted": step}.

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

  # --- Labels -----------------------------------------------------------------
  teacher = teachers.load(fields)
  parts = pictures.open_parts(fields.pictures, fields.names, fields.shard_size)
  out = str(workdir / LABELS)
  try:
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
    logging.warning("asked to stop: start again to go on with the labels")
    return {"preempted": 0}
  _wait_for_all("labels are written")
  first_process = jax.process_index() == 0
  if first_process:
    report = labelling.finish(teacher, parts, out)
    logging.info("%s: %s", out, report)
  _wait_for_all("labels are finished")

  # --- Student ----------------------------------------------------------------
  student = student_config(config, out)
  trained = train.train(student, workdir / STUDENT, stop)
  if "preempted" in trained:
    return trained

  # --- Scores -----------------------------------------------------------------
  if not first_process:  # waits, or the first would lose its peers
    _wait_for_all("both are scored")
    return {}
  scores: dict[str, dict[str, Any]] = {}
  for name, path in (
    (TEACHER, fields.teacher),
    (STUDENT, str(workdir / STUDENT)),
  ):
    if stop.is_set():
      _wait_for_all("both are scored")
      return {"preempted": int(trained["steps"])}
    logging.info("scoring the %s, %s", name, path)
    scores[name] = checkpoint_scores.run(path, specs, _settings(workdir, name))
  result = {
    TEACHER: {"checkpoint": fields.teacher, "benchmarks": scores[TEACHER]},
    STUDENT: trained | {"benchmarks": scores[STUDENT]},
    "difference": difference(scores[TEACHER], scores[STUDENT]),
    "labels": {
      "made_with": labelling.described(teacher, parts),
      "pictures": report.records,
      "rejected": report.rejected,
      "shares": report.shares,
      "ignored": report.ignored,
    },
    "git_commit": commit,
  }
  text = json.dumps(result, indent=2) + "\n"
  files.write_text(workdir / "result.json", text)
  _wait_for_all("both are scored")
  return result


def student_config(
  config: ml_collections.ConfigDict, labels: str
) -> ml_collections.ConfigDict:
  """Returns the config with which the student is trained.

  Args:
    config: of the whole run.
    labels: the folder of labelled pictures.
  """
  student = ml_collections.ConfigDict(config).copy_and_resolve_references()
  with student.unlocked():
    student.data.train = labels
    # From here on it is a run on records as any other, which goes on alone.
    student.self_training.teacher = ""
    if not config.evaluate.every_steps:
      student.evaluate.benchmarks = ""  # scored once, beside the teacher
    if config.self_training.start == "teacher":
      student.start_from = config.self_training.teacher
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
  changes = ", ".join(f"{k} {v:+.2f}" for k, v in result["difference"].items())
  return "\n".join([*lines, f"difference: {changes}"])


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
