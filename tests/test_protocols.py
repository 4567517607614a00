"""Protocols against a second computation, written here in torch."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from sseg_jax import evaluate, evaluation, prompts
from sseg_jax.benchmarks import report
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError
from sseg_jax.inference import protocols
from sseg_jax.inference.by_protocol import ByProtocol, Windows
from sseg_jax.inference.class_set import ClassSet

CLASSES = 5


def window_scores(window):
  """Fixed score maps in [0, 1] that depend on the pixels and on the place."""
  y, x = np.mgrid[: window.shape[0], : window.shape[1]]
  waves = [
    np.sin(window[..., c % 3] / (20 + 9 * c) + y / (31 + c) - x / 57)
    for c in range(CLASSES)
  ]
  return (0.5 + 0.5 * np.stack(waves, -1)).astype(np.float32)


class Waves:
  """A system with fixed score maps."""

  def score_windows(self, windows, class_set):
    assert len(class_set.names) == CLASSES
    return np.stack([window_scores(window) for window in windows])


class Listed:
  """A benchmark from arrays."""

  def __init__(self, samples, *, has_background=True, classes=CLASSES):
    self.name = "listed"
    self.class_names = tuple(f"class {i}" for i in range(classes))
    self.has_background, self.split = has_background, None
    self._samples = samples

  def __len__(self):
    return len(self._samples)

  def __getitem__(self, index):
    return self._samples[index]


def pictures():
  """Usual sizes, one pixel, and 1:20; labels with ignored pixels."""
  rng = np.random.default_rng(0)
  for i, (h, w) in enumerate([(60, 80), (90, 61), (1, 1), (20, 400)]):
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((w, h)))
    # Class 4 never occurs as a label.
    labels = rng.integers(0, CLASSES, (h, w))
    labels[rng.random((h, w)) < 0.1] = 255
    yield Sample(str(i), image, labels.astype(np.int32))


def reference_maps(image, protocol, threshold=None):
  """PROTOCOL: resize, windows, background, average, resize."""
  torch = pytest.importorskip("torch")
  resize = torch.nn.functional.interpolate
  h, w, _ = image.shape
  side = protocol.short_side
  if protocol.keeps_ratio:
    factor = min(protocol.long_side / max(h, w), side / min(h, w))
    size = int(h * factor + 0.5), int(w * factor + 0.5)
    crop, stride = protocol.window, protocol.stride
  else:
    size, crop, stride = (side, side), side, side
  image = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
  image = resize(image, size=size, mode="bilinear", align_corners=False)
  extra = threshold is not None
  total = torch.zeros((1, CLASSES + extra, *size))
  visits = torch.zeros((1, 1, *size))
  rows = max(size[0] - crop + stride - 1, 0) // stride + 1
  columns = max(size[1] - crop + stride - 1, 0) // stride + 1
  for i in range(rows):
    for j in range(columns):
      y2, x2 = min(i * stride + crop, size[0]), min(j * stride + crop, size[1])
      y1, x1 = max(y2 - crop, 0), max(x2 - crop, 0)
      window = image[0, :, y1:y2, x1:x2].permute(1, 2, 0).numpy()
      score = torch.from_numpy(window_scores(window))
      if protocol.pamr:
        import torch_pamr

        score = torch_pamr.refined(torch.from_numpy(window), score)
      score = score.permute(2, 0, 1)
      if extra and protocol.rule == "window":
        best = score.max(0, keepdim=True)[0]
        bound = min(torch.tensor(threshold), score.max())
        score = torch.cat([(best < bound).float(), score])
      elif extra:
        score = torch.cat([torch.full_like(score[:1], threshold), score])
      total[0, :, y1:y2, x1:x2] += score
      visits[0, :, y1:y2, x1:x2] += 1
  return resize(total / visits, size=(h, w), mode="bilinear")[0]


def reference(sample, protocol, threshold, has_background):
  """Returns the labels: the highest map wins."""
  torch = pytest.importorskip("torch")
  extra = has_background and protocol.rule != "picture"
  maps = reference_maps(sample.image, protocol, threshold if extra else None)
  labels = maps.argmax(0)
  if has_background and not extra:
    best = maps.max(0)[0]
    labels = torch.where(
      best >= min(threshold, float(best.max())), labels + 1, 0
    )
  return labels.numpy()


def mean_iou(pairs, classes):
  inter, union = np.zeros(classes), np.zeros(classes)
  for labels, predicted in pairs:
    kept = labels != 255
    for c in range(classes):
      a, b = labels[kept] == c, predicted[kept] == c
      inter[c] += (a & b).sum()
      union[c] += (a | b).sum()
  return 100 * np.mean(inter[union > 0] / union[union > 0])


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] if protocol.pamr else [])
    for name, protocol in protocols.PROTOCOLS.items()
  ],
)
@pytest.mark.parametrize("has_background", [True, False])
def test_equals_a_second_computation(name, has_background):
  # Smaller than the real one, so that a picture has many windows.
  protocol = dataclasses.replace(
    protocols.find(name), short_side=48, window=48, stride=24
  )
  samples = list(pictures())
  segmenter = ByProtocol(Waves(), protocol)
  found = {}
  threshold = 0.9
  result = evaluation.evaluate(
    segmenter,
    Listed(samples, has_background=has_background),
    threshold=threshold,
    thresholds=(0.7,) if has_background else None,
    observe=lambda s, labels: found.update({s.id: labels}),
  )
  expected = {
    s.id: reference(s, protocol, threshold, has_background) for s in samples
  }
  pixels = sum(s.labels.size for s in samples)
  differ = sum(int((found[k] != expected[k]).sum()) for k in expected)
  # Two ways to add up round differently where two classes are equal.
  assert differ <= 1e-4 * pixels
  if differ == 0:
    pairs = [(s.labels, expected[s.id]) for s in samples]
    miou = mean_iou(pairs, CLASSES + has_background)
    assert result["mIoU"] == pytest.approx(miou, abs=0.0051)
  assert result["protocol"] == name
  if has_background:
    assert {0} < set(
      np.unique(np.concatenate([*map(np.ravel, found.values())]))
    )
    at_07 = {s.id: reference(s, protocol, 0.7, True) for s in samples}
    pairs = [(s.labels, at_07[s.id]) for s in samples]
    curve = {p["threshold"]: p["mIoU"] for p in result["curve"]}
    assert curve[0.7] == pytest.approx(mean_iou(pairs, CLASSES + 1), abs=0.02)


def test_windows_of_the_named_protocols():
  groupvit, square = protocols.find("groupvit"), protocols.find("square448")
  found = Windows.of(375, 500, groupvit)
  assert found.resized == (448, 597) and found.size == (448, 448)
  assert found.starts == ((0, 0), (0, 149))
  # The long side ends at 2048, so the window is as low as the picture.
  found = Windows.of(100, 2000, groupvit)
  assert found.resized == (102, 2048) and found.size == (102, 448)
  assert [x for _, x in found.starts][-2:] == [1568, 1600]
  # MaskCLIP sees a picture whole; Context's long side is 520.
  found = Windows.of(375, 500, protocols.find("maskclip"))
  assert found.resized == found.size == (512, 683)
  found = Windows.of(375, 500, protocols.find("maskclip_context"))
  assert found.resized == found.size == (390, 520)
  assert found.starts == ((0, 0),)
  found = Windows.of(375, 500, square)
  assert found.resized == found.size == (448, 448)


@pytest.mark.slow
@pytest.mark.parametrize("pamr", [False, True])
def test_views_are_averaged_as_a_second_computation_says(pamr):
  scales = (0.75, 1.0, 1.5)
  several = protocols.own(48, 24, "simple", pamr=pamr, flip=True, scales=scales)
  assert several.name == ("own_pamr_views" if pamr else "own_views")
  assert "scales 0.75, 1, 1.5, each also mirrored" in several.line()
  # As it comes back from result.json.
  stored = protocols.Protocol(**json.loads(json.dumps(several.settings())))
  assert stored.line() == several.line()
  segmenter = ByProtocol(Waves(), several)
  class_set = ClassSet(tuple("abcde"), ("{}",))
  # PAMR divides by the colours' deviation, which one pixel does not have.
  for sample in list(pictures())[: 2 if pamr else None]:
    wanted = 0
    for scale in scales:
      one = protocols.own(48, 24, "simple", pamr=pamr)
      one = dataclasses.replace(
        one, short_side=round(48 * scale), long_side=round(2048 * scale)
      )
      for mirrored in (False, True):
        image = sample.image[:, ::-1] if mirrored else sample.image
        maps = reference_maps(image, one).permute(1, 2, 0).numpy()
        wanted = wanted + (maps[:, ::-1] if mirrored else maps)
    found = segmenter.scores(sample.image, class_set)
    np.testing.assert_allclose(found, wanted / 6, atol=2e-5)
    alone = ByProtocol(Waves(), protocols.own(48, 24, "simple", pamr=pamr))
    assert np.abs(found - alone.scores(sample.image, class_set)).max() > 0.01


def test_background_that_windows_decide_has_one_view():
  several = dataclasses.replace(protocols.find("tcl"), flip=True)
  with pytest.raises(ValueError, match="the rule constant has one view"):
    ByProtocol(Waves(), several)


def test_names_templates_and_thresholds():
  groupvit, tcl = protocols.find("groupvit"), protocols.find("tcl")
  assert groupvit.threshold("context") == 0.35
  assert groupvit.threshold("mine") is None
  assert tcl.threshold("mine") == 0.5 and tcl.templates == "custom"
  assert groupvit.names_of("voc20") == "voc"
  assert tcl.names_of("context59") == "context_original"
  assert tcl.names_of("mine") is None
  own = protocols.find("maskclip")
  assert own.names_of("voc20") == "voc_maskclip"
  assert prompts.CLASS_NAMES["voc_maskclip"][-1] == "tv monitor"
  assert "short side 512, long side at most 2048, seen whole" in own.line()
  refined = protocols.find("tcl_pamr")
  assert refined.threshold("voc") == 0.4 and refined.pamr
  assert "PAMR" in refined.line() and "PAMR" not in tcl.line()
  with pytest.raises(InputError, match="unknown; use one of groupvit, tcl"):
    protocols.find("GroupVit")


def test_scores_of_two_protocols_never_share_a_table():
  row = {
    **dict(mIoU=50.0, pixel_accuracy=60.0, images=2, images_per_second=1.0),
    **dict(threshold=None, threshold_source=None, per_class={}),
  }
  results = {
    name: row
    | {"protocol": kind, "protocol_settings": protocols.find(kind).settings()}
    for name, kind in (("a", "tcl"), ("b", "groupvit"), ("c", "tcl"))
  }
  # As they come back from result.json.
  tables = report.summary(json.loads(json.dumps(results))).split("\n\n")
  assert [t.split(":")[0] for t in tables] == [
    "protocol tcl",
    "protocol groupvit",
  ]
  first = [line.split()[0] for line in tables[0].splitlines()[-2:]]
  assert first == ["a", "c"] and tables[1].splitlines()[-1].startswith("b")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--protocol=x"], "protocol='x' is unknown; use one of groupvit"),
    (["--protocol=tcl", "--templates=full"], "--templates: protocol=tcl fixes"),
    (
      ["--protocol=groupvit", "--classes=voc", "--image_size=32"],
      "--classes, --image_size: protocol=groupvit fixes",
    ),
    (
      ["--protocol=tcl", "--choose_threshold_split=train"],
      "--choose_threshold_split: protocol=tcl fixes",
    ),
    (["--protocol=tcl", "--background_threshold=0.4"], "has 0.5 for pets"),
    (["--protocol=tcl", "--pamr"], "--pamr: protocol=tcl fixes this"),
    (
      ["--protocol=tcl", "--flip", "--scales=1,2"],
      "--flip, --scales: protocol=tcl fixes this",
    ),
    (["--scales=0.5,1,9"], "scales=0.5,1,9: give different numbers from 0.25"),
    (["--scales=1,1"], "scales=1,1: give different numbers"),
    (["--words_report", "--flip"], "leave --benchmarks, --flip out"),
    (["--oracle", "--pamr"], "--checkpoint, --pamr: belongs to scores of"),
    (["--protocol=groupvit"], "no background threshold for pets; add"),
  ],
)
def test_conflicts_are_one_line(flags, message, tmp_path, capsys):
  root = tmp_path / "pets"
  (root / "images").mkdir(parents=True)
  (root / "labels").mkdir()
  (root / "classes.txt").write_text("background\ncat\n")
  pixels = np.zeros((8, 8, 3), np.uint8)
  Image.fromarray(pixels).save(root / "images" / "a.png")
  Image.fromarray(pixels[..., 0]).save(root / "labels" / "a.png")
  argv = ["--checkpoint=none", f"--benchmarks={root}", *flags]
  assert evaluate.main(argv) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
