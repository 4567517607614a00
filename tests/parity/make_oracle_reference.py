"""Prints the score that test_oracle_parity.py asks of the row `plain`.

    python tests/parity/make_oracle_reference.py ../shared/data

A third of the photos, by transformers, scikit-learn and Pillow, none of this
package: tokens of a ViT-S/14 at 448 px, K-means of unit vectors, and of each
segment the class that most of its pixels have.
"""

import pathlib
import sys
import warnings

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from transformers import Dinov2Config, Dinov2Model

PHOTOS, SEEDS, SIDE, CELLS, K, CLASSES = 25, 4, 448, 32, 8, 21
# Names of older files -> those of transformers 5.
RENAMED = {
  "attention.attention.query": "attention.q_proj",
  "attention.attention.key": "attention.k_proj",
  "attention.attention.value": "attention.v_proj",
  "attention.output.dense": "attention.o_proj",
}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def names(root: pathlib.Path) -> list[str]:
  """Returns every third photo of the lists `train` and `val`."""
  lists = root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
  found = [
    name
    for split in ("train", "val")
    for name in (lists / f"{split}.txt").read_text().split()
  ]
  return [found[i * len(found) // PHOTOS] for i in range(PHOTOS)]


def main(data: str) -> None:
  root = pathlib.Path(data)
  model = Dinov2Model(
    Dinov2Config(
      hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518
    )
  ).eval()
  weights = load_file(root / "weights/vit_s14_grouping.safetensors")
  for old, new in RENAMED.items():
    weights = {k.replace(old, new): v for k, v in weights.items()}
  weights["embeddings.mask_token"] = torch.zeros(1, 384)  # not used
  model.load_state_dict(weights)
  folder = root / "VOCdevkit/VOC2012"
  counts = np.zeros((SEEDS, CLASSES, CLASSES), np.int64)
  for name in names(root):
    with Image.open(folder / "JPEGImages" / f"{name}.jpg") as picture:
      image = np.asarray(
        picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
      )
    with Image.open(folder / "SegmentationClass" / f"{name}.png") as labels:
      truth = np.asarray(labels)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
      tokens = model(((pixels - MEAN) / STD)[None]).last_hidden_state[0, 1:]
    points = torch.nn.functional.normalize(tokens, dim=-1).numpy()
    for seed in range(SEEDS):
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations need not converge
        found = KMeans(K, n_init=1, max_iter=10, tol=0, random_state=seed)
        cells = found.fit(points).labels_.reshape(CELLS, CELLS)
      h, w = truth.shape
      segments = cells[
        np.arange(h)[:, None] * CELLS // h, np.arange(w) * CELLS // w
      ]
      for segment in range(K):
        inside = truth[(segments == segment) & (truth != 255)]
        if inside.size:
          count = np.bincount(inside, minlength=CLASSES)
          counts[seed, :, count.argmax()] += count
  scores = []
  for count in counts:
    hits, union = np.diag(count), count.sum(0) + count.sum(1) - np.diag(count)
    scores.append(100 * np.mean(hits[union > 0] / union[union > 0]))
  print(np.mean(scores), scores)


if __name__ == "__main__":
  main(*sys.argv[1:])
