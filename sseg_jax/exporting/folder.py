"""A format's folder: what is in it beside the format's own files."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from sseg_jax import files, tokenizer
from sseg_jax.exporting.source import Source
from sseg_jax.images import palette
from sseg_jax.inference import rarity
from sseg_jax.inference.sliding_window import LONG_SIDE_CAP
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD
from sseg_jax.runtime import provenance

_PLACEHOLDER_ENDS = "  raise NotImplementedError\n"


def fields(source: Source, refine: str) -> dict[str, Any]:
  """Returns what `config.json` holds, apart from the format's own.

  Args:
    source: the checkpoint and its settings.
    refine: whether masks are refined in the files, as `evaluate.refine`.
  """
  segmenter, metadata = source.segmenter, source.loaded.metadata
  chosen_with = metadata.get("thresholds_of") or {}
  config = source.config.to_dict()
  config["evaluate"] |= {
    # A fixed list of classes has a combiner that no config may name.
    "combiner": config["evaluate"]["combiner"]
    if segmenter.known
    else segmenter.combiner,
    "image_size": segmenter.image_size,
    "stride": segmenter.stride,
    "refine": refine,
  }
  return {
    "config": config,
    "words": list(source.words),
    "templates": list(source.templates),
    "thresholds": {
      "values": metadata.get("thresholds") or {},
      "combiner": chosen_with.get("combiner", segmenter.combiner),
      "classes": chosen_with.get("classes") or {},
    },
    "rule": source.rule,
    **{k: metadata[k] for k in (rarity.NAME,) if k in metadata},
    "preprocessing": {
      "outside_the_file": "bilinear resize without antialias, half-pixel"
      " centres, short side to image_size; windows over the long side",
      "inside_the_file": "(RGB in 0..255 - mean) / std",
      "image_size": segmenter.image_size,
      "stride": segmenter.stride,
      "long_side": LONG_SIDE_CAP,
      "mean": list(PIXEL_MEAN),
      "std": list(PIXEL_STD),
      "refine": refine,
    },
    "window": [segmenter.image_size, segmenter.stride, LONG_SIDE_CAP],
    "context_length": source.config.text.context_length,
    **(fixed_list(source) if segmenter.known else {}),
    "colours": palette.palette(255, has_background=True).ravel().tolist(),
    "step": int(source.loaded.step),
    "commit": provenance.git_commit(),
    "versions": provenance.versions(),
  }


def fixed_list(source: Source) -> dict[str, Any]:
  """Returns what a reader needs of a network with a fixed list of classes.

  `fixed_list` has the names of `classes` without background, whether
  `background` comes before them, and what the `values` are that the program
  gives last; of these there are `channels`.
  """
  known = source.segmenter.known
  channels = len(source.config.data.classes)
  return {
    "fixed_list": {
      "classes": list(known),
      "background": channels > len(known),
      "values": source.segmenter.combiner,
    },
    "channels": channels,
  }


def add_runner(
  folder: Path, name: str, context_length: int, fixed: bool = False
) -> None:
  """Writes `run.py` and what it reads beside the network.

  Args:
    folder: of the format.
    name: of the format.
    context_length: of the text tower.
    fixed: whether the network knows a fixed list of classes, and so needs no
      tokenizer.
  """
  files.write_text(folder / "run.py", runner(name, fixed))
  if fixed:
    return
  text = tokenizer.as_json(context_length)
  (folder / "tokenizer.json").write_text(text, encoding="utf-8")
  licence = resources.files("sseg_jax") / "clip_merges" / "LICENSE"
  (folder / "LICENSE.tokenizer").write_bytes(licence.read_bytes())


def runner(name: str, fixed: bool = False) -> str:
  """Returns the text of `run.py` for a format; `fixed` as for `add_runner`."""
  place = resources.files("sseg_jax.exporting") / "runners"
  common = (place / "common.py").read_text(encoding="utf-8")
  own = (place / f"of_{name}.py").read_text(encoding="utf-8")
  start = common.index("def load(")
  end = common.index(_PLACEHOLDER_ENDS) + len(_PLACEHOLDER_ENDS)
  text = common[:start] + own[own.index("def load(") :] + common[end:]
  if fixed:
    text = _of_fixed_list(
      text, (place / "fixed_list.py").read_text(encoding="utf-8")
    )
  # With empty lines between functions alone it stays within a hundred.
  lines = [line for line in text.splitlines() if line]
  spaced = [f"\n{x}" if x.startswith("def ") else x for x in lines]
  return "\n".join(spaced) + "\n"


def _of_fixed_list(text: str, own: str) -> str:
  """Returns a `run.py` whose words are places in a list."""
  start, end = text.index("def token_ids("), text.index("def resize(")
  text = text[:start] + own[own.index("def token_ids(") :] + text[end:]
  # The mean is taken of the program's third output, which has a value for each
  # class of the list; `scores` of `fixed_list.py` calls this function.
  first = text.rindex("def scores(")
  before, after = text[:first], text[first:]
  changes = (
    ("def scores(", "def mean_of_windows("),
    ("# [h, w, words], mean of windows", "# [h, w, values]"),
    ("len(classes) + 1)", 'config["channels"] + 1)'),
    ("classes, zero)[0]", "classes, zero)[2]"),
  )
  for old, new in changes:
    assert after.count(old) == 1, old
    after = after.replace(old, new)
  for line in ("import html\n", "import ftfy\n", "import tokenizers\n"):
    before = before.replace(line, "")
  return before + after


def size(folder: Path) -> int:
  """Returns the bytes of all files in a folder."""
  return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def remove(folder: Path) -> None:
  """Removes a folder, if it is there."""
  shutil.rmtree(folder, ignore_errors=True)
