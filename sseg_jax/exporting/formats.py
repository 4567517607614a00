"""The formats by name. One more file `to_NAME.py` and a line here add one."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sseg_jax.errors import InputError
from sseg_jax.exporting import to_jax, to_onnx, to_savedmodel
from sseg_jax.exporting.towers import Towers


@dataclasses.dataclass(frozen=True)
class Format:
  """How one format is written.

  Attributes:
    write: takes the towers, the folder and the fields of its `config.json`;
      writes all files with weights or programs.
    modules: what must be installed to write it.
    packages: what `pip install` gives for that.
    reader: what its `run.py` needs beside numpy, pillow, tokenizers and ftfy.
    dynamic: which numbers a user may choose; empty if all are fixed.
    notes: what a reader of the model card should know.
  """

  write: Callable[[Towers, Path, dict[str, Any]], None]
  modules: tuple[str, ...]
  packages: tuple[str, ...]
  reader: str
  dynamic: tuple[str, ...] = ("pictures", "words", "templates")
  notes: str = ""

  def missing(self) -> list[str]:
    """Returns the modules that are not installed."""
    return [m for m in self.modules if importlib.util.find_spec(m) is None]


_JAX_NOTES = (
  "The programs run on CPUs, CUDA GPUs and TPUs. A newer JAX reads them; one"
  " that is much older does not."
)
FORMATS: dict[str, Format] = {
  "safetensors": Format(
    to_jax.write_safetensors,
    ("flatbuffers",),
    ("flatbuffers",),
    "jax flatbuffers safetensors",
    notes="`weights.safetensors` holds every array by its name. The programs"
    " take them as arguments: other weights of the same network fit too."
    f" `sseg_jax.load` reads this folder. {_JAX_NOTES}",
  ),
  "stablehlo": Format(
    to_jax.write_stablehlo,
    ("flatbuffers",),
    ("flatbuffers",),
    "jax flatbuffers",
    notes="Each file is one StableHLO module with its weights, as"
    " `jax.export.serialize` writes it. " + _JAX_NOTES,
  ),
  "onnx": Format(
    to_onnx.write,
    ("jax2onnx", "onnx", "onnxruntime"),
    ("jax2onnx", "onnx", "onnxruntime"),
    "onnxruntime",
    notes="Opset 21. Inputs and outputs are float32 and int32.",
  ),
  "savedmodel": Format(
    to_savedmodel.write,
    ("tensorflow",),
    ("tensorflow",),
    "tensorflow",
    notes="The functions `embed_classes` and `segment` of the model.",
  ),
}


def chosen(text: str | None) -> tuple[list[str], list[str]]:
  """Returns the formats to write, and lines about those that cannot be.

  Args:
    text: names with commas; None for all that this machine can write.

  Raises:
    InputError: for an unknown name, and a named format whose packages are not
      installed.
  """
  names = list(FORMATS) if text is None else []
  for name in (text or "").split(","):
    if text is not None and name.strip() not in names:
      names.append(name.strip())
  for name in names:
    if name not in FORMATS:
      raise InputError(
        f"format={name!r} is unknown; use some of {','.join(FORMATS)}"
      )
  lacking = [name for name in names if FORMATS[name].missing()]
  packages = sorted({p for n in lacking for p in FORMATS[n].packages})
  if not lacking:
    return names, []
  line = (
    f"{', '.join(lacking)}: cannot be written here; first"
    f" `pip install {' '.join(packages)}`"
  )
  if text is not None:
    raise InputError(f"format={line}")
  return [name for name in names if name not in lacking], [line]
