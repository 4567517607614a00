r"""Linear probe of DINO or MoCo v3 on Pascal Context (Table 2).

    python -m sseg_jax.prepare --benchmark=context --data_root=DATA \
      --split=train --out=DATA/records/context
    python -m sseg_jax.main --config=configs/linear_probe_context.py \
      --workdir=runs/probe_context \
      --config.data.train=DATA/records/context \
      --config.evaluate.benchmarks=context=DATA/VOCdevkit

Hardware: one GPU of 8 GB, or any number of GPUs or TPU chips that divides the
  batch.
Hours: 0.001 (one TPU v5e chip), projected from 9.2e9 operations a picture and
  the chip's peak, not measured: the least time; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: DINO 20.4,
  MoCo v3 21.3.

`linear_probe_voc.py` says where the recipe is from, and how to name MoCo v3.
"""

from sseg_jax import config_files, prompts


def get_config():
  """Returns the configuration."""
  c = config_files.load("linear_probe_voc").unlock()
  c.data.classes = (prompts.BACKGROUND[0], *prompts.CLASS_NAMES["context"])
  return c
