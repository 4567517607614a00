r"""S-Seg on CC12M and CC3M: the 15 M row of the paper (Fig. 12).

    python -m sseg_jax.main --config=configs/cc15m.py \
      --workdir=gs://BUCKET/cc15m \
      --config.data.train=gs://BUCKET/records/cc12m,gs://BUCKET/records/cc3m

Hardware: 256 TPU v5e chips (16x16), 16 pictures a chip; or any number of GPUs
  or TPU chips that divides the batch.
Hours: 0.33 (85 chip-hours), projected by `python -m sseg_jax.plan`, not
  measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU with background, read off the paper's
  Fig. 12 by a third party: VOC 45.1, Context 23.8, COCO 27.9.
"""

from sseg_jax import default_config

# What GroupViT could fetch: 11,156,203 and 2,891,445 pairs.
PAIRS = 11_156_203 + 2_891_445


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  # 30 epochs with 2 of warm-up (GroupViT) for every batch_size. The learning
  # rate is proportional to batch_size, 5e-4 at 4096.
  default_config.follow_batch(c, PAIRS)
  # DINO ViT-S/8 (§4.1), downloaded at the first start. The metric is cosine
  # because its outputs are trained at unit length.
  c.pseudo_masks.generator = "dino"
  c.pseudo_masks.metric = "cosine"
  return c
