"""Label maps that anybody made, scored as the systems here are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sseg_jax import files
from sseg_jax.baselines.options import Options
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.errors import InputError
from sseg_jax.images import label_maps
from sseg_jax.inference import protocols


class Predictions:
  """A folder of PNGs, one a picture: `<id>.png` in the benchmark's own labels.

  With background, 0 is background and 1..c are the classes; else the classes
  are 0..c-1. Of several benchmarks each has a sub-folder with its name.

  Attributes:
    protocol: `protocols.MADE_ELSEWHERE`.
  """

  def __init__(self, folder: str):
    """InputError if there is no such folder."""
    self.protocol = protocols.MADE_ELSEWHERE
    self._folder = Path(files.expand(folder))
    if not self._folder.is_dir():
      raise InputError(
        f"predictions={folder}: no such folder; give one with a label PNG for"
        " each picture"
      )

  @classmethod
  def build(cls, options: Options) -> "Predictions":
    """Takes the folder of the options."""
    if not options.predictions:
      raise InputError(
        "--predictions is missing: give the folder of label PNGs"
      )
    return cls(options.predictions)

  def labels_of(
    self, samples: Sequence[Sample], benchmark: Benchmark
  ) -> Int[np.ndarray, "b h w"]:
    """Returns the labels of samples of one size.

    InputError names the file that is missing, of another size, or has a label
    that the benchmark has not.
    """
    folder = self._folder
    if (folder / benchmark.name).is_dir():
      folder = folder / benchmark.name
    count = len(benchmark.class_names) + benchmark.has_background
    labels = [self._read(folder, sample, count) for sample in samples]
    return np.stack(labels)

  def _read(self, folder: Path, sample: Sample, count: int) -> np.ndarray:
    path = folder / f"{sample.id}.png"
    if not path.is_file():
      raise InputError(
        f"{path}: the prediction of picture {sample.id} is missing"
      )
    labels = label_maps.read_labels(
      path, max_label=count - 1, size=sample.labels.shape
    )
    if (labels == label_maps.ignored_label(count)).any():
      raise InputError(
        f"{path}: has label {label_maps.ignored_label(count)}, which is for"
        f" ignored pixels of the truth; give each pixel one of 0..{count - 1}"
      )
    return labels
