r"""The supervised row of Pascal VOC: MaskFormer with a class head.

    python -m sseg_jax.prepare --benchmark=voc --data_root=DATA --split=train \
      --out=DATA/records/voc
    python -m sseg_jax.main --config=configs/maskformer_supervised_voc.py \
      --workdir=gs://BUCKET/supervised_voc \
      --config.data.train=DATA/records/voc \
      --config.evaluate.benchmarks=voc=DATA/VOCdevkit

Any layout that `evaluate --benchmarks` reads can be prepared. The backbone
starts from ImageNet's labels, as MaskFormer's does; its file is fetched at the
first start (models/published.py).

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.05 (0.7 chip-hours), projected from cc26m.py by the number of pixels,
  not measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: VOC 81.2; it
  does not name the backbone.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_voc").unlock()
  c.self_training.background = False  # there is no teacher
  c.self_training.classes = ""
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["voc"])
  c.text.frozen = False
  c.model.head = "classes"
  c.model.num_queries = 100
  c.model.weights = "swin_s"
  # MaskFormer's schedule (detectron2's WarmupPolyLR).
  c.optim.schedule = "poly"
  c.optim.power = 0.9
  c.evaluate.image_size = 512
  c.evaluate.stride = 341
  return c
