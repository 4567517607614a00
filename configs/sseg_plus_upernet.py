r"""S-Seg+ with the paper's student: UperNet over MAE's ViT-B/16, on Pascal VOC.

    python -m sseg_jax.main --config=configs/sseg_plus_upernet.py \
      --workdir=gs://BUCKET/plus_voc \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/VOCdevkit/VOC2012/JPEGImages \
      --config.self_training.names=TRAINAUG.txt \
      --config.evaluate.benchmarks=voc=DATA/VOCdevkit

TRAINAUG.txt is that of `sseg_plus_voc.py`. The student knows the target's
classes alone; `sseg_plus_upernet_context.py` and `sseg_plus_upernet_coco.py`
are for the other targets. MAE's weights are fetched at the first start; their
licence forbids commercial use (models/published.py).

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.2 (3.2 chip-hours), projected from 3.6e12 operations a picture and the
  chips' peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: VOC 62.0,
  its teacher 53.2.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_voc").unlock()
  # mmsegmentation, configs/mae/upernet_mae-base_fp16_8x2_512x512_160k_ade20k.py
  # and configs/_base_/models/upernet_mae.py, but for the number of steps, which
  # is mmsegmentation's for VOC.
  c.model.head = "upernet"
  c.model.backbone = "vit_b16"
  c.model.weights = "mae_vitb16"
  c.model.hidden_dim = 768
  c.model.drop_path = 0.1
  c.optim.schedule = "poly"
  c.optim.power = 1.0
  c.optim.peak_lr = 1e-4
  c.optim.start_lr = 1e-10  # the warm-up begins at 1e-6 of the peak
  c.optim.weight_decay = 0.05
  c.optim.layer_decay = 0.65
  c.optim.clip_norm = 0.0
  c.text.frozen = False
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["voc"])
  c.self_training.start = "scratch"
  c.evaluate.image_size = 512
  c.evaluate.stride = 341
  return c
