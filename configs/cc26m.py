r"""S-Seg on CC12M, CC3M and RedCaps: the paper's main row (Tables 2 and 4).

    python -m sseg_jax.main --config=configs/cc26m.py \
      --workdir=gs://BUCKET/cc26m \
      --config.data.train=gs://BUCKET/records/cc12m,gs://BUCKET/records/cc3m,gs://BUCKET/records/redcaps

Hardware: 256 TPU v5e chips (16x16), 16 pictures a chip; or any number of GPUs
  or TPU chips that divides the batch.
Hours: 0.59 (151 chip-hours), projected by `python -m sseg_jax.plan`, not
  measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports, with background:
  VOC 53.2, Context 27.9, COCO 30.3; without: 81.8, 27.2, 42.4.
"""

from sseg_jax import default_config

# What GroupViT could fetch of CC12M and CC3M, and the paper's 11 M of RedCaps.
PAIRS = 11_156_203 + 2_891_445 + 11_000_000


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
