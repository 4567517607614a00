"""Matching and mask losses as transformers' MaskFormer has them."""

import numpy as np


def reference(logits: np.ndarray, masks: list[np.ndarray]) -> dict:
  """Returns costs, assignment, losses and their gradient.

  Args:
    logits: float32 [b, n, h, w].
    masks: of each picture, float32 [m, H, W]; m may differ.
  """
  import torch
  from transformers.models.maskformer import modeling_maskformer as maskformer

  tensor = torch.tensor(logits, requires_grad=True)
  targets = [torch.tensor(m) for m in masks]
  matcher = maskformer.MaskFormerHungarianMatcher(
    cost_class=0.0, cost_mask=20.0, cost_dice=1.0
  )
  criterion = maskformer.MaskFormerLoss(
    num_labels=1, matcher=matcher, weight_dict={}, eos_coef=0.1
  )
  index = matcher(
    tensor,
    torch.zeros(*logits.shape[:2], 2),
    targets,
    [torch.zeros(len(m), dtype=torch.int64) for m in masks],
  )
  count = sum(map(len, masks))
  losses = criterion.loss_masks(tensor, targets, index, count)
  (losses["loss_dice"] + 20 * losses["loss_mask"]).backward()
  costs = []
  for one, wanted in zip(tensor.detach(), targets, strict=True):
    small = torch.nn.functional.interpolate(
      wanted[:, None], size=one.shape[-2:], mode="nearest"
    )
    pair = one.flatten(1), small.flatten(1)
    cost = 20 * maskformer.pair_wise_sigmoid_focal_loss(*pair)
    costs.append((cost + maskformer.pair_wise_dice_loss(*pair)).T.numpy())
  assigned = [np.zeros(len(m), np.int64) for m in masks]
  for mine, (queries, masks_of) in zip(assigned, index, strict=True):
    mine[masks_of.numpy()] = queries.numpy()
  return {
    "costs": costs,  # of each picture, [m, n]
    "index": assigned,  # of each picture, [m]
    "dice": losses["loss_dice"].item(),
    "focal": losses["loss_mask"].item(),
    "gradient": tensor.grad.numpy(),
  }
