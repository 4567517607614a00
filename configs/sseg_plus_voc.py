r"""S-Seg+ on Pascal VOC: a student learns a teacher's labels of VOC train.

    python -m sseg_jax.main --config=configs/sseg_plus_voc.py \
      --workdir=gs://BUCKET/plus_voc \
      --config.self_training.teacher=gs://BUCKET/cc26m \
      --config.self_training.pictures=DATA/VOCdevkit/VOC2012/JPEGImages \
      --config.self_training.names=TRAINAUG.txt \
      --config.evaluate.benchmarks=voc=DATA/VOCdevkit

TRAINAUG.txt has the names of the 10,582 pictures of "trainaug"; VOC's own
ImageSets/Segmentation/train.txt has 1,464. Score the teacher with `evaluate`
first: that stores its background threshold.

Hardware: 16 TPU v5e chips (4x4), one picture a chip.
Hours: 0.05 (0.7 chip-hours), projected from cc26m.py by the number of pixels,
  not measured: the least time that the chips allow; a real run takes longer.
Score: no score: has not been run. mIoU that the paper reports: VOC 62.0,
  its teacher 53.2. Its student is another network, an UperNet with a ViT.

The student is a MaskFormer that knows classes by the embeddings of their names,
so it takes other words as well.
"""

from sseg_jax import default_config


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  c.task = "supervised"
  # MaskFormer's recipe with Swin-S (configs/ade20k-150/swin), but for the
  # number of steps, mmsegmentation's for VOC, and a cosine for its polynomial.
  c.total_steps = 40_000
  c.batch_size = 16
  c.image_size = 512
  c.optim.peak_lr = 6e-5
  c.optim.start_lr = 6e-11
  c.optim.end_lr = 0.0
  c.optim.warmup_steps = 1500
  c.optim.weight_decay = 0.01
  c.optim.clip_norm = 0.01
  c.model.drop_path = 0.3
  c.data.lanes = 16
  c.data.crop_scale = (0.25, 1.0)
  # The words keep their meaning: only the image side learns.
  c.text.frozen = True
  c.pseudo_masks.k = 16  # classes of a picture, background included
  c.evaluate.every_steps = 0
  c.self_training.classes = "voc"
  c.self_training.background = True
  return c
