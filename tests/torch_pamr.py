"""PAMR in torch, written for tests alone: by convolutions, not by slices."""

import torch
from torch.nn import functional as F


def taps(with_center: bool) -> torch.Tensor:
  """Returns kernels [8 or 9, 1, 3, 3] that have 1 at one tap each."""
  kernels = torch.eye(9).reshape(9, 1, 3, 3)
  return kernels if with_center else kernels[[0, 1, 2, 3, 5, 6, 7, 8]]


def at_taps(x, dilations, with_center):
  """Returns [c, taps of all dilations, h, w] of x [c, h, w]."""
  found = []
  for d in dilations:
    padded = F.pad(x[:, None], [d] * 4, mode="replicate")
    found.append(F.conv2d(padded, taps(with_center).to(x), dilation=d))
  return torch.cat(found, 1)


def pamr(image, maps, dilations=(1, 2, 4, 8, 12, 24), iterations=10):
  """Refines maps [c, h, w] by a picture [d, h, w]."""
  std = at_taps(image, dilations, True).std(1, keepdim=True)
  difference = (image[:, None] - at_taps(image, dilations, False)).abs()
  weights = (-difference / (1e-8 + 0.1 * std)).mean(0).softmax(0)
  for _ in range(iterations):
    maps = (at_taps(maps, dilations, False) * weights).sum(1)
  return maps


def refined(window, scores):
  """What TCL does with a window [h, w, 3] and its scores [h, w, c]."""
  h, w, _ = scores.shape
  size = (-(-h // 4), -(-w // 4))
  image = window.permute(2, 0, 1)[None].float()
  image = F.interpolate(image, size, mode="bilinear", align_corners=True)
  maps = F.interpolate(scores.permute(2, 0, 1)[None], size, mode="bilinear")
  maps = pamr(image[0], maps[0])[None]
  maps = F.interpolate(maps, (h, w), mode="bilinear")
  return maps[0].permute(1, 2, 0)
