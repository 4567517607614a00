"""The method in minutes on a CPU: the embedded data set, from captions alone.

python -m sseg_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: two CPU cores.
Hours: 0.15 (seven to ten minutes), measured; drawing the pictures included.
Score: mIoU 80.7 on `plain`, 70.2 on `hard` and 75.2 on `held_out` pictures,
  measured, mean of three seeds. See configs/README.md.
"""

from sseg_jax import default_config


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  c.total_steps = 1200
  c.batch_size = 64
  c.image_size = 96
  c.dtype = "float32"  # bfloat16 is for accelerators

  c.model.backbone = "conv_small"
  c.model.drop_path = 0.0
  c.model.memory = "res3"  # 12x12 tokens; res5 would leave 3x3
  c.model.hidden_dim = 48
  c.model.mask_dim = 48
  c.model.num_queries = 10
  c.model.decoder_layers = 2
  c.model.num_heads = 4
  c.model.ffn_dim = 128
  c.model.dropout = 0.0
  c.model.query_embedding = "mask_pooled"
  # A stem feature depends on 12 pixels only, so on little outside a mask.
  c.model.pool_feature = "stem"
  c.model.pool_masks = "pseudo"
  c.model.pool_outline = True
  c.model.pool_stride = 1
  c.model.region_hidden = 512
  c.model.counted_queries = "owners"
  c.model.mean = "after"
  c.model.normalize_queries = True
  c.model.embed_dim = 96
  c.model.proj_hidden = 512
  c.model.proj_norm = "ln"

  c.text.layers = 1
  c.text.width = 96
  c.text.num_heads = 2
  c.text.context_length = 32

  c.pseudo_masks.generator = "pixels"
  c.pseudo_masks.k = 6
  c.pseudo_masks.stride = 1
  c.pseudo_masks.fit_every = 3
  c.pseudo_masks.iterations = 5
  c.pseudo_masks.init = "farthest"
  c.pseudo_masks.position_weight = 0.1
  # One mask per region, instead of fragments that no network could predict.
  c.pseudo_masks.median_passes = 2
  c.pseudo_masks.merge_distance = 0.14
  c.pseudo_masks.majority_passes = 1

  c.loss.focal = 5.0
  c.loss.mask_every = 8

  c.optim.peak_lr = 1e-3
  c.optim.start_lr = 1e-5
  c.optim.end_lr = 2e-5
  c.optim.warmup_steps = 50
  c.optim.weight_decay = 0.01
  c.optim.clip_norm = 5.0

  c.data.source = "shapes"
  c.data.shapes.train_size = 8192
  # Whole pictures are used, because the scenes are already composed. They are
  # not mirrored, because arrows and moons have a direction.
  c.data.flip = 0.0
  c.data.crop_scale = (1.0, 1.0)
  c.data.crop_ratio = (1.0, 1.0)
  c.data.word_dropout = 0.15
  c.data.shuffle_window = 1024
  c.data.threads = 2

  c.log_every_steps = 20
  c.checkpoint.every_steps = 400
  c.checkpoint.keep = 2
  c.evaluate.every_steps = 400
  c.evaluate.max_images = 64
  c.evaluate.image_size = 96
  c.evaluate.stride = 48
  c.evaluate.combiner = "smallest"
  c.evaluate.refine = "pseudo_masks"
  return c
