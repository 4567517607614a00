"""How often each instruction of a compiled program runs.

XLA's own counts take the body of a loop once, whatever its length. On a first
read, see `executed`.
"""

import dataclasses
import re
from collections.abc import Iterator

from sseg_jax.plan.hlo import Computation, Instruction, Program


@dataclasses.dataclass(frozen=True)
class Executed:
  """An instruction and how often it runs.

  Attributes:
    instruction: the instruction.
    computation: the computation that holds it.
    times: product of the trip counts of the loops around it.
    owner: the fusion that it is a part of; the instruction itself if it is part
      of none.
  """

  instruction: Instruction
  computation: Computation
  times: int
  owner: Instruction

  @property
  def fused(self) -> bool:
    """Whether it is part of a fusion; such instructions touch no memory."""
    return self.owner is not self.instruction


@dataclasses.dataclass
class Loops:
  """What `executed` found out about the loops.

  Attributes:
    counts: name of each loop -> trip count.
    unknown: loops whose length depends on data, which are counted once.
  """

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  unknown: list[str] = dataclasses.field(default_factory=list)


def executed(program: Program, loops: Loops | None = None) -> list[Executed]:
  """Lists all instructions with the number of times that each one runs.

  The trip counts of nested loops are multiplied. All branches of a conditional
  count, so its number is an upper bound. The scalar computation of a reduction,
  sort or scatter belongs to the instruction and is not listed.
  """
  loops = Loops() if loops is None else loops
  found: list[Executed] = []

  def visit(
    name: str, times: int, fusion: Instruction | None
  ) -> Iterator[Executed]:
    computation = program.computations[name]
    for instruction in computation.values():
      yield Executed(instruction, computation, times, fusion or instruction)
      opcode = instruction.opcode
      if opcode == "while":
        trips = trip_count(program, computation, instruction)
        if trips is None:
          loops.unknown.append(instruction.name)
        loops.counts[instruction.name] = trips = 1 if trips is None else trips
        for called in instruction.called:
          yield from visit(called, times * trips, fusion)
      elif opcode in ("fusion", "call", "conditional", "async-start"):
        inside = instruction if opcode == "fusion" else None
        for called in instruction.called:
          yield from visit(called, times, fusion or inside)

  found.extend(visit(program.entry, 1, None))
  return found


def trip_count(
  program: Program, computation: Computation, loop: Instruction
) -> int | None:
  """Returns how often a `while` runs, None where it depends on data.

  The number is the compiler's own if it is given. Otherwise it follows from a
  condition of the form counter < constant, with a constant start and a constant
  increment of the counter.
  """
  known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
  if known:
    return int(known[1])
  condition = loop.attribute("condition")
  body = loop.attribute("body")
  if condition is None or body is None:
    return None
  test = program.computations[condition.lstrip("%")]
  limit = _limit(program, test)
  if limit is None:
    return None
  index, bound, inclusive = limit
  start = _tuple_element(computation, loop.operands[0], index)
  inside = program.computations[body.lstrip("%")]
  step = _increment(program, inside, index)
  if start is None or not step:
    return None
  return max(0, -(-(bound + inclusive - start) // step))


def _limit(program: Program, test: Computation) -> tuple[int, int, bool] | None:
  """Returns (index of the counter, bound, whether it is included)."""
  compare, sides = test.root, list(test.root.operands)
  if compare.opcode == "fusion":
    inner = program.computations[compare.called[0]]
    compare = inner.root
    numbers = [inner[name] for name in compare.operands]
    outer = []
    for number in numbers:
      if number.opcode == "constant":
        outer.append(number)
      elif number.opcode == "parameter":
        outer.append(test[sides[int(number.arguments)]])
      else:
        return None
  else:
    outer = [test[name] for name in sides]
  if compare.opcode != "compare" or len(outer) != 2:
    return None
  left, right = (_origin(test, side) for side in outer)
  direction = compare.attribute("direction")
  if direction in ("GT", "GE"):
    left, right = right, left
    direction = {"GT": "LT", "GE": "LE"}[direction]
  if left.opcode != "get-tuple-element" or direction not in ("LT", "LE"):
    return None
  bound, index = _constant(right), left.attribute("index")
  if bound is None or index is None:
    return None
  return int(index), bound, direction == "LE"


def _origin(computation: Computation, instruction: Instruction) -> Instruction:
  """Follows copies back to where a value comes from."""
  while instruction.opcode in ("copy", "bitcast", "convert", "copy-done"):
    instruction = computation.get(instruction.operands[0], instruction)
  if instruction.opcode == "copy-start":
    return _origin(computation, computation[instruction.operands[0]])
  return instruction


def _constant(instruction: Instruction) -> int | None:
  if instruction.opcode != "constant":
    return None
  match = re.fullmatch(r"-?\d+", instruction.arguments.strip())
  return int(match[0]) if match else None


def _tuple_element(
  computation: Computation, name: str, index: int
) -> int | None:
  whole = _origin(computation, computation[name])
  if whole.opcode != "tuple":
    return None
  element = computation[whole.operands[index]]
  return _constant(_origin(computation, element))


def _increment(program: Program, body: Computation, index: int) -> int | None:
  """Returns by how much an iteration raises a counter, if by a constant."""
  if body.root.opcode != "tuple":
    return None
  step = _origin(body, body[body.root.operands[index]])
  operands = [_origin(body, body[name]) for name in step.operands]
  if step.opcode == "fusion":
    inner = program.computations[step.called[0]]
    step = inner.root
    operands = [
      _origin(body, operands[int(inner[name].arguments)])
      if inner[name].opcode == "parameter"
      else inner[name]
      for name in step.operands
    ]
  if step.opcode != "add":
    return None
  constants = [_constant(operand) for operand in operands]
  return next((c for c in constants if c is not None), None)
