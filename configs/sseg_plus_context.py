r"""S-Seg+ on Pascal Context: a student learns from a teacher's labels.

    python -m sseg_jax.main --config=configs/sseg_plus_context.py \
      --workdir=gs://BUCKET/plus_context \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/VOCdevkit/VOC2010/JPEGImages \
      --config.self_training.names=TRAIN.txt \
      --config.evaluate.benchmarks=context=DATA/VOCdevkit

TRAIN.txt has the names of the 4,996 training pictures. Score the teacher with
`evaluate` first: that stores its background threshold.

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.05 (0.7 chip-hours), projected from cc26m.py by the number of pixels,
  not measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: Context 30.2,
  its teacher 27.9. Its student is another network, an UperNet with a ViT.

`sseg_plus_voc.py` says where the recipe is from.
"""

from sseg_jax import config_files


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_voc").unlock()
  c.self_training.classes = "context"
  # Pictures of Context have more classes than those of VOC.
  c.pseudo_masks.k = 32
  return c
