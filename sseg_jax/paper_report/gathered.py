"""What a report shows of each benchmark, gathered while it is scored."""

import base64
import heapq
import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from sseg_jax.benchmarks.miou import Confusion
from sseg_jax.benchmarks.sample import Benchmark, Sample, spread
from sseg_jax.images import bar_chart, drawing, line_chart

_PICTURES = 4  # best ones, and as many worst ones
_CONFUSED = 12  # pairs of classes that are listed
_MOST_BARS = 81  # classes in a chart


class Gathered:
  """Confusions and pictures of one benchmark; an `observe` of `evaluate`."""

  def __init__(self, benchmark: Benchmark, max_images: int = 0):
    """Starts from nothing.

    Args:
      benchmark: what is scored.
      max_images: number of pictures that are scored, spread over the benchmark;
        0 for all.
    """
    background = ("background",) if benchmark.has_background else ()
    self.names = (*background, *benchmark.class_names)
    self._benchmark = benchmark
    self._confusion = Confusion(len(self.names))
    self._scored = spread(len(benchmark), max_images)
    # Heaps of (score, order, sample, labels); the order is the number of the
    # call, and breaks ties.
    self._best: list[tuple] = []
    self._worst: list[tuple] = []
    self._calls = 0

  def __call__(self, sample: Sample, predicted: Int[np.ndarray, "h w"]) -> None:
    """Counts a picture, and keeps it if it is among the best or the worst."""
    self._confusion.add(sample.labels, predicted)
    order = self._calls
    self._calls += 1
    one = Confusion(len(self.names))
    one.add(sample.labels, predicted)
    miou = one.mean_iou()
    if not np.isfinite(miou):
      return  # no pixel has a label
    for heap, score in ((self._best, miou), (self._worst, -miou)):
      heapq.heappush(heap, (score, order, sample, predicted))
      if len(heap) > _PICTURES:
        heapq.heappop(heap)

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns what was gathered so far, for `unfinished.Unfinished`."""
    found = {
      "confusion": self._confusion.counts,
      "calls": np.array(self._calls),
    }
    for name, heap in self._heaps().items():
      for score, order, _, labels in heap:
        found[f"{name}/{order}"] = labels
        found[f"{name}_score/{order}"] = np.array(score)
    return found

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `arrays` returned, and reads the samples again."""
    counts = arrays["confusion"]
    if counts.shape != self._confusion.counts.shape:
      raise ValueError("other classes")
    self._confusion.counts = counts.copy()
    self._calls = int(arrays["calls"])
    for name, heap in self._heaps().items():
      for key in arrays:
        kind, _, order = key.partition("/")
        if kind == name:
          sample = self._benchmark[self._scored[int(order)]]
          score = float(arrays[f"{name}_score/{order}"])
          heapq.heappush(heap, (score, int(order), sample, arrays[key]))

  def _heaps(self) -> dict[str, list[tuple]]:
    return {"best": self._best, "worst": self._worst}

  def confused(self) -> list[tuple[str, str, float]]:
    """Returns (label, what was predicted, share of the label's pixels)."""
    counts = self._confusion.counts[:, :-1]
    shares = counts / np.maximum(self._confusion.counts.sum(1), 1)[:, None]
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None)[:_CONFUSED]
    pairs = [divmod(int(i), len(self.names)) for i in order]
    return [
      (self.names[i], self.names[j], round(100 * float(shares[i, j]), 1))
      for i, j in pairs
      if shares[i, j] > 0
    ]

  def as_json(self, result: dict[str, Any]) -> dict[str, Any]:
    """Returns all that the page shows of a result of `evaluation.evaluate`."""
    return {
      "result": result,
      "classes": list(self.names),
      "confusion": self._confusion.counts.tolist(),
      "confused": self.confused(),
      "pictures": {
        "iou": self._bars(result),
        "confusion": self._matrix(),
        "curve": _curve(result),
        "best": self._rows(self._best),
        "worst": self._rows(self._worst),
      },
    }

  def _bars(self, result: dict[str, Any]) -> str:
    values = dict(itertools.islice(result["per_class"].items(), _MOST_BARS))
    return _png(
      bar_chart.bars(
        values, title="IoU of each class", x="IoU (%)", highest=100.0
      )
    )

  def _matrix(self) -> str:
    counts = self._confusion.counts
    shares = counts / np.maximum(counts.sum(1), 1)[:, None]
    size = 3.2 + 0.16 * len(self.names)
    figure, axes = line_chart.axes((size + 1, size), dpi=90)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    places = np.arange(len(self.names))
    names = [name.replace("$", r"\$")[:20] for name in self.names]
    axes.set_yticks(places, names, fontsize=7)
    axes.set_xticks(
      np.arange(len(names) + 1), [*names, "(none)"], fontsize=7, rotation=90
    )
    axes.set(title="share of a label's pixels", ylabel="label")
    axes.set_xlabel("predicted")
    return _figure(figure)

  def _rows(self, heap: list[tuple]) -> list[dict[str, Any]]:
    shown = []
    for score, _, sample, predicted in sorted(heap, key=lambda x: -x[0]):
      picture = drawing.grid(
        [(sample.image, sample.labels, predicted)],
        self._benchmark.class_names,
        has_background=self._benchmark.has_background,
      )
      shown.append(
        {
          "id": sample.id,
          "mIoU": round(abs(score), 1),
          "picture": _png(Image.fromarray(picture), "JPEG"),
        }
      )
    return shown


def _curve(result: dict[str, Any]) -> str:
  points = [p for p in result.get("curve", ()) if p["mIoU"] is not None]
  if not points:
    return ""
  figure, axes = line_chart.axes((6, 3.4), dpi=100)
  axes.plot([p["threshold"] for p in points], [p["mIoU"] for p in points])
  axes.plot(result["threshold"], result["mIoU"], "o", color="black")
  axes.set(xlabel="background threshold", ylabel="mIoU")
  axes.set_title("mIoU against the threshold; the dot is the reported one")
  axes.grid(alpha=0.25)
  return _figure(figure)


def _figure(figure: Any) -> str:
  data = io.BytesIO()
  figure.savefig(data, format="png")
  return _uri(data.getvalue(), "png")


def _png(picture: Image.Image, kind: str = "PNG") -> str:
  data = io.BytesIO()
  picture.save(data, kind, **({"quality": 85} if kind == "JPEG" else {}))
  return _uri(data.getvalue(), kind.lower())


def _uri(data: bytes, kind: str) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
