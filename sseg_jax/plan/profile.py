"""What one chip does in a step: operations and bytes, by part of the model."""

import collections
import dataclasses

from sseg_jax.plan import hlo, loops, parts, products, traffic
from sseg_jax.plan.chips import Chip


@dataclasses.dataclass
class Work:
  """An instruction of the compiled program, and the instructions inside it.

  Attributes:
    name: of the instruction.
    opcode: of it.
    op_name: JAX's name for it.
    part: of the model.
    times: how often it runs in a step.
    flops: operations of its matrix products in all runs.
    passes: the same, times the number of bf16 products that each one takes.
    bytes: what it reads from and writes to memory in all runs.
  """

  name: str
  opcode: str
  op_name: str
  part: str
  times: int
  flops: float = 0
  passes: float = 0
  bytes: float = 0


@dataclasses.dataclass(frozen=True)
class Temporary:
  """An array that the program makes in memory.

  Attributes:
    shape: as HLO writes it, e.g. "bf16[16,6,785,785]", of one chip.
    bytes: with the padding of its layout.
    part: of the model that makes it first.
  """

  shape: str
  bytes: float
  part: str


@dataclasses.dataclass
class Profile:
  """A step on one chip.

  Attributes:
    work: instructions that have products or touch memory.
    flops: operations of matrix products, by part of the model. A fusion may
      have products of several parts.
    collectives: by kind.
    unknown_loops: number of loops whose length depends on data; they were
      counted once.
    kernels: custom kernels that do not state their operations.
    largest: arrays that the program makes, one of each shape, the largest
      first.
  """

  work: list[Work]
  flops: dict[str, float]
  collectives: dict[str, traffic.Collective]
  unknown_loops: int
  kernels: int
  largest: list[Temporary]

  @property
  def bytes(self) -> dict[str, float]:
    """Read from and written to memory, by part."""
    found: dict[str, float] = collections.defaultdict(float)
    for work in self.work:
      found[work.part] += work.bytes
    return dict(found)

  @property
  def total_flops(self) -> float:
    """Operations of all matrix products."""
    return sum(self.flops.values())

  @property
  def total_passes(self) -> float:
    """Operations in bf16 that the matrix units carry out for these."""
    return sum(work.passes for work in self.work)

  @property
  def total_bytes(self) -> float:
    """Read from and written to memory."""
    return sum(work.bytes for work in self.work)

  @property
  def sent(self) -> float:
    """Bytes that leave the chip in collectives."""
    return sum(c.sent for c in self.collectives.values())

  def top(self, key: str, count: int = 10) -> list[Work]:
    """Returns the instructions with the most of "bytes" or "flops"."""
    ranked = sorted(self.work, key=lambda w: getattr(w, key), reverse=True)
    return [w for w in ranked[:count] if getattr(w, key)]

  def roofline(self, chip: Chip) -> dict[str, float]:
    """Returns seconds that a step needs at least, for each limit."""
    return {
      "compute": self.total_passes / chip.flops,
      "memory": self.total_bytes / chip.hbm_bandwidth,
      "network": self.sent / chip.ring_bandwidth,
    }

  def in_turn(self, chip: Chip) -> float:
    """Returns seconds if no two instructions overlap; without collectives.

    Each instruction takes the longer of its compute time and its memory time.
    This is closer to a real step than the roofline of the whole step. The
    roofline assumes that the chip computes the products of one instruction
    while it moves the data of another.
    """
    return sum(
      max(work.passes / chip.flops, work.bytes / chip.hbm_bandwidth)
      for work in self.work
    )


def profile(text: str, chips: int) -> Profile:
  """Reads a compiled program's text.

  Args:
    text: as `compiled.as_text()` gives it.
    chips: that run it together.
  """
  program = hlo.parse(text)
  found_loops = loops.Loops()
  items = loops.executed(program, found_loops)
  work: dict[str, Work] = {}
  flops: dict[str, float] = collections.defaultdict(float)
  kernels = 0
  arrays: dict[str, Temporary] = {}
  for item in items:
    instruction, owner = item.instruction, item.owner
    if not item.fused:
      _note_arrays(arrays, program, item)
      # A computation that is called from two places runs for both.
      entry = work.setdefault(
        owner.name,
        Work(
          owner.name,
          owner.opcode,
          owner.op_name,
          _part(program, item.computation, owner),
          0,
        ),
      )
      entry.times += item.times
      entry.bytes += traffic.memory(program, item) * item.times
    operations = products.flops(instruction, item.computation) * item.times
    if operations:
      entry = work[owner.name]
      entry.flops += operations
      entry.passes += operations * products.passes(
        instruction, item.computation
      )
      part = parts.of_stack(program.stack(instruction.frame))
      flops[entry.part if part == parts.OTHER else part] += operations
    kernels += (
      'custom_call_target="tpu_custom_call"' in instruction.attributes
      and products.kernel_flops(instruction) is None
    )
  found, touched = traffic.collectives(items, chips)
  if touched:
    name = "collectives"
    work[name] = Work(name, name, "", parts.COLLECTIVES, 1, bytes=touched)
  kept = [w for w in work.values() if w.flops or w.bytes]
  largest = sorted(arrays.values(), key=lambda a: -a.bytes)[:_LARGEST]
  return Profile(
    kept, dict(flops), found, len(found_loops.unknown), kernels, largest
  )


_LARGEST = 10
# Instructions that only pass on the result of another one.
_HANDED_ON = ("parameter", "get-tuple-element", "tuple", "while", "bitcast")


def _note_arrays(
  arrays: dict[str, Temporary], program: hlo.Program, item: loops.Executed
) -> None:
  """Adds the results of an instruction that lie in memory, by shape."""
  if item.instruction.opcode in _HANDED_ON:
    return
  for shape in item.instruction.shapes:
    name = f"{shape.dtype}[{','.join(map(str, shape.dims))}]"
    known = arrays.get(name)
    if shape.in_hbm and (known is None or shape.bytes > known.bytes):
      part = _part(program, item.computation, item.instruction)
      arrays[name] = Temporary(name, shape.bytes, part)


def _part(
  program: hlo.Program,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
) -> str:
  """Returns the part of the model that an instruction belongs to.

  A copy belongs to the part of what it copies. If the compiler names no line of
  source, the part is that of the instruction that made the first operand, or
  that of the first instruction that reads the result.
  """
  for step in ("back", "on"):
    current = instruction
    for _ in range(8):
      part = parts.of_stack(program.stack(current.frame))
      if part != parts.OTHER:
        return part
      if current.opcode == "fusion":
        inner = program.computations[current.called[0]]
        for i in inner.values():
          part = parts.of_stack(program.stack(i.frame))
          if part != parts.OTHER:
            return part
      following = (
        [computation[name] for name in current.operands[:1]]
        if step == "back"
        else computation.users[current.name]
      )
      if not following:
        break
      current = following[0]
  return parts.OTHER
