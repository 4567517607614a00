r"""The supervised row of Pascal Context: MaskFormer with a class head.

    python -m sseg_jax.prepare --benchmark=context --data_root=DATA \
      --split=train --out=DATA/records/context
    python -m sseg_jax.main --config=configs/maskformer_supervised_context.py \
      --workdir=gs://BUCKET/supervised_context \
      --config.data.train=DATA/records/context \
      --config.evaluate.benchmarks=context=DATA/VOCdevkit

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.05 (0.7 chip-hours), projected from cc26m.py by the number of pixels,
  not measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: Context 50.0; it
  does not name the backbone.

`maskformer_supervised_voc.py` says where the recipe is from.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("maskformer_supervised_voc").unlock()
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["context"])
  c.pseudo_masks.k = 32  # classes of a picture
  return c
