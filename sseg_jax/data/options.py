"""How `prepare` reads a source and writes records."""

import dataclasses

from sseg_jax.data.beam_jobs import RUNNERS
from sseg_jax.data.staging import Rules
from sseg_jax.errors import InputError

DUPLICATES = ("keep", "exact", "near")
# Fields that change no record.
HOW = ("workers", "runner", "runner_options", "overwrite", "progress")


@dataclasses.dataclass(frozen=True)
class Options:
  """How `prepare` reads a source and writes records.

  Attributes:
    kind: of the source, a key of `streams.READERS`; "auto" looks at it.
    captions: file, field or column of the captions; "auto" searches.
    val_size: number of pictures held out for validation.
    shard_size: number of records in a file.
    image_size: larger pictures are shrunk until their short side has this many
      pixels; 0 keeps every size.
    quality: of the JPEGs, 1 to 95.
    min_size: least short side of a picture, in pixels.
    max_aspect: largest ratio of long to short side; 0 takes all.
    min_words: least words of a caption.
    max_words: most words of a caption; 0 takes all.
    duplicates: "keep"; "exact" leaves out pictures of the same bytes as an
      earlier one; "near" also those that are the same to the eye.
    exclude_pictures: folders, separated by commas; pictures that are the same
      to the eye as one of theirs are left out.
    limit: most pictures, in the source's order; 0 takes all.
    seed: chooses the held-out pictures.
    workers: number of processes that convert pictures; 0 uses this process.
    runner: of Apache Beam, in place of processes of this machine; "" uses
      these.
    runner_options: flags of that runner, as a shell takes them.
    overwrite: whether finished records in OUT are replaced.
    progress: whether a terminal shows a progress bar.
  """

  kind: str = "auto"
  captions: str = "auto"
  val_size: int = 0
  shard_size: int = 1000
  image_size: int = 0
  quality: int = 95
  min_size: int = 0
  max_aspect: float = 0
  min_words: int = 0
  max_words: int = 0
  duplicates: str = "keep"
  exclude_pictures: str = ""
  limit: int = 0
  seed: int = 0
  workers: int = 0
  runner: str = ""
  runner_options: str = ""
  overwrite: bool = False
  progress: bool = False

  def __post_init__(self):
    """Raises InputError if a value is out of its range."""
    for name, low in (
      ("val_size", 0),
      ("shard_size", 1),
      ("image_size", 0),
      ("min_size", 0),
      ("min_words", 0),
      ("max_words", 0),
      ("limit", 0),
      ("workers", 0),
    ):
      if (value := getattr(self, name)) < low:
        raise InputError(f"--{name}={value}: must be at least {low}")
    if not 1 <= self.quality <= 95:
      raise InputError(f"--quality={self.quality}: must be 1 to 95")
    if not (self.max_aspect == 0 or self.max_aspect >= 1):
      raise InputError(
        f"--max_aspect={self.max_aspect}: must be at least 1, or 0 for all"
      )
    if 0 < self.max_words < self.min_words:
      raise InputError(
        f"--max_words={self.max_words}: must be at least"
        f" --min_words={self.min_words}, or 0 for all"
      )
    if self.duplicates not in DUPLICATES:
      raise InputError(
        f"--duplicates={self.duplicates}: must be {', '.join(DUPLICATES)}"
      )

    if self.runner not in ("", *RUNNERS):
      raise InputError(
        f"--runner={self.runner}: must be {', '.join(RUNNERS)}; without it this"
        " machine's processes work"
      )
    if self.runner_options and not self.runner:
      raise InputError(
        f"--runner_options={self.runner_options} has no meaning without"
        " --runner; add it, or leave this out"
      )

  @property
  def rules(self) -> Rules:
    """What the processes that convert pictures need to know."""
    return Rules(
      image_size=self.image_size,
      quality=self.quality,
      min_size=self.min_size,
      max_aspect=self.max_aspect,
      min_words=self.min_words,
      max_words=self.max_words,
      seed=self.seed,
      likeness=self.duplicates == "near" or bool(self.exclude_pictures),
    )
