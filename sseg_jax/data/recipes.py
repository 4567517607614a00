"""The published lists of URLs that the paper trains on, and how to fetch them.

    python -m sseg_jax.prepare --recipe=cc12m --source=cc12m.tsv --out=records

prints three commands, and with --run runs them: this module writes the list as
a Parquet file, img2dataset fetches the pictures, `prepare` makes records.

The lists of Conceptual Captions have no header, their columns are in different
orders, and captions hold quotes. So img2dataset gets a Parquet file, and not
the list itself: its reader of tables takes a quote that begins a caption for a
quoted cell, which swallows the URL.
"""

import dataclasses
import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sseg_jax import files
from sseg_jax.data import staging
from sseg_jax.data.sources.img2dataset import LEFT_OUT
from sseg_jax.data.sources.rows import is_url, lines, shown
from sseg_jax.data.sources.samples import need_pyarrow
from sseg_jax.errors import InputError, reported

_ROWS = 50_000  # written at once


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A published list.

  Attributes:
    title: its name.
    columns: of the list, tab between them; () for RedCaps' JSON.
    given: what --source is.
    image_size: short side to which img2dataset shrinks pictures.
    limit: most records; 0 takes all.
    licence: of the list, as its authors state it. Each picture keeps its own.
    mirror: where fetched pictures are kept by others, on the Hugging Face hub.
  """

  title: str
  columns: tuple[str, ...]
  given: str
  image_size: int
  licence: str
  mirror: str
  limit: int = 0


_GOOGLE = "free for any purpose, with acknowledgement of Google LLC"
RECIPES = {
  "cc3m": Recipe(
    title="Conceptual Captions (3.3 M)",
    columns=("caption", "url"),
    given="Train_GCC-training.tsv",
    image_size=512,
    licence=_GOOGLE,
    mirror="pixparse/cc3m-wds (2.9 M pictures, webdataset)",
  ),
  "cc12m": Recipe(
    title="Conceptual 12M",
    columns=("url", "caption"),
    given="cc12m.tsv",
    image_size=512,
    licence=_GOOGLE,
    mirror="pixparse/cc12m-wds (11 M pictures, webdataset)",
  ),
  "redcaps": Recipe(
    title="RedCaps (12 M)",
    columns=(),
    given="redcaps_v1.0_annotations.zip, or the folder of its .json",
    image_size=448,
    licence="CC BY 4.0; Reddit's user agreement holds for the pictures",
    mirror="none",
    # The paper takes the first 11 M and does not say of which order: here that
    # of the files' names.
    limit=11_000_000,
  ),
}


def get(name: str) -> Recipe:
  """Returns a recipe; raises InputError for an unknown name."""
  if name not in RECIPES:
    raise InputError(f"--recipe={shown(name)}: must be {', '.join(RECIPES)}")
  return RECIPES[name]


def fetch_command(
  name: str, out: str, processes: int, program: str = "img2dataset"
) -> list[str]:
  """Returns img2dataset's command for a list that `write_list` has written."""
  fetched = f"{out.rstrip('/')}/fetched"
  return [
    *shlex.split(program),
    f"--url_list={fetched}/urls.parquet",
    "--input_format=parquet",
    "--url_col=url",
    "--caption_col=caption",
    f"--output_folder={fetched}/pictures",
    "--output_format=webdataset",
    f"--image_size={get(name).image_size}",
    "--resize_mode=keep_ratio",
    "--resize_only_if_bigger=True",
    "--encode_format=jpg",
    "--encode_quality=95",
    f"--processes_count={processes}",
    "--thread_count=64",
  ]


def commands(
  name: str, source: str, out: str, processes: int, program: str, rest: dict
) -> list[list[str]]:
  """Returns the three commands: list, fetch, records.

  Args:
    name: key of `RECIPES`.
    source: the published list.
    out: folder of the records; pictures are fetched to OUT/fetched.
    processes: of img2dataset.
    program: how img2dataset is called.
    rest: further flags of `prepare`.
  """
  recipe = get(name)
  flags = {"duplicates": "exact", "limit": recipe.limit} | rest
  return [
    ["python", "-m", "sseg_jax.data.recipes", name, source, out],
    fetch_command(name, out, processes, program),
    [
      *("python", "-m", "sseg_jax.prepare"),
      f"--source={out.rstrip('/')}/fetched/pictures",
      f"--out={out}",
      *(f"--{key}={value}" for key, value in flags.items() if value),
    ],
  ]


def described(name: str, steps: Sequence[Sequence[str]]) -> str:
  """Returns the commands as text to print and to copy."""
  recipe = get(name)
  head = [
    f"# {recipe.title}. List: {recipe.licence}.",
    f"# Pictures fetched by others: {recipe.mirror}.",
    "# img2dataset is best installed in an environment of its own:"
    " pip install img2dataset",
  ]
  return "\n".join(head + [shlex.join(step) for step in steps])


def fetch(name: str, source: str, out: str, command: Sequence[str]) -> None:
  """Writes the list and runs img2dataset, which goes on where it was.

  Raises:
    InputError: a bad list, or img2dataset is missing or fails.
  """
  write_list(name, source, out)
  try:
    code = subprocess.run(list(command), check=False).returncode
  except OSError as error:
    raise InputError(
      f"{command[0]} cannot be started ({error.strerror}); run `pip install"
      " img2dataset` in an environment of its own, and give its program as"
      " --img2dataset=ENVIRONMENT/bin/img2dataset"
    ) from error
  if code:
    raise InputError(
      f"{command[0]} ended with exit code {code}; see its messages above, and"
      " start again: it goes on after the shards that are finished"
    )


