"""Published figures of accelerators, and the shapes their pods come in."""

import dataclasses
import math

from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
  """The published figures of one kind of chip.

  Attributes:
    name: "v4", "v5e", "v5p" or "v6e".
    flops: highest bf16 FLOP/s of the matrix units.
    hbm_bytes: size of the memory.
    hbm_bandwidth: bytes/s between memory and chip.
    ici_bandwidth: bytes/s over all links to other chips, both directions.
    axes: number of axes of the mesh that these links form.
    kinds: JAX's names of the chip.
    largest: number of chips in the largest slice.
    source: where the figures are published.
  """

  name: str
  flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  ici_bandwidth: float
  axes: int
  kinds: tuple[str, ...]
  largest: int
  source: str

  @property
  def ring_bandwidth(self) -> float:
    """Bytes/s that leave a chip along one axis, to both neighbours.

    The time of collectives is computed with this speed, for one ring. XLA may
    use rings along several axes at once; a slice without wrap-around has half
    the speed.
    """
    return self.ici_bandwidth / 2 / self.axes


_DOCS = "https://docs.cloud.google.com/tpu/docs"
GIB = 2**30

CHIPS: dict[str, Chip] = {
  chip.name: chip
  for chip in (
    # v4's page gives no speed of links; the paper that it refers to does, six
    # of 50 GB/s each way (arxiv.org/abs/2304.01433).
    Chip(
      *("v4", 275e12, 32 * GIB, 1200e9, 600e9, 3),
      *(("TPU v4",), 4096, f"{_DOCS}/v4"),
    ),
    Chip(
      *("v5e", 197e12, 16e9, 819e9, 400e9, 2),
      *(("TPU v5 lite", "TPU v5e"), 256, f"{_DOCS}/v5e"),
    ),
    Chip(
      *("v5p", 459e12, 95 * GIB, 2765e9, 1200e9, 3),
      *(("TPU v5", "TPU v5p"), 6144, f"{_DOCS}/v5p"),
    ),
    Chip(
      *("v6e", 918e12, 32e9, 1638e9, 800e9, 2),
      *(("TPU v6 lite", "TPU v6e"), 256, f"{_DOCS}/v6e"),
    ),
  )
}


def find(name: str) -> Chip:
  """Returns the chip of that name.

  Raises:
    InputError: if there is none.
  """
  if name not in CHIPS:
    raise InputError(
      f"topology={name!r}: give CHIP:SHAPE, e.g. v5e:16x16, with a chip of"
      f" {', '.join(CHIPS)}"
    )
  return CHIPS[name]


def of_device(kind: str) -> Chip | None:
  """Returns the chip that JAX calls `kind`, None if it is not in the table."""
  return next((chip for chip in CHIPS.values() if kind in chip.kinds), None)


# bf16 FLOP/s of GPUs without sparsity, by JAX's name, to compare a measured
# step with. Source: NVIDIA's data sheets of the A100, H100 SXM and H200.
GPU_FLOPS = {
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989.4e12,
  "NVIDIA H200": 989.4e12,
}


def peak_flops(kind: str) -> float | None:
  """Returns the bf16 FLOP/s of the device that JAX calls `kind`, or None."""
  chip = of_device(kind)
  return chip.flops if chip else GPU_FLOPS.get(kind)


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of a pod, or several slices joined by the data centre's network."""

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def count(self) -> int:
    """Number of chips in all slices."""
    return math.prod(self.shape) * self.slices

  @property
  def one(self) -> str:
    """The compiler's name for one slice."""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  def __str__(self) -> str:
    """Returns it as the flag takes it, e.g. "v5e:16x16" or "v5e:16x16*4"."""
    return self.one + (f"*{self.slices}" if self.slices > 1 else "")


def parse(text: str) -> Topology:
  """Reads "v5e:16x16", "v5e:16x16*4" for four such slices, or "v5e:256".

  A number of chips alone means the slice, or slices, with the most equal sides.

  Raises:
    InputError: if the chip is unknown, or has no slice of this shape.
  """
  name, _, rest = text.partition(":")
  chip = find(name)
  shape, _, slices = rest.partition("*")
  try:
    sides = tuple(int(side) for side in shape.split("x"))
    number = int(slices or 1)
  except ValueError:
    sides, number = (), 1
  if len(sides) == 1 and sides[0] > 0 and not slices:
    return squarest(chip, sides[0])
  usual = squarest(chip, 64)
  if len(sides) != chip.axes or min(*sides, number) < 1:
    raise InputError(
      f"topology={text!r}: {name} comes in {chip.axes} dimensions, e.g. {usual}"
    )
  if math.prod(sides) > chip.largest:
    raise InputError(
      f"topology={text!r}: the largest slice of {name} has {chip.largest}"
      f" chips; several are joined as in {squarest(chip, chip.largest)}*2"
    )
  return Topology(chip, sides, number)


def squarest(chip: Chip, count: int) -> Topology:
  """Returns the slice of `count` chips whose sides differ least.

  If the largest slice has fewer chips, the result is several of these slices.

  Raises:
    InputError: if `count` is no power of two.
  """
  if count < 1 or count & (count - 1):
    raise InputError(
      f"{count} chips of {chip.name}: choose a power of two, or give the shape"
    )
  largest = 2 ** int(math.log2(chip.largest))
  slices = max(1, count // largest)
  exponent = (count // slices).bit_length() - 1
  # The first axes are the shorter ones, as in 4x8, but for 2x2x1.
  sides = [2 ** ((exponent + i) // chip.axes) for i in range(chip.axes)]
  if chip.axes == 3 and count < 8:
    sides.reverse()
  return Topology(chip, tuple(sides), slices)
