r"""S-Seg+ on COCO: a student learns from a teacher's labels.

    python -m sseg_jax.main --config=configs/sseg_plus_coco.py \
      --workdir=gs://BUCKET/plus_coco \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/coco/train2017 \
      --config.evaluate.benchmarks=coco=DATA/coco

The 118,287 pictures of train2017 are labelled. Score the teacher with
`evaluate` first: that stores its background threshold.

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.17 (2.7 chip-hours), projected from cc26m.py by the number of pixels,
  not measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: COCO 35.7,
  its teacher 30.3. Its student is another network, an UperNet with a ViT.

`sseg_plus_voc.py` says where the recipe is from.
"""

from sseg_jax import config_files


def get_config():
  """Returns the configuration."""
  c = config_files.load("sseg_plus_voc").unlock()
  c.self_training.classes = "coco"
  c.total_steps = 160_000
  c.pseudo_masks.k = 32
  return c
