"""How the embedded data set draws grounds, things and light.

Everything is float64 NumPy on a canvas of `SIDE` pixels, and a function of the
random generator it is given: see `shapes` for what is drawn where.
"""

import colorsys
from collections.abc import Callable

import numpy as np

SIDE = 96  # pixels
THINGS = (
  "ball",
  "box",
  "tent",
  "star",
  "ring",
  "cross",
  "moon",
  "heart",
  "kite",
  "leaf",
  "arrow",
  "flower",
)
GROUNDS = ("grass", "sand", "water", "snow", "bricks", "wood")
CLASS_NAMES = THINGS + GROUNDS

# Grounds: base colour, strength of the texture, texture in about [-1, 1].


def _noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> np.ndarray:
  """Smooth noise in [-1, 1]: a random grid, interpolated linearly."""
  grid = rng.uniform(-1, 1, (cells_y + 1, cells_x + 1))
  y = np.linspace(0, cells_y, SIDE, endpoint=False)
  x = np.linspace(0, cells_x, SIDE, endpoint=False)
  y0, x0 = y.astype(int), x.astype(int)
  fy, fx = (y - y0)[:, None], (x - x0)[None, :]
  top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
  bottom = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
  return top * (1 - fy) + bottom * fy


def _bricks(rng: np.random.Generator) -> np.ndarray:
  height, width = int(rng.integers(8, 12)), int(rng.integers(14, 22))
  y, x = np.mgrid[0:SIDE, 0:SIDE]
  y, x = y + rng.integers(height), x + rng.integers(width)
  row = y // height
  x = x + (row % 2) * (width // 2)
  mortar = (y % height < 2) | (x % width < 2)
  return np.where(mortar, 1.0, -0.2) + 0.2 * _noise(rng, 12, 8)


def _water(rng: np.random.Generator) -> np.ndarray:
  y = np.mgrid[0:SIDE, 0:SIDE][0]
  length = rng.uniform(7, 12)
  phase = 2.5 * _noise(rng, 3, 4) + rng.uniform(0, 6.28)
  return 0.6 * np.sin(2 * np.pi * y / length + phase) + 0.3 * _noise(rng, 24, 8)


def _wood(rng: np.random.Generator) -> np.ndarray:
  x = np.mgrid[0:SIDE, 0:SIDE][1]
  length = rng.uniform(9, 16)
  phase = 2.0 * _noise(rng, 2, 5) + rng.uniform(0, 6.28)
  return 0.5 * np.sin(2 * np.pi * x / length + phase) + 0.5 * _noise(rng, 3, 48)


_GROUND_LOOKS: dict[
  str,
  tuple[
    tuple[float, float, float],
    float,
    Callable[[np.random.Generator], np.ndarray],
  ],
] = {
  "grass": ((0.27, 0.55, 0.18), 0.16, lambda rng: _noise(rng, 16, 48)),
  "sand": ((0.84, 0.74, 0.50), 0.09, lambda rng: _noise(rng, 48, 48)),
  "water": ((0.16, 0.42, 0.72), 0.14, _water),
  "snow": ((0.92, 0.94, 0.97), 0.04, lambda rng: _noise(rng, 6, 6)),
  "bricks": ((0.62, 0.30, 0.22), 0.16, _bricks),
  "wood": ((0.48, 0.33, 0.18), 0.12, _wood),
}


def draw_grounds(
  rng: np.random.Generator, grounds: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns a canvas float [96,96,3], labels, and mean colours per ground."""
  canvas = np.zeros((SIDE, SIDE, 3))
  color = np.zeros((SIDE, SIDE, 3))
  labels = np.zeros((SIDE, SIDE), np.uint8)
  # Two grounds meet at a wavy line, level or upright.
  border = SIDE * rng.uniform(0.35, 0.65)
  wave = rng.uniform(2, 6) * np.sin(
    np.arange(SIDE) * rng.uniform(0.03, 0.12) + rng.uniform(0, 6.28)
  )
  upright = rng.random() < 0.5
  second = np.arange(SIDE)[:, None] > (border + wave)[None, :]
  second = second.T if upright else second
  for place, name in enumerate(grounds):
    base, strength, texture = _GROUND_LOOKS[name]
    shade = np.asarray(base) * rng.uniform(0.85, 1.15)
    shade = np.clip(shade + rng.uniform(-0.05, 0.05, 3), 0, 1)
    drawn = shade + strength * texture(rng)[..., None]
    where = second if place else np.ones((SIDE, SIDE), bool)
    canvas[where] = drawn[where]
    color[where] = shade
    labels[where] = CLASS_NAMES.index(name)
  return canvas, labels, color


# Things: which points (u, v) of the square [-1, 1] are inside; v runs down.


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  angle = np.mod(np.arctan2(u, -v), 2 * np.pi / 5) - np.pi / 5
  # Edges run from a tip (radius 1) to an inner corner (radius 0.42).
  tip = np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
  radius = np.hypot(u, v)
  x, y = radius * np.cos(angle), radius * np.abs(np.sin(angle))
  dx, dy = tip[0] - 0.42, tip[1]
  return (x - 0.42) * dy - y * dx <= 0


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  x, y = u * 1.2, -v * 1.15 + 0.12
  return (x * x + y * y - 0.9) ** 3 - 1.6 * x * x * y**3 <= 0


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return (u * u + v * v <= 1) & ((u - 0.55) ** 2 + v * v > 0.72)


def _flower(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  petals = np.zeros(u.shape, bool)
  for angle in np.arange(6) * np.pi / 3:
    x, y = 0.64 * np.cos(angle), 0.64 * np.sin(angle)
    petals |= (u - x) ** 2 + (v - y) ** 2 <= 0.33**2
  return petals | (u * u + v * v <= 0.4**2)


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  head = (u >= 0) & (np.abs(v) <= 0.85 * (1 - u))
  return head | ((u >= -1) & (u <= 0) & (np.abs(v) <= 0.3))


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "ball": lambda u, v: u * u + v * v <= 1,
  "box": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.86,
  "tent": lambda u, v: (v <= 0.75) & (np.abs(u) <= 0.56 * (v + 1)),
  "star": _star,
  "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.5**2),
  "cross": lambda u, v: (
    (np.minimum(np.abs(u), np.abs(v)) <= 0.3)
    & (np.maximum(np.abs(u), np.abs(v)) <= 0.95)
  ),
  "moon": _moon,
  "heart": _heart,
  "kite": lambda u, v: np.abs(u) / 0.6 + np.abs(v) <= 1,
  "leaf": lambda u, v: (
    ((u + 0.65) ** 2 + v * v <= 1.19**2) & ((u - 0.65) ** 2 + v * v <= 1.19**2)
  ),
  "arrow": _arrow,
  "flower": _flower,
}
_TEXTURES = ("flat", "stripes", "dots", "checks", "shaded")


def _texture(
  rng: np.random.Generator, name: str, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
  """Brightness factor of a thing's surface, in [0.75, 1]."""
  if name == "flat":
    return np.ones(u.shape)
  if name == "shaded":
    return 0.875 + 0.125 * np.clip(u * 0.7 - v * 0.7, -1, 1)
  turn = rng.uniform(0, np.pi)
  s = u * np.cos(turn) + v * np.sin(turn)
  t = v * np.cos(turn) - u * np.sin(turn)
  pitch = rng.uniform(0.5, 0.8)
  if name == "stripes":
    return np.where(np.mod(s, pitch) < pitch / 2, 1.0, 0.75)
  if name == "checks":
    odd = (np.floor(s / pitch * 2) + np.floor(t / pitch * 2)) % 2
    return np.where(odd > 0, 1.0, 0.75)
  dot_s, dot_t = np.mod(s, pitch) - pitch / 2, np.mod(t, pitch) - pitch / 2
  return np.where(dot_s**2 + dot_t**2 < (0.3 * pitch) ** 2, 0.75, 1.0)


def _look(
  rng: np.random.Generator, thing: int, ground: np.ndarray, hard: bool
) -> tuple[np.ndarray, str]:
  """Draws a thing's colour, apart from its ground's, and its texture."""
  color = np.zeros(3)
  for _ in range(50):
    if hard:
      hue, saturation = rng.random(), rng.uniform(0.0, 1.0)
      value = rng.uniform(0.2, 1.0)
    else:
      hue = (thing / len(THINGS) + rng.normal(0, 0.035)) % 1.0
      saturation, value = rng.uniform(0.65, 1.0), rng.uniform(0.55, 1.0)
    color = np.asarray(colorsys.hsv_to_rgb(hue, saturation, value))
    if np.linalg.norm(color - ground) >= 0.35:
      break
  if hard or rng.random() < 0.3:
    texture = _TEXTURES[rng.integers(len(_TEXTURES))]
  else:
    texture = _TEXTURES[thing % len(_TEXTURES)]
  return color, texture


def draw_things(
  rng: np.random.Generator,
  canvas: np.ndarray,
  labels: np.ndarray,
  things: tuple[str, ...],
  ground_color: np.ndarray,
  hard: bool,
) -> None:
  """Draws each thing somewhere, into `canvas` and `labels` in place.

  Args:
    rng: the scene's generator.
    canvas: float [96, 96, 3].
    labels: uint8 [96, 96], indices of `CLASS_NAMES`.
    things: names, of `THINGS`.
    ground_color: float [96, 96, 3], which things keep their distance from.
    hard: colour and texture at random instead of leaning to the thing's own.
  """
  placed: list[tuple[float, float, float]] = []
  for name in things:
    # Diameter from an eighth to a third of the side, uniform in area.
    radius = np.sqrt(rng.uniform((SIDE / 16) ** 2, (SIDE / 6) ** 2))
    for _ in range(100):
      y, x = rng.uniform(radius + 1, SIDE - radius - 1, 2)
      if all(np.hypot(y - b, x - a) > 0.9 * (radius + r) for b, a, r in placed):
        break
    placed.append((y, x, radius))
    ground = ground_color[int(y), int(x)]
    color, texture = _look(rng, THINGS.index(name), ground, hard)
    turn = rng.uniform(-0.45, 0.45)  # radians, about ±26°
    low_y, low_x = int(max(y - radius - 2, 0)), int(max(x - radius - 2, 0))
    high_y = int(min(y + radius + 3, SIDE))
    high_x = int(min(x + radius + 3, SIDE))
    # Three by three samples a pixel give soft edges.
    sub = (np.arange(3) + 0.5) / 3
    py = (np.arange(low_y, high_y)[:, None] + sub).reshape(-1)
    px = (np.arange(low_x, high_x)[:, None] + sub).reshape(-1)
    dy, dx = (py[:, None] - y) / radius, (px[None, :] - x) / radius
    u = dx * np.cos(turn) + dy * np.sin(turn)
    v = dy * np.cos(turn) - dx * np.sin(turn)
    inside = _OUTLINES[name](u, v)
    surface = color * _texture(rng, texture, u, v)[..., None]
    rows, cols = high_y - low_y, high_x - low_x
    inside_parts = inside.reshape(rows, 3, cols, 3)
    cover = inside_parts.mean((1, 3))
    mean = surface.reshape(rows, 3, cols, 3, 3).mean((1, 3))
    patch = canvas[low_y:high_y, low_x:high_x]
    patch += cover[..., None] * (mean - patch)
    labels[low_y:high_y, low_x:high_x][cover >= 0.5] = CLASS_NAMES.index(name)


def light(rng: np.random.Generator, canvas: np.ndarray) -> None:
  """Applies brightness, a gradient, a tint and sensor noise, in place."""
  y, x = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE - 0.5
  turn = rng.uniform(0, 2 * np.pi)
  gradient = 1 + rng.uniform(0, 0.3) * (y * np.sin(turn) + x * np.cos(turn))
  canvas *= (rng.uniform(0.75, 1.12) * gradient)[..., None]
  canvas *= rng.uniform(0.94, 1.06, 3)
  canvas += rng.normal(0, 0.012, canvas.shape)
