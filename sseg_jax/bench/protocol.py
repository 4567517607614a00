"""A benchmark scored from its files on, against transformers' GroupViT.

Every way does all of it: decodes pictures and label maps, sees each picture at
a short side of 448 in windows every 224 pixels, averages and enlarges the
scores of 80 classes to the picture's size, and counts the pixels for twenty
background thresholds. Classes are embedded once. All weights are random, so the
scores differ; the work does not.
"""

import atexit
import io
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax import default_config, evaluation, prompts
from sseg_jax.baselines.groupvit import GroupVit
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case
from sseg_jax.benchmarks import Benchmark, folder
from sseg_jax.benchmarks.counts import CountWithBackground
from sseg_jax.inference import protocols
from sseg_jax.inference.by_protocol import ByProtocol, Windows
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import groupvit_weights, sseg

_SIZES = ((375, 500), (500, 375), (333, 500), (480, 640))  # as VOC's and COCO's
_THRESHOLD = 0.5
_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
_NAMES = prompts.CLASS_NAMES["coco"]
# Fields with --small.
_OURS: dict[str, Any] = {"backbone": "conv_small", "num_queries": 12}
_THEIRS: dict[str, Any] = {
  "depths": [1, 1, 1],
  "num_group_tokens": [8, 4, 0],
  "num_output_groups": [8, 4, 4],
}


def evaluate(small: bool) -> Case:
  """Scores a folder of pictures with 80 classes and background."""
  side = 64 if small else 448
  place = pathlib.Path(tempfile.mkdtemp(prefix="sseg_jax_bench_"))
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  sizes = ((64, 80),) if small else _SIZES
  benchmark = _drawn(place / "pictures", sizes)

  c = default_config.get_config()
  c.dtype = "float32"
  c.evaluate.update(image_size=side, stride=side // 2, refine="none")
  if small:
    c.model.update(_OURS)
    c.text.layers = 1
  ours = SSegSegmenter(*sseg.init(c, 0), c)
  module = _reference(small, side)
  module.save_pretrained(place / "groupvit")
  port = ByProtocol(
    GroupVit(groupvit_weights.load(str(place / "groupvit"))),
    protocols.own(side, side // 2, "simple"),
  )
  return Case(
    f"{len(sizes)} JPEGs and label maps of {len(_NAMES)} classes and background"
    f" to mIoU at {len(_THRESHOLDS) + 1} thresholds, {side} pixels, float32",
    {
      f"sseg_jax, S-Seg with {c.model.backbone}": lambda: _scored(
        ours, benchmark
      ),
      "sseg_jax, GroupViT": lambda: _scored(port, benchmark),
      "GroupViT, transformers (torch)": _theirs(module, benchmark, side),
    },
    images=len(sizes),
  )


def _scored(segmenter: Any, benchmark: Benchmark) -> dict[str, Any]:
  return evaluation.evaluate(
    segmenter, benchmark, threshold=_THRESHOLD, thresholds=_THRESHOLDS
  )


def _drawn(place: pathlib.Path, sizes: Any) -> folder.Folder:
  """Writes pictures of coloured blocks, and their label maps."""
  rng = np.random.default_rng(0)
  for part in ("images", "labels"):
    (place / part).mkdir(parents=True)
  names = ("background", *_NAMES)
  (place / "classes.txt").write_text("\n".join(names) + "\n")
  for i, (h, w) in enumerate(sizes):
    blocks = rng.integers(0, len(names), (6, 8))
    labels = np.kron(blocks, np.ones((-(-h // 6), -(-w // 8)), int))[:h, :w]
    Image.fromarray(labels.astype(np.uint8)).save(place / f"labels/{i}.png")
    pixels = np.stack([labels * 3, labels * 7 % 256, labels * 13 % 256], -1)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=90)
    (place / f"images/{i}.jpg").write_bytes(out.getvalue())
  return folder.Folder(place)


def _reference(small: bool, side: int) -> Any:
  torch, transformers = need("torch"), need("transformers")
  torch.manual_seed(0)
  vision = {"image_size": side, **(_THEIRS if small else {})}
  text = {"num_hidden_layers": 1} if small else {}
  config = transformers.GroupViTConfig(text_config=text, vision_config=vision)
  return transformers.GroupViTModel(config).eval()


def _theirs(
  module: Any, benchmark: folder.Folder, side: int
) -> Callable[[], Any]:
  """Returns the same with torch; reading and counting are this package's."""
  torch = need("torch")
  rng = np.random.default_rng(0)
  tokens = torch.from_numpy(rng.integers(1, 49_000, (len(_NAMES), 77)))
  protocol = protocols.own(side, side // 2, "simple")
  functional = torch.nn.functional

  class Stored(torch.nn.Module):
    """Gives the output of the text tower, which runs once."""

    def __init__(self):
      super().__init__()
      with torch.inference_mode():
        self.output = module.text_model(input_ids=tokens)

    def forward(self, *_: Any, **__: Any) -> Any:
      return self.output

  module.text_model = Stored()

  def best(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    windows = Windows.of(image.shape[0], image.shape[1], protocol)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(
      pixels, windows.resized, mode="bilinear", align_corners=False
    )
    pixels = (pixels / 255 - 0.45) / 0.226
    h, w = windows.size
    cut = [pixels[0, :, y : y + h, x : x + w] for y, x in windows.starts]
    found = module(
      input_ids=tokens, pixel_values=torch.stack(cut), output_segmentation=True
    ).segmentation_logits.softmax(1)
    found = functional.interpolate(
      found, (h, w), mode="bilinear", align_corners=False
    )
    total = torch.zeros(len(_NAMES), *windows.resized)
    visits = torch.zeros(1, *windows.resized)
    for (y, x), part in zip(windows.starts, found, strict=True):
      total[:, y : y + h, x : x + w] += part
      visits[:, y : y + h, x : x + w] += 1
    scores = functional.interpolate(
      (total / visits)[None],
      image.shape[:2],
      mode="bilinear",
      align_corners=False,
    )
    value, index = scores[0].max(0)
    return value.numpy(), index.numpy().astype(np.int32)

  def run() -> Any:
    count = CountWithBackground(benchmark, _THRESHOLD, _THRESHOLDS)
    with torch.inference_mode():
      for i in range(len(benchmark)):
        sample = benchmark[i]
        value, index = best(np.array(sample.image))
        list(count.add([sample], value[None], index[None]))
    return count.confusion(), count.of_thresholds()

  return run
