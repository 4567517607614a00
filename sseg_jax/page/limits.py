"""What one visitor may ask for."""

import dataclasses

from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
  """What the page takes; more is answered with one line.

  Attributes:
    words: in one request.
    letters: of all words together.
    megapixels: of a picture as it is given.
    megabytes: of a picture's file.
    waiting: requests in the queue. Further ones are refused until it is
      shorter.
    kept: megabytes of results that are kept for the slider and the heat maps,
      of all visitors together.
  """

  words: int = 50
  letters: int = 5000
  megapixels: int = 64
  megabytes: int = 50
  waiting: int = 32
  kept: int = 256

  def __post_init__(self) -> None:
    """Raises InputError for a limit below 1."""
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise InputError(f"max_{name}={value} must be at least 1")
