r"""B2, the baseline "pseudo-mask ViT" of the paper's Table 3, on CC12M.

    python -m sseg_jax.main --config=configs/b2_cc12m.py \
      --workdir=gs://BUCKET/b2 --config.data.train=gs://BUCKET/records/cc12m
    python -m sseg_jax.evaluate --system=b2 --checkpoint=gs://BUCKET/b2 \
      --benchmarks=voc,context,coco --data_root=DATA

A ViT's tokens are averaged in each pseudo-mask of DINO; a picture is embedded
from the mean over its pseudo-masks, projected, and compared with its caption.
At test each pseudo-mask is projected and named. Everything else is cc12m.py's.

Hardware: 256 TPU v5e chips (16x16), 16 pictures a chip; or any number of GPUs
  or TPU chips that divides the batch.
Hours: 0.13 (34 chip-hours), projected from 7.2e10 operations a picture and the
  chips' peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU with background that the paper reports:
  VOC 23.2, Context 11.0, COCO 10.4. It does not say the size of the ViT.
"""

from sseg_jax import config_files


def get_config():
  """Returns the configuration."""
  c = config_files.load("cc12m").unlock()
  c.model.backbone = "vit_s16"
  c.model.query_embedding = "segments"
  c.evaluate.refine = "pseudo_masks"  # the masks at test
  c.evaluate.combiner = "hard"  # a pixel has the name of its pseudo-mask
  return c
