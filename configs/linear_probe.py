r"""A linear probe on drawn pictures: what the ViT of B2 knows of their classes.

    python -m sseg_jax.main --config=configs/b2.py --workdir=runs/b2
    python -m sseg_jax.main --config=configs/linear_probe.py \
      --workdir=runs/linear_probe --config.start_from=runs/b2

The ViT stays as it is. A linear map gives each of its tokens a class, and is
taught the true labels of the training pictures. Without `start_from` the tokens
are those of random weights, a floor.

Hardware: two CPU cores.
Hours: 0.03 (two minutes), measured.
Score: mIoU 35.1 on `plain`, 31.1 on `hard` and 32.4 on `held_out` pictures with
  the ViT of `b2.py` after 300 steps, measured, one seed; 32.5, 30.4 and 30.9
  with random weights. See configs/README.md.
"""

from sseg_jax import config_files
from sseg_jax.data.drawing import CLASS_NAMES


def get_config():
  """Returns the configuration."""
  c = config_files.load("quickstart").unlock()
  c.task = "supervised"
  c.total_steps = 300
  c.model.head = "linear"
  c.model.frozen = True
  c.model.backbone = "vit_tiny8"
  c.data.classes = CLASS_NAMES
  c.loss.mask_every = 1
  c.optim.peak_lr = 1e-2  # nothing but the linear map learns
  c.optim.warmup_steps = 20
  c.checkpoint.every_steps = 100
  c.evaluate.every_steps = 0
  c.evaluate.refine = "none"
  return c
