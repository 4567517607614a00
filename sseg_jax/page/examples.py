"""Pictures to try the page with: scenes of the embedded data set.

No photos are part of this package, so that nobody has to ask for their rights.
"""

from pathlib import Path

from PIL import Image

from sseg_jax.data import shapes

# Scenes of the validation split, with the words that the page fills in.
_SCENES = (("plain", 0), ("plain", 7), ("hard", 0), ("held_out", 5))
_SIDE = 384  # pixels; a scene has 96


def draw(folder: Path) -> list[tuple[str, str]]:
  """Draws the examples; returns the path and the words of each."""
  folder.mkdir(parents=True, exist_ok=True)
  examples = []
  for number, (kind, index) in enumerate(_SCENES, 1):
    scene = shapes.render(kind, "val", index)
    picture = Image.fromarray(scene.image)
    path = folder / f"example_{number}.png"
    picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path)
    examples.append((str(path), ", ".join(scene.nouns)))
  return examples
