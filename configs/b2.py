r"""B2, the paper's baseline "pseudo-mask ViT" (Table 3), on drawn pictures.

python -m sseg_jax.main --config=configs/b2.py --workdir=runs/b2
python -m sseg_jax.evaluate --system=b2 --checkpoint=runs/b2 \
  --benchmarks=runs/b2/data/plain,runs/b2/data/hard,runs/b2/data/held_out

Hardware: two CPU cores.
Hours: 0.4 (1.2 s a step, while other programs took part of both cores),
  measured.
Score: mIoU 30.4 on `plain`, 23.1 on `hard` and 23.5 on `held_out` pictures,
  measured, mean of three seeds. See configs/README.md.

Pictures, pseudo-masks, text tower, batch and steps are the quickstart's. A
small ViT from random weights takes the place of its networks, and nothing
learns masks: the tokens are averaged in each pseudo-mask, and a picture is
embedded from the mean over its pseudo-masks.
"""

from sseg_jax import config_files


def get_config():
  """Returns the configuration."""
  c = config_files.load("quickstart").unlock()
  c.model.backbone = "vit_tiny8"
  c.model.query_embedding = "segments"
  c.model.mean = "before"  # the mean, then the projection, as S-Seg
  c.loss.mask_every = 1
  c.evaluate.combiner = "hard"  # a pixel has the name of its pseudo-mask
  return c