def write_list(name: str, source: str, out: str) -> dict[str, Any]:
  """Writes OUT/fetched/urls.parquet with the columns `url` and `caption`.

  Rows without a URL or a caption are counted in OUT/fetched/pictures, from
  where `prepare` takes the counts.

  Returns:
    `rows`, their number, and `rejected`: reason -> {"count", "examples"}.

  Raises:
    InputError: the list is missing, or most of its rows cannot be read.
  """
  recipe = get(name)
  path = Path(files.expand(source))
  if not path.exists():
    raise InputError(
      f"--source={shown(source)}: no such file; give {recipe.given}"
    )
  parquet = need_pyarrow()
  import pyarrow as pa

  fetched = Path(files.expand(out)) / "fetched"
  (fetched / "pictures").mkdir(parents=True, exist_ok=True)
  rejected: dict[str, dict[str, Any]] = {}
  total = 0
  columns: dict[str, list[str]] = {"url": [], "caption": []}
  schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
  found = _tsv_rows(path, recipe) if recipe.columns else _redcaps_rows(path)
  new = fetched / "urls.parquet.new"
  with parquet.ParquetWriter(new, schema) as writer:

    def flush() -> None:
      writer.write_table(pa.table(columns, schema))
      for values in columns.values():
        values.clear()

    for where, url, caption, reason in found:
      if reason:
        staging.count(rejected, reason, where)
        continue
      total += 1
      columns["url"].append(url)
      columns["caption"].append(caption)
      if len(columns["url"]) == _ROWS:
        flush()
    flush()
  lost = sum(entry["count"] for entry in rejected.values())
  if lost > total or not total:
    told = ", ".join(f"{r}: {e['count']}" for r, e in rejected.items())
    raise InputError(
      f"--source={shown(source)}: only {total} of {total + lost} rows can be"
      f" read as those of {name} ({told or 'it is empty'}); give {recipe.given}"
    )
  new.replace(fetched / "urls.parquet")
  files.write_text(fetched / "pictures" / LEFT_OUT, json.dumps(rejected))
  return {"rows": total, "rejected": rejected}


def _tsv_rows(
  path: Path, recipe: Recipe
) -> Iterator[tuple[str, str, str, str]]:
  """Yields place, URL, caption and reason of each line."""
  at = recipe.columns.index("url")
  for number, line in lines(path):
    where = f"{path.name}:{number}"
    cells = line.rstrip("\r\n").split("\t")
    if number == 1 and [c.strip().lower() for c in cells] == [*recipe.columns]:
      continue  # a header that somebody has put there
    if not line.strip():
      continue
    # A caption that holds tabs is joined; a URL holds none.
    if len(cells) < 2:
      yield where, "", "", "too_few_cells"
      continue
    url = cells[0] if at == 0 else cells[-1]
    texts = cells[1:] if at == 0 else cells[:-1]
    yield _row(where, url, " ".join(texts))


def _redcaps_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
  """Yields the annotations of all files, in the order of the files' names."""
  for name, data in _redcaps_files(path):
    try:
      annotations = json.loads(data)["annotations"]
      rows = list(annotations)
    except (ValueError, KeyError, TypeError, RecursionError):
      yield name, "", "", "not_json"
      continue
    for number, row in enumerate(rows):
      where = f"{name}:{number}"
      if not isinstance(row, dict):
        yield where, "", "", "not_an_object"
        continue
      url, caption = row.get("url"), row.get("caption")
      if not isinstance(caption, str):
        yield where, "", "", "no_caption"
        continue
      yield _row(where, url if isinstance(url, str) else "", caption)


def _redcaps_files(path: Path) -> Iterator[tuple[str, bytes]]:
  if path.is_dir():
    for file in sorted(path.rglob("*.json")):
      yield file.name, file.read_bytes()
    return
  try:
    with zipfile.ZipFile(path) as archive:
      for name in sorted(archive.namelist()):
        base = name.rpartition("/")[2]
        if base.endswith(".json") and not base.startswith("._"):
          yield base, archive.read(name)
  except zipfile.BadZipFile as error:
    raise InputError(f"{shown(path)}: {error}; fetch it again") from error


def _row(where: str, url: str, caption: str) -> tuple[str, str, str, str]:
  caption = " ".join(caption.split())
  if not is_url(url):
    return where, "", "", "no_url"
  try:
    (url + caption).encode()
  except UnicodeEncodeError:
    return where, "", "", "not_utf8"
  return where, url.strip(), caption, "" if caption else "empty_caption"


@reported
def main(argv: Sequence[str]) -> int:
  """Runs `write_list`: RECIPE LIST OUT."""
  if len(argv) != 3:
    raise InputError("give three arguments: the recipe, its list, and OUT")
  made = write_list(*argv)
  print(f"{made['rows']} rows in {argv[2]}/fetched/urls.parquet")
  for reason, entry in made["rejected"].items():
    print(f"  {reason}: {entry['count']} ({', '.join(entry['examples'][:3])})")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
