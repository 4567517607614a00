"""`prepare` on Apache Beam: the same records, and failures of one line."""

import json
import pathlib
import shlex

import pytest
import webdata
from webdata import jpeg

from sseg_jax import prepare
from sseg_jax.data import beam_jobs, records, staging, survivors
from sseg_jax.data.options import Options
from sseg_jax.errors import InputError, Unavailable


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


OPTIONS = {"val_size": 3, "shard_size": 4, "duplicates": "near"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  place = tmp_path_factory.mktemp("source") / "tars"
  for shard in range(3):
    numbers = range(shard * 6, shard * 6 + 6)
    members = [m for n in numbers for m in webdata.pair(n)]
    if shard == 1:
      members[2] = (members[2][0], b"rubbish")
      members[4] = (members[4][0], jpeg(0))  # a duplicate
    webdata.write_tar(place / f"{shard:05d}.tar", members)
  return str(place)


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
  out = tmp_path_factory.mktemp("local")
  report = prepare.prepare(source, str(out), **OPTIONS)
  assert (report.train, report.val) == (13, 3)
  return _files(out)


def _needs_beam():
  pytest.importorskip(
    "apache_beam", reason="needs Apache Beam: pip install -e '.[beam]'"
  )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_and_this_machine_give_the_same_bytes(source, local, tmp_path):
  _needs_beam()
  prepare.prepare(source, str(tmp_path), runner="DirectRunner", **OPTIONS)
  assert _files(tmp_path) == local


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_another_runner_goes_on(source, local, tmp_path, monkeypatch):
  _needs_beam()
  with monkeypatch.context() as m:
    m.setattr(survivors, "choose", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepare.prepare(source, str(tmp_path), runner="DirectRunner", **OPTIONS)
  monkeypatch.setattr(staging, "write", lambda *a: 1 / 0)  # all is there
  prepare.prepare(source, str(tmp_path), **OPTIONS)
  assert _files(tmp_path) == local


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_finds_wrong_is_one_line(tmp_path):
  _needs_beam()
  import pyarrow as pa
  import pyarrow.parquet as pq

  path = tmp_path / "bare.parquet"
  pq.write_table(pa.table({"jpg": [jpeg(1)], "size": [3]}), path)
  with pytest.raises(InputError, match="no column holds captions") as caught:
    prepare.prepare(str(path), f"{tmp_path}/out", runner="DirectRunner")
  assert "while running" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ("--projct=x", "Apache Beam knows no --projct; see its pages on Dataflow"),
    ("'--project=x", "No closing quotation"),
    ("--num_workers=many", "a value does not fit"),
  ],
)
def test_flags_of_a_runner(flags, message):
  _needs_beam()
  with pytest.raises(InputError, match=message):
    beam_jobs.pipeline_options("DataflowRunner", flags)
  made = beam_jobs.pipeline_options("DataflowRunner", "--num_workers=3")
  assert made.get_all_options()["num_workers"] == 3


def _recipes():
  """Arguments of each `prepare` on a cluster that launch/README.md shows."""
  root = pathlib.Path(__file__).parents[1]
  text = (root / "launch/README.md").read_text(encoding="utf-8")
  text = text.replace("\\\n", " ")
  lines = [line for line in text.splitlines() if "--runner=" in line]
  found = [shlex.split(x) for x in lines if x.startswith("python -m ")]
  return [command[3:] for command in found]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", _recipes())
def test_recipes_have_real_flags(arguments):
  """Of the command here, and of each runner where Beam is installed."""
  given = vars(prepare._parser().parse_args(arguments))
  assert Options(runner=given["runner"]).runner in beam_jobs.RUNNERS
  _needs_beam()
  options = beam_jobs.pipeline_options(given["runner"], given["runner_options"])
  assert options.get_all_options(drop_default=True)


def test_each_runner_has_a_recipe():
  text = " ".join(map(" ".join, _recipes()))
  assert all(name in text for name in beam_jobs.RUNNERS[1:])


def test_what_beam_reports_becomes_one_line():
  text = "job failed\nTraceback\n  x\nsseg_jax.errors.InputError: a; b [while"
  told = beam_jobs._told(RuntimeError(f"{text} running 'write']"), "X")
  assert isinstance(told, InputError) and str(told) == "a; b"
  told = beam_jobs._told(RuntimeError("one\ntwo\n"), "SparkRunner")
  assert isinstance(told, Unavailable)
  assert str(told).startswith("--runner=SparkRunner: the pipeline failed (two)")


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"runner": "Flink"}, "--runner=Flink: must be DirectRunner, FlinkRunner"),
    ({"runner_options": "--x"}, "--runner_options=--x has no meaning"),
  ],
)
def test_options_of_runners(given, message):
  with pytest.raises(InputError, match=message):
    Options(**given)


def test_without_beam_the_command_is_told(source, tmp_path, monkeypatch):
  monkeypatch.setitem(
    __import__("sys").modules, "apache_beam.options.pipeline_options", None
  )
  monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
  monkeypatch.setitem(__import__("sys").modules, "apache_beam.options", None)
  with pytest.raises(
    InputError, match="--runner=SparkRunner needs Apache Beam"
  ):
    prepare.prepare(source, str(tmp_path), runner="SparkRunner")


def test_the_runner_is_not_stored(source, tmp_path):
  """So the records of every runner are the same."""
  prepare.prepare(source, str(tmp_path))
  info = records.read_manifest(f"{tmp_path}/train").info
  assert not {"runner", "runner_options", "workers"} & set(
    json.loads(json.dumps(dict(info)))
  )
