"""Reads the text of a compiled program: its computations and their shapes.

On a first read, see `Instruction`. `loops.py` computes how often each
instruction runs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

_BYTES = {
  "pred": 1,
  "token": 0,
  **{f"{kind}{bits}": bits / 8 for kind in "su" for bits in (2, 4, 8)},
  **{f"{kind}{bits}": bits // 8 for kind in "su" for bits in (16, 32, 64)},
  "bf16": 2,
  "f16": 2,
  "f32": 4,
  "f64": 8,
  "c64": 8,
  "c128": 16,
}
_SHAPE = re.compile(
  r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?"
)
_INSTRUCTION = re.compile(
  r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$"
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.-]+)|branch_computations=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array as it lies in memory.

  Attributes:
    dtype: HLO's name, as "bf16".
    dims: sizes, as the program counts them.
    layout: the text in braces: order of the axes, tiles, memory space.
  """

  dtype: str
  dims: tuple[int, ...]
  layout: str = ""

  @property
  def in_hbm(self) -> bool:
    """Whether it lies in the main memory, not in the memory on the chip."""
    return "S(" not in self.layout

  @functools.cached_property
  def bytes(self) -> float:
    """Size with the padding to whole tiles that the layout asks for."""
    order, _, tiles = self.layout.partition(":")
    dims = [1, *self.dims]  # major to minor
    if order:
      dims = [1, *(self.dims[int(i)] for i in reversed(order.split(",")))]
    match = re.match(r"T\(([\d,]+)\)", tiles)
    if match:
      tile = [int(side) for side in match[1].split(",")]
      dims = [1] * (len(tile) - len(dims)) + dims
      for i, side in enumerate(reversed(tile), 1):
        dims[-i] = -(-dims[-i] // side) * side
    return math.prod(dims) * _BYTES.get(self.dtype, 1)


def parse_shapes(text: str) -> tuple[Shape, ...]:
  """Reads an array, or the arrays of a tuple one after another."""
  return tuple(
    Shape(
      dtype,
      tuple(int(d.lstrip("<=")) for d in dims.split(",") if d),
      layout or "",
    )
    for dtype, dims, layout in _SHAPE.findall(text)
  )


@dataclasses.dataclass(eq=False)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in the program.
    opcode: as "fusion".
    shapes: of the result; several for a tuple.
    operands: names, of the same computation.
    arguments: the text between the parentheses.
    attributes: the text after them.
    is_root: whether it is what the computation returns.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  is_root: bool

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it runs."""
    found: list[str] = []
    for one, several in _CALLED.findall(self.attributes):
      found += [one] if one else re.findall(r"[\w.-]+", several)
    return tuple(found)

  def attribute(self, name: str) -> str | None:
    """Returns the value of NAME=VALUE or NAME={VALUE}, None without it."""
    match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
    return match[1].strip("{}") if match else None

  @property
  def frame(self) -> int:
    """Number of the stack frame that wrote it, 0 where that is not known."""
    match = re.search(r"stack_frame_id=(\d+)", self.attributes)
    return int(match[1]) if match else 0

  @property
  def op_name(self) -> str:
    """JAX's name for it, as "jit(train_step)/jvp()/dot_general"."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match[1] if match else ""


class Computation(dict[str, Instruction]):
  """Instructions by name, in order."""

  @functools.cached_property
  def root(self) -> Instruction:
    """What it returns."""
    return next(i for i in reversed(self.values()) if i.is_root)

  @functools.cached_property
  def parameters(self) -> list[Instruction]:
    """Its arguments, in order."""
    found = [i for i in self.values() if i.opcode == "parameter"]
    return sorted(found, key=lambda i: int(i.arguments))

  @functools.cached_property
  def users(self) -> Mapping[str, Sequence[Instruction]]:
    """Name -> the instructions that read it."""
    found: dict[str, list[Instruction]] = {name: [] for name in self}
    for instruction in self.values():
      for operand in set(instruction.operands):
        found[operand].append(instruction)
    return found


@dataclasses.dataclass
class Program:
  """A compiled program, for one chip.

  Attributes:
    computations: by name.
    entry: name of the one that is run.
    frames: number -> (file, function) of a line of source, and the number of
      the frame that called it, 0 for none.
  """

  computations: dict[str, Computation]
  entry: str
  frames: dict[int, tuple[str, str, int]]

  def stack(self, frame: int) -> list[tuple[str, str]]:
    """Returns (file, function) of a frame and its callers, innermost first."""
    found: list[tuple[str, str]] = []
    while frame in self.frames:
      file, function, parent = self.frames[frame]
      found.append((file, function))
      frame = parent
    return found


def parse(text: str) -> Program:
  """Reads what `compiled.as_text()` gives."""
  computations: dict[str, Computation] = {}
  entry = ""
  current: Computation | None = None
  for line in text.splitlines():
    if current is None:
      if match := _COMPUTATION.match(line):
        current = computations[match[2]] = Computation()
        entry = match[2] if match[1] else entry
    elif line.startswith("}"):
      current = None
    elif match := _INSTRUCTION.match(line):
      root, name, shape, opcode, rest = match.groups()
      end = _closing(rest)
      arguments = rest[:end]
      operands = re.findall(r"%([\w.-]+)", arguments)
      current[name] = Instruction(
        name,
        opcode,
        parse_shapes(shape),
        tuple(operands),
        arguments,
        rest[end + 1 :],
        root is not None,
      )
  return Program(computations, entry, _parse_frames(text))


def _closing(text: str) -> int:
  """Returns the index of the parenthesis that closes the one before `text`."""
  depth = 1
  for match in re.finditer(r"[()]", text):
    depth += 1 if match[0] == "(" else -1
    if not depth:
      return match.start()
  return len(text)


def _parse_frames(text: str) -> dict[int, tuple[str, str, int]]:
  def table(title: str) -> dict[int, str]:
    match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    lines = match[1].splitlines() if match else ()
    return {int(n): rest for n, rest in (x.split(" ", 1) for x in lines)}

  def number(field: str, row: str) -> int:
    match = re.search(rf"{field}=(\d+)", row)
    return int(match[1]) if match else 0

  files, functions = table("FileNames"), table("FunctionNames")
  places = {
    n: (
      files.get(number("file_name_id", row), "").strip('"'),
      functions.get(number("function_name_id", row), "").strip('"'),
    )
    for n, row in table("FileLocations").items()
  }
  rows = table("StackFrames")
  parents = {n: number("parent_frame_id", row) for n, row in rows.items()}
  # Some versions print the number of a parent plus one. The outermost frame has
  # no parent, which is written as 0.
  shift = min(parents.values(), default=0)
  return {
    n: (
      *places.get(number("file_location_id", row), ("", "")),
      parents[n] - shift,
    )
    for n, row in rows.items()
  }
