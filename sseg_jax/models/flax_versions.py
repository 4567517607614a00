"""What differs between the versions of Flax that networks are built with."""

from typing import Any

from flax import nnx

# Flax 0.12 refuses a plain list of layers and asks for `nnx.List`; before, a
# plain list was enough and there was no `nnx.List`. Parameters have the same
# names either way.
List: Any = getattr(nnx, "List", list)
