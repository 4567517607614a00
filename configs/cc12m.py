r"""S-Seg on CC12M: the 12 M row of the paper (Fig. 12, Tables 2 and 3).

    python -m sseg_jax.main --config=configs/cc12m.py \
      --workdir=gs://BUCKET/cc12m \
      --config.data.train=gs://BUCKET/records/cc12m

Hardware: 256 TPU v5e chips (16x16), 16 pictures a chip; or any number of GPUs
  or TPU chips that divides the batch.
Hours: 0.26 (67 chip-hours), projected by `python -m sseg_jax.plan`, not
  measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU with background that the paper reports:
  VOC 44.9, Context 22.9, COCO 22.5.

`sseg_jax/default_config.py` says for each field whether its value is from the
paper or was chosen.
"""

from sseg_jax import default_config

# Of the 12.4 M pairs, those that GroupViT could fetch.
PAIRS = 11_156_203


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
