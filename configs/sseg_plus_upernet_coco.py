r"""S-Seg+ with the paper's student on COCO: UperNet over MAE's ViT-B/16.

    python -m sseg_jax.main --config=configs/sseg_plus_upernet_coco.py \
      --workdir=gs://BUCKET/plus_coco \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/coco/train2017 \
      --config.evaluate.benchmarks=coco=DATA/coco

The 118,287 pictures of train2017 are labelled. MAE's weights are fetched at the
first start; their licence forbids commercial use.

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.8 (13 chip-hours), projected from 3.6e12 operations a picture and the
  chips' peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: COCO 35.7, its
  teacher 30.3.

`sseg_plus_upernet.py` says where the recipe is from.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_upernet").unlock()
  c.self_training.classes = "coco"
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["coco"])
  c.total_steps = 160_000
  return c
