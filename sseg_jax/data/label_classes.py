"""The class list of records with label maps: part of their manifest."""

from collections.abc import Sequence

from sseg_jax.data.manifest import Manifest
from sseg_jax.errors import InputError

# Key of the list in `Manifest.info`.
KEY = "classes"
# A label map of records has 8 bits, and 255 is ignored.
MOST = 255


def of(given: Sequence[str], manifests: Sequence[Manifest]) -> tuple[str, ...]:
  """Returns the names of the labels 0, 1, … of several folders of records.

  Args:
    given: `data.classes`; () takes the list of the records.
    manifests: of the folders.

  Raises:
    InputError: if a folder has another list than `given` or than the folder
      before, or if a folder has no list and none is given.
  """
  names, origin = tuple(given), "data.classes"
  for each in manifests:
    own = tuple(each.info.get(KEY, ()))
    if not own and not names:
      raise InputError(
        f"data.train={each.folder}: does not say which classes its label maps"
        " have; give data.classes, or write the records with `python -m"
        " sseg_jax.prepare --benchmark`"
      )
    if own and names and own != names:
      raise InputError(
        f"data.train={each.folder}: its label maps have"
        f" {difference(own, names)} {origin}; make the two equal"
      )
    if own and not names:
      names, origin = own, each.folder
  return names


def difference(own: Sequence[str], other: Sequence[str]) -> str:
  """Says how two unequal lists differ; the name of the other list follows."""
  for number, (a, b) in enumerate(zip(own, other, strict=False)):
    if a != b:
      return f"label {number} as {a!r}, which is {b!r} in"
  return f"{len(own)} classes, not the {len(other)} of"
