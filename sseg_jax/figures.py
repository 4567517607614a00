"""Pictures of what a model does, to look at in a notebook.

Each function returns a Pillow picture, which a notebook shows as a cell's last
value.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax.benchmarks.oracle import oracle_labels
from sseg_jax.benchmarks.sample import Benchmark, spread
from sseg_jax.errors import InputError
from sseg_jax.images import drawing
from sseg_jax.images.bar_chart import bars
from sseg_jax.images.label_maps import ignored_label
from sseg_jax.images.palette import palette
from sseg_jax.images.sheet import sheet
from sseg_jax.inference.api import Model, Segmentation


def heatmaps(result: Segmentation, *, most: int = 11) -> Image.Image:
  """Draws the picture, and the scores of each word over it.

  Args:
    result: of `Model.segment`.
    most: words that are drawn, at most: those with the largest areas.
  """
  words = sorted(result.words, key=lambda word: -result.areas[word])[:most]
  found = [(word, result.heatmap(word)) for word in words]
  return sheet([("picture", _picture(result)), *found])


def query_masks(result: Segmentation, *, most: int = 11) -> Image.Image:
  """Draws the largest masks of the network's queries, with their words.

  A title is the word that the query is closest to, and its probability.

  Args:
    result: of `Model.segment`.
    most: masks that are drawn, at most.
  """
  cells: list[tuple[str, Any]] = [("picture", _picture(result))]
  colours = dict(zip(result.names, result.colours, strict=True))
  for query in result.masks[:most]:
    painted = drawing.overlay(
      np.asarray(cells[0][1]),
      query.mask.astype(np.int32),
      np.stack([np.zeros(3, np.uint8), colours[query.name]]),
      has_background=True,
    )
    cells.append((f"{query.name} {100 * query.probability:.0f} %", painted))
  return sheet(cells)


def pseudo_masks(
  model: Model, benchmark: Benchmark, *, count: int = 4
) -> Image.Image:
  """Draws pseudo-masks beside the truth, as Figure 8 of the paper.

  A row has a picture, its pseudo-masks, the same with the label that most
  pixels of each mask have (as an oracle would name it), and the truth.

  Args:
    model: whose pseudo-masks are drawn.
    benchmark: where pictures and labels come from.
    count: number of pictures, spread evenly over the benchmark.
  """
  names = len(benchmark.class_names) + benchmark.has_background
  colours = palette(min(names, 255), has_background=benchmark.has_background)
  segment_colours = palette(255, has_background=False)
  cells = []
  for index in spread(len(benchmark), count):
    sample = benchmark[index]
    masks = model.pseudo_masks(sample.image)
    named = oracle_labels(masks, sample.labels, ignored_label(names))
    cells += [
      ("picture", sample.image),
      (
        "pseudo-masks",
        drawing.overlay(
          sample.image, masks % 255, segment_colours, has_background=False
        ),
      ),
      ("with the label of most pixels", drawing.colourize(named, colours)),
      ("truth", drawing.colourize(sample.labels, colours)),
    ]
  return sheet(cells, columns=4)


def class_scores(result: Mapping[str, Any]) -> Image.Image:
  """Draws the IoU of each class.

  Args:
    result: of `evaluation.evaluate`, or one value of
      `checkpoint_scores.run`.

  Raises:
    InputError: matplotlib is not installed.
  """
  return bars(
    result["per_class"],
    title=f"{result['benchmark']}: mIoU {result['mIoU']:.1f},"
    f" {result['images']} pictures",
    x="IoU",
    highest=100,
  )


def _picture(result: Segmentation) -> Image.Image:
  if result.image is None:
    raise InputError("this result keeps no picture; use Model.segment")
  return Image.fromarray(result.image)
