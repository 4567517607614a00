"""The recipe of photos.py for some 100,000 captioned photos, on one GPU.

    python -m sseg_jax.prepare --source=PHOTOS --out=records --val_size=1000
    python -m sseg_jax.prepare --add_pseudo_masks --add_region_features \
      --records=records/train --out=regions/train --config=configs/photos_gpu.py
    python -m sseg_jax.main --config=configs/photos_gpu.py \
      --workdir=runs/photos_gpu

Hardware: one GPU of 8 GB or more, 16 CPU cores; 25 kB of disk a photo for the
  features of its regions, besides the photo.
Hours: 0.1 (training alone), projected, not measured. `python -m sseg_jax.plan
  --config=configs/photos_gpu.py --topology=v5e:1x1` compiles the step for one
  TPU v5e chip: at least 133 ms, 2,000 of them 4.4 minutes (6.4 if nothing
  overlaps), and 2.0 GB. That chip computes a fifth of what an H100 does; no
  step is compiled for GPUs without one. Before it, DINO sees 100,000 photos in
  20 s at the 0.00019 s that were measured on an H100; to read the photos takes
  longer.
Score: no score: has not been run.

What differs from photos.py was chosen without a run: a batch of four times as
many photos, words of twice the width, and 20 epochs.
"""

import pathlib

from sseg_jax import config_files


def get_config():
  """Returns the configuration."""
  photos = pathlib.Path(__file__).with_name("photos.py")
  c = config_files.load(photos).unlock()
  c.total_steps = 2000
  c.batch_size = 1024
  c.dtype = "bfloat16"
  c.text.width = 512
  # The cosines of all words and regions of a batch would take 400 MB, several
  # times; so a fourth of the rows is compared at once.
  c.loss.contrastive_block = 256
  c.optim.warmup_steps = 100
  c.data.shuffle_window = 4096
  c.data.threads = 8
  c.checkpoint.every_steps = 500
  c.evaluate.retrieval_size = 1000
  return c
