r"""Linear probe of DINO or MoCo v3 on Pascal VOC (Table 2).

    python -m sseg_jax.prepare --benchmark=voc --data_root=DATA --split=train \
      --out=DATA/records/voc
    python -m sseg_jax.main --config=configs/linear_probe_voc.py \
      --workdir=runs/probe_voc --config.data.train=DATA/records/voc \
      --config.evaluate.benchmarks=voc=DATA/VOCdevkit
    python -m sseg_jax.evaluate --system=linear_probe \
      --checkpoint=runs/probe_voc --benchmarks=voc --data_root=DATA

That is DINO's ViT-S/16. MoCo v3's has more heads:
--config.model.backbone=vit_s16_h12 --config.model.weights=moco_v3_vits16. The
backbone vit_s8 takes dino_vits8, and vit_s14 takes dinov2_vits14. Any
ViT with the sizes of model.backbone may be named, or its file. Weights are
fetched at the first start (models/published.py); MoCo v3's forbid commercial
use. --config.model.frozen=False trains the ViT as well, as GroupViT did for its
figures of transfer.

Hardware: one GPU of 8 GB, or any number of GPUs or TPU chips that divides the
  batch.
Hours: 0.001 (one TPU v5e chip), projected from 9.2e9 operations a picture and
  the chip's peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: DINO VOC 39.1,
  Context 20.4; MoCo v3 VOC 34.3, Context 21.3. It names neither the sizes of
  the networks nor the recipe. Steps, crops and test size are GroupViT's as far
  as they are known; the learning rate was chosen here.
"""

from sseg_jax import default_config, prompts


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  c.task = "supervised"
  c.total_steps = 4000
  c.batch_size = 16
  c.image_size = 224
  c.model.head = "linear"
  c.model.frozen = True
  c.model.backbone = "vit_s16"
  c.model.weights = "dino_vits16"
  c.model.drop_path = 0.0
  c.optim.schedule = "poly"
  c.optim.power = 0.9
  c.optim.peak_lr = 1e-3
  c.optim.start_lr = 1e-6
  c.optim.end_lr = 0.0
  c.optim.warmup_steps = 100
  c.optim.weight_decay = 0.0
  c.data.lanes = 16
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["voc"])
  c.evaluate.every_steps = 0
  return c
