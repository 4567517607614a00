r"""S-Seg+ with the paper's student on Pascal Context: UperNet over MAE's ViT.

    python -m sseg_jax.main --config=configs/sseg_plus_upernet_context.py \
      --workdir=gs://BUCKET/plus_context \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/VOCdevkit/VOC2010/JPEGImages \
      --config.self_training.names=TRAIN.txt \
      --config.evaluate.benchmarks=context=DATA/VOCdevkit

TRAIN.txt has the names of the 4,996 training pictures. MAE's weights are
fetched at the first start; their licence forbids commercial use.

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.2 (3.2 chip-hours), projected from 3.6e12 operations a picture and the
  chips' peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: Context 30.2,
  its teacher 27.9.

`sseg_plus_upernet.py` says where the recipe is from.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_upernet").unlock()
  c.self_training.classes = "context"
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["context"])
  return c
