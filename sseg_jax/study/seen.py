"""Windows that a frozen eye has seen once, for the scores of many trainings.

The eye is never trained, so what it sees in a picture is the same for each
network behind it.
"""

import hashlib
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from sseg_jax.benchmarks import Benchmark, Sample
from sseg_jax.checkpoints import named_arrays
from sseg_jax.inference.look import Look
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import sseg, teacher

_AT_ONCE = 8  # windows that the eye sees in one pass


class Seen:
  """What the eye of a config sees in windows; kept in files.

  Attributes:
    multiple: sides of windows must be multiples of it.
  """

  def __init__(self, config: Any, folder: Path):
    """Loads the eye's weights.

    Args:
      config: with `model.backbone="teacher"`, without `model.teacher_masks`.
      folder: for one file a window; made if it does not exist. It must not hold
        windows that another eye saw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder
    look = Look.build(config, "none")
    assert look.sees is not None
    self.multiple = look.multiple
    self._see = jax.jit(look.sees.see)
    self._frozen = named_arrays.on_device(teacher.load(config))
    self._kept: dict[str, teacher.Regions] = {}

  def __call__(
    self, windows: Float[np.ndarray, "v h w 3"] | UInt8[np.ndarray, "v h w 3"]
  ) -> teacher.Regions:
    """Returns the regions of windows, 0..255, as NumPy arrays."""
    names = [hashlib.sha256(x.tobytes()).hexdigest() for x in windows]
    new = {name: i for i, name in enumerate(names) if not self._read(name)}
    todo = list(new.items())
    for first in range(0, len(todo), _AT_ONCE):
      some = todo[first : first + _AT_ONCE]
      batch = np.stack([windows[i] for _, i in some])
      batch = np.pad(batch, ((0, _AT_ONCE - len(some)), *[(0, 0)] * 3))
      # One key for all, as `inference.look` has.
      keys = jnp.broadcast_to(jax.random.key(0), (_AT_ONCE,))
      found = jax.device_get(self._see(self._frozen, batch, keys))
      for row, (name, _) in enumerate(some):
        one = jax.tree.map(operator.itemgetter(row), found)
        # Its other fields are None: nothing here decodes masks.
        np.savez(self._folder / f"{name}.npz", *one[:3])
        self._kept[name] = one
    kept = [self._kept[name] for name in names]
    return jax.tree.map(lambda *x: np.stack(x), *kept)

  def _read(self, name: str) -> bool:
    path = self._folder / f"{name}.npz"
    if name not in self._kept and path.is_file():
      with np.load(path) as file:
        self._kept[name] = teacher.Regions(*(file[x] for x in file.files))
    return name in self._kept


class SeenSegmenter(SSegSegmenter):
  """A segmenter whose eye has seen the windows before."""

  def __init__(
    self,
    params: Any,
    model_state: Any,
    config: Any,
    seen: Seen,
    columns: Sequence[int] | slice = slice(None),
  ):
    """As `SSegSegmenter`.

    Args:
      params: see there.
      model_state: see there.
      config: see there.
      seen: sees windows.
      columns: those of the features that the network was trained with.
    """
    super().__init__(params, model_state, config)
    self._seen, self._columns = seen, columns
    graphdef = sseg.build(config)[0]

    def of_regions(params, model_state, regions):
      found = sseg.apply_image(
        graphdef, params, model_state, jnp.zeros(()), seen=regions
      )
      return found.mask_logits[-1], found.query_embeddings

    self._of_regions = jax.jit(of_regions)

  def _encode(self, windows):
    seen = self._seen(windows)
    regions = seen._replace(features=seen.features[..., self._columns])
    return self._of_regions(self._params, self.model_state, regions)


class Joined:
  """Two or more benchmarks of the same classes as one."""

  def __init__(self, parts: Sequence[Benchmark]):
    """Joins the benchmarks; `split` names all of theirs."""
    self._places = [(p, i) for p in parts for i in range(len(p))]
    self.name = parts[0].name
    self.class_names = parts[0].class_names
    self.has_background = parts[0].has_background
    self.split: str | None = "+".join(str(part.split) for part in parts)

  def __len__(self) -> int:
    """Number of samples."""
    return len(self._places)

  def __getitem__(self, index: int) -> Sample:
    """Reads one sample."""
    part, place = self._places[index]
    return part[place]
