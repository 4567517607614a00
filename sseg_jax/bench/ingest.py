"""From pictures on the disk to records: `prepare`, and img2dataset.

img2dataset needs an environment of its own. The variable IMG2DATASET names its
program; else it is searched on the PATH, and left out where there is none.
"""

import atexit
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from sseg_jax.bench.timing import Case, Way

_PROCESSES = 2
_SHORT_SIDE = 512
# What the web has: some are stored as they are, some shrink a little, some a
# lot. Each as often as the others.
_SIZES = (
  (400, 300), (640, 480), (800, 600), (1024, 768), (1600, 1200), (2048, 1536)
)  # fmt: skip
_DIFFERENT = 24  # pictures; the others are copies of them

# Reads a line, converts all pictures in two processes, and answers with a line.
_SERVE = """
import io, json, multiprocessing, pathlib, sys
{convert}
def one(path):
  return len(convert(pathlib.Path(path).read_bytes()))
if __name__ == "__main__":
  paths = json.load(open(sys.argv[1]))
  context = multiprocessing.get_context("fork")
  with context.Pool({processes}) as pool:
    for line in sys.stdin:
      pool.map(one, paths, chunksize=8)
      print("done", flush=True)
"""
_OURS = f"""
from sseg_jax.data import reencode
def convert(data):
  return reencode.to_jpeg(data, short_side={_SHORT_SIDE})
"""
_THEIRS = f"""
from img2dataset.resizer import Resizer
resizer = Resizer(image_size={_SHORT_SIDE}, resize_mode="keep_ratio",
  resize_only_if_bigger=True, encode_quality=95, encode_format="jpg")
def convert(data):
  found = resizer(io.BytesIO(data))
  assert found[0], found
  return found[0]
"""


def program() -> str | None:
  """Returns the program img2dataset; None where there is none."""
  return os.environ.get("IMG2DATASET") or shutil.which("img2dataset")


def prepare(small: bool) -> Case:
  """Pictures of six sizes to JPEGs with a short side of 512 at most.

  The whole commands are compared, with their start, two processes each: ours
  writes records, img2dataset tars. Then the conversion of the pictures alone,
  which img2dataset calls `Resizer`, also in two processes.
  """
  count = 12 if small else 1200
  place = pathlib.Path(tempfile.mkdtemp(prefix="sseg_jax_bench_"))
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  paths = _write(place / "source", count)
  listed = place / "paths.json"
  listed.write_text(json.dumps([os.fspath(path) for path in paths]))
  ways: dict[str, Way] = {
    "sseg_jax.prepare": _command(_ours(place), place / "records"),
    "sseg_jax, pictures alone": _served(sys.executable, _OURS, listed),
  }
  agreement = (
    "img2dataset was left out: it is not installed; name its program by"
    " IMG2DATASET=ENVIRONMENT/bin/img2dataset"
  )
  theirs = program()
  if theirs:
    python = os.fspath(pathlib.Path(theirs).parent / "python")
    agreement = "both shrink to a short side of 512, JPEG of quality 95; ours"
    agreement += " keeps all of the colour, and the bytes of what fits"
    ways |= {
      "img2dataset": _command(_their(theirs, place), place / "theirs"),
      "img2dataset, Resizer alone": _served(python, _THEIRS, listed),
    }
  return Case(
    f"{count} JPEGs of {_SIZES[0][0]}x{_SIZES[0][1]} to {_SIZES[-1][0]}x"
    f"{_SIZES[-1][1]}, two processes",
    ways,
    agreement,
    count,
  )


def photo(number: int, size: tuple[int, int]) -> bytes:
  """Returns a JPEG with detail at every scale, as photos have it."""
  rng = np.random.default_rng(number)
  total = np.zeros((size[1], size[0], 3), np.float32)
  for scale in (4, 16, 64, 256):
    shape = max(2, size[1] // scale), max(2, size[0] // scale), 3
    noise = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    large = noise.resize(size, Image.Resampling.BICUBIC)
    total += np.asarray(large, np.float32) * scale**0.5
  total -= total.min()
  out = io.BytesIO()
  image = Image.fromarray((total * (255 / total.max())).astype(np.uint8))
  image.save(out, "JPEG", quality=90)
  return out.getvalue()


def _write(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
  folder.mkdir()
  made = [photo(i, _SIZES[i % len(_SIZES)]) for i in range(_DIFFERENT)]
  paths, lines, urls = [], [], ["url\tcaption"]
  for i in range(count):
    path = folder / f"{i:06d}.jpg"
    path.write_bytes(made[i % _DIFFERENT])
    paths.append(path)
    lines.append(json.dumps({"file_name": path.name, "caption": f"photo {i}"}))
    urls.append(f"file://{path}\tphoto {i}")
  (folder / "captions.jsonl").write_text("\n".join(lines))
  (folder.parent / "urls.tsv").write_text("\n".join(urls) + "\n")
  return paths


def _ours(place: pathlib.Path) -> list[str]:
  return [
    *(sys.executable, "-m", "sseg_jax.prepare", f"--source={place}/source"),
    *(f"--out={place}/records", f"--image_size={_SHORT_SIDE}", "--json"),
    *("--overwrite", f"--workers={_PROCESSES}"),
  ]


def _their(name: str, place: pathlib.Path) -> list[str]:
  return [
    *(name, f"--url_list={place}/urls.tsv", "--input_format=tsv"),
    *("--url_col=url", "--caption_col=caption", f"--image_size={_SHORT_SIDE}"),
    *("--output_format=webdataset", f"--output_folder={place}/theirs"),
    *("--resize_mode=keep_ratio", "--resize_only_if_bigger=True"),
    *("--encode_quality=95", f"--processes_count={_PROCESSES}"),
    *("--thread_count=8", "--number_sample_per_shard=200"),
    *("--enable_wandb=False", "--disallowed_header_directives=[]"),
  ]


def _command(command: list[str], out: pathlib.Path) -> Way:
  """Returns a way that runs a command and removes what it writes."""

  def run() -> None:
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      raise RuntimeError(f"{command[:3]}: {done.stderr[-2000:]}")

  return run


def _served(python: str, convert: str, listed: pathlib.Path) -> Way:
  """Returns a way that has a running process convert all pictures."""
  text = _SERVE.format(convert=convert, processes=_PROCESSES)
  script = listed.with_name(f"serve_{len(convert)}.py")
  script.write_text(text)
  # A script's own folder is searched first, and then another checkout.
  root = os.fspath(pathlib.Path(__file__).parents[2])
  own = {"PYTHONPATH": root} if python == sys.executable else {}
  process = subprocess.Popen(
    [python, os.fspath(script), os.fspath(listed)],
    env=os.environ | own,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  atexit.register(process.kill)

  def run() -> None:
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    if process.stdout.readline() != "done\n":
      raise RuntimeError(f"{python} ended; run {script} to see why")

  return run
