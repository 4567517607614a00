"""A small model on some thousand captioned photos of your own, on a CPU.

    python -m sseg_jax.prepare --source=PHOTOS --out=records --val_size=200
    python -m sseg_jax.main --config=configs/photos.py --workdir=runs/photos

Hardware: two CPU cores.
Hours: 0.3 (beside other work on the same cores), measured.
Score: R@1 3.5 % from image to text and 3.7 % from text to image among 200
  held-out photos (chance is 0.5 %), mean of three seeds, measured on 2,384
  photos with five captions each.

The model learns which caption fits a picture, well above chance, but hardly
where the words are in it. See configs/README.md.
"""

from sseg_jax import default_config


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  c.total_steps = 1800
  c.batch_size = 64
  c.image_size = 96
  c.dtype = "float32"  # bfloat16 is for accelerators

  c.model.backbone = "conv_small"
  c.model.drop_path = 0.0
  c.model.memory = "res3"
  c.model.hidden_dim = 48
  c.model.mask_dim = 48
  c.model.num_queries = 12
  c.model.decoder_layers = 2
  c.model.num_heads = 4
  c.model.ffn_dim = 128
  c.model.dropout = 0.1
  c.model.query_embedding = "mask_pooled"
  c.model.pool_feature = "stem"
  c.model.stem_widths = (48, 96)
  c.model.stem_depths = (0, 1)
  c.model.pool_masks = "pseudo"
  c.model.pool_place = True
  c.model.region_hidden = 512
  c.model.counted_queries = "owners"
  c.model.mean = "after"
  c.model.normalize_queries = True
  c.model.embed_dim = 128
  c.model.proj_hidden = 512
  c.model.proj_norm = "ln"

  c.text.layers = 1
  c.text.width = 96
  c.text.num_heads = 2
  c.text.context_length = 32
  c.text.dropout = 0.0

  c.pseudo_masks.generator = "pixels"
  c.pseudo_masks.k = 10
  c.pseudo_masks.stride = 4
  c.pseudo_masks.position_weight = 0.5

  c.loss.mask_stride = 4
  c.loss.mask_every = 8

  c.optim.peak_lr = 1e-3
  c.optim.start_lr = 1e-5
  c.optim.end_lr = 1e-5
  c.optim.warmup_steps = 50
  c.optim.weight_decay = 0.1
  c.optim.clip_norm = 1.0

  c.data.train = "records/train"
  c.data.val = "records/val"
  c.data.crop_scale = (0.6, 1.0)
  c.data.photometric = 0.15
  c.data.word_dropout = 0.1
  c.data.shuffle_window = 512
  c.data.threads = 2

  c.log_every_steps = 50
  c.checkpoint.every_steps = 600
  c.checkpoint.keep = 2
  c.evaluate.every_steps = 600
  c.evaluate.image_size = 96
  c.evaluate.stride = 48
  c.evaluate.combiner = "smallest"
  c.evaluate.refine = "pseudo_masks"
  c.evaluate.retrieval_size = 200
  c.evaluate.retrieval_captions = 5
  return c
