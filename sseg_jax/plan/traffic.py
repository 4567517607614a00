"""Bytes that a compiled program moves: to and from memory, and between chips.

An instruction outside fusions reads its operands from memory and writes its
result to memory. Arrays in the chip's own small memory cost nothing. On a first
read, see `memory`.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from sseg_jax.plan.hlo import Computation, Instruction, Program, Shape
from sseg_jax.plan.loops import Executed

# Instructions without traffic: they name or view data that is in memory, or end
# an operation that another instruction started.
_FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast while call conditional"
  " after-all partition-id replica-id opt-barrier iota copy-done slice-done"
  " dynamic-slice-done async-start async-update async-done send send-done"
  " recv-done domain add-dependency".split()
)
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "ragged-all-to-all",
  "collective-broadcast",
  "collective-permute",
  "reduce-scatter",
)
# Custom calls that compute nothing and only name buffers.
_MARKERS = re.compile(
  r'custom_call_target="(AsyncCollective\w*|AllocateBuffer|ConcatBitcast'
  r'|Assume\w*|Sharding)"'
)


def _is_collective(opcode: str) -> bool:
  return opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES


def _is_marker(instruction: Instruction) -> bool:
  if instruction.opcode != "custom-call":
    return False
  return _MARKERS.search(instruction.attributes) is not None


def _in_hbm(shapes: Iterable[Shape]) -> float:
  return sum(shape.bytes for shape in shapes if shape.in_hbm)


def memory(program: Program, item: Executed) -> float:
  """Returns the bytes that one run of an instruction reads and writes.

  If an array is only sliced, indexed or updated, only the slice counts. A
  buffer that is returned unchanged counts nothing. The result is 0 for
  instructions inside a fusion, and for collectives, which `collectives` counts.
  """
  instruction, computation = item.instruction, item.computation
  opcode = instruction.opcode
  if item.fused or opcode in _FREE or _is_collective(opcode):
    return 0
  if _is_marker(instruction):
    return 0
  out = instruction.shapes
  sources = [computation[name].shapes for name in instruction.operands]
  if opcode in ("copy-start", "slice-start", "dynamic-slice-start"):
    # The result is (destination, source, context) or (source, destination, …).
    moved = min(shape.bytes for shape in out[:2])
    places = (out[0].in_hbm, out[1].in_hbm)
    return moved * sum(places)
  if opcode == "fusion":
    inner = program.computations[instruction.called[0]]
    read = sum(
      _read(program, inner, parameter, source)
      for parameter, source in zip(inner.parameters, sources, strict=True)
    )
    return read + _written(program, inner, out)
  if opcode in ("dynamic-slice", "slice", "gather"):
    return 2 * _in_hbm(out)
  if opcode == "dynamic-update-slice":
    return 2 * _in_hbm(sources[1])
  if opcode == "scatter":
    return 3 * sum(map(_in_hbm, sources[len(sources) // 2 + 1 :]))
  if opcode == "broadcast":
    return _in_hbm(out)
  return _in_hbm(out) + sum(map(_in_hbm, sources))


def _read(
  program: Program,
  inner: Computation,
  parameter: Instruction,
  source: Sequence[Shape],
) -> float:
  """Returns the bytes that a fusion reads of one of its operands."""
  whole = _in_hbm(source)
  if not whole:
    return 0
  return min(whole, sum(_uses(program, inner, parameter, whole)))


def _uses(
  program: Program,
  inner: Computation,
  value: Instruction,
  whole: float,
  outside: tuple[tuple[Computation, Instruction], ...] = (),
) -> Iterable[float]:
  """Yields the bytes that each use of a value in a fusion reads of it.

  A nested fusion may return the value unchanged; the fusion around it then uses
  it. `outside` holds these outer fusions with their computations, the innermost
  last.
  """
  if value.is_root and outside:
    around, nested = outside[-1]
    yield from _uses(program, around, nested, whole, outside[:-1])
  for user in inner.users[value.name]:
    first = user.operands[0] == value.name
    if user.opcode in ("bitcast", "get-tuple-element"):
      yield from _uses(program, inner, user, whole, outside)
    elif user.opcode == "tuple":
      yield whole if outside else 0
    elif _is_collective(user.opcode) or _is_marker(user):
      yield 0
    elif user.opcode in ("dynamic-slice", "slice", "gather") and first:
      yield sum(shape.bytes for shape in user.shapes)
    elif user.opcode == "dynamic-update-slice" and first:
      yield 0
    elif user.opcode == "fusion":
      deeper = program.computations[user.called[0]]
      for name, parameter in zip(user.operands, deeper.parameters, strict=True):
        if name == value.name:
          place = (*outside, (inner, user))
          yield from _uses(program, deeper, parameter, whole, place)
    else:
      yield whole


def _written(
  program: Program, inner: Computation, out: Sequence[Shape]
) -> float:
  """Returns the bytes that a fusion writes."""
  root = inner.root
  if len(out) == 1:
    results = [root]
  elif root.opcode == "tuple":
    results = [inner[name] for name in root.operands]
  else:
    return 0 if _is_marker(root) else _in_hbm(out)
  return sum(
    _result(program, inner, result, shape)
    for result, shape in zip(results, out, strict=True)
    if shape.in_hbm
  )


def _result(
  program: Program, inner: Computation, result: Instruction, shape: Shape
) -> float:
  result = _source(program, inner, result)
  if result.opcode in ("parameter", "get-tuple-element") or _is_marker(result):
    return 0  # handed through
  if result.opcode == "dynamic-update-slice":
    return sum(s.bytes for s in inner[result.operands[1]].shapes)
  if result.opcode == "fusion" and len(result.shapes) == 1:
    deeper = program.computations[result.called[0]]
    return _result(program, deeper, deeper.root, shape)
  return shape.bytes


def _source(
  program: Program, inner: Computation, value: Instruction
) -> Instruction:
  """Returns the array that a view, or a fusion that is only a view, shows."""
  while True:
    if value.opcode == "bitcast":
      value = inner[value.operands[0]]
    elif value.opcode == "fusion" and len(value.shapes) == 1:
      deeper = program.computations[value.called[0]]
      origin = _source(program, deeper, deeper.root)
      if origin.opcode != "parameter":
        return value
      value = inner[value.operands[int(origin.arguments)]]
    else:
      return value


@dataclasses.dataclass
class Collective:
  """What one kind of collective costs a chip.

  Attributes:
    count: how many run in a step.
    bytes: size of the operand or of the result on one chip, whichever is
      larger.
    sent: bytes that leave a chip if each collective runs as a ring.
  """

  count: int = 0
  bytes: float = 0
  sent: float = 0


def collectives(
  items: Iterable[Executed], chips: int
) -> tuple[dict[str, Collective], float]:
  """Returns the collectives by kind, and the bytes of memory they touch.

  An asynchronous collective appears several times in the program, each time
  with the same channel. It counts once.
  """
  once: dict[tuple[str, str], Executed] = {}
  for item in items:
    opcode = item.instruction.opcode
    if not _is_collective(opcode) or opcode.endswith("-done"):
      continue
    channel = item.instruction.attribute("channel_id") or item.instruction.name
    key = (opcode.removesuffix("-start"), channel)
    if key not in once or item.times < once[key].times:
      once[key] = item
  found: dict[str, Collective] = {}
  touched = 0.0
  for (kind, _), item in once.items():
    instruction, times = item.instruction, item.times
    operands = [
      shape
      for name in instruction.operands
      for shape in item.computation[name].shapes
    ]
    results = list(instruction.shapes)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
      # (operands, results, contexts)
      results = results[len(operands) : 2 * len(operands)]
    largest = max(_logical(operands), _logical(results))
    group = group_size(instruction, chips)
    entry = found.setdefault(kind, Collective())
    entry.count += times
    entry.bytes += largest * times
    entry.sent += largest * times * _ring(kind, group)
    touched += (_in_hbm(operands) + _in_hbm(results)) * times
  return found, touched


def _logical(shapes: Iterable[Shape]) -> float:
  return sum(dataclasses.replace(shape, layout="").bytes for shape in shapes)


def _ring(kind: str, group: int) -> float:
  """Share of `Collective.bytes` that a chip sends if it runs as a ring."""
  if kind == "collective-permute":
    return 1
  share = (group - 1) / group
  return 2 * share if kind == "all-reduce" else share


def group_size(instruction: Instruction, chips: int) -> int:
  """Returns how many chips take part in each group of a collective."""
  text = instruction.attributes
  if match := re.search(r"replica_groups=\[([\d,]+)\]", text):
    return int(match[1].split(",")[-1])
  if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
    sizes = dict(re.findall(r"'([^']*)'=(\d+)", match[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'([^']*)'", match[2]))
  if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
    return match[1].count(",") + 1
  return chips
