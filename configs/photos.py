"""Masks and words from some thousand captioned photos of your own, on a CPU.

    python -m sseg_jax.prepare --source=PHOTOS --out=records --val_size=200
    python -m sseg_jax.prepare --add_pseudo_masks --add_region_features \
      --records=records/train --out=regions/train --config=configs/photos.py
    python -m sseg_jax.main --config=configs/photos.py --workdir=runs/photos

Hardware: two CPU cores.
Hours: 0.23 (0.13 for the pass of the transformer, 0.10 for training), measured
  with a ViT-S/14 in place of DINO on 2,384 photos with five captions each.
  DINO ViT-S/8 has three times as many tokens and takes longer.
Score: voc20 27.7 mIoU on 75 photos of VOC and coco80 8.0 on 160 of COCO with
  synonyms, R@10 64.2 % from image to text among 200 held-out photos, measured;
  the same photos and ViT-S/14, mean of three seeds.

The method is not the paper's, which needs millions of pairs: the frozen vision
transformer that makes the pseudo-masks is the eye as well. Regions are clusters
of its tokens. A region is embedded from the features under it, each word of a
caption is compared with the regions that fit it best, and each region is asked
for a word of its caption. No CLIP, no masks made by people. See
configs/README.md.
"""

from sseg_jax import default_config


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  c.total_steps = 250
  c.batch_size = 256
  c.image_size = 224
  c.dtype = "float32"  # bfloat16 is for accelerators

  c.model.backbone = "teacher"
  c.model.teacher = "dino_vits8"
  c.model.teacher_features = "tokens+values:8+values:9+values:10"
  c.model.region_dropout = 0.2
  c.model.mean = "after"
  c.model.embed_dim = 1024
  c.model.proj_hidden = 2048
  c.model.proj_norm = "none"
  c.model.proj_heads = 4

  # Of model.teacher_masks=True alone.
  c.model.hidden_dim = 128
  c.model.mask_dim = 128
  c.model.num_queries = 16
  c.model.num_heads = 4
  c.model.ffn_dim = 512
  c.model.decoder_layers = 3
  c.loss.mask_stride = 4

  c.text.layers = 0
  c.text.width = 256
  c.text.context_length = 32
  c.text.letter_groups = 8192

  c.pseudo_masks.generator = "dino"
  c.pseudo_masks.k = 8
  c.pseudo_masks.metric = "cosine"
  c.pseudo_masks.mode = "cached"

  c.loss.contrastive_form = "words"
  c.loss.sharpness = 10.0
  c.loss.max_words = 12
  c.loss.region_words = 3.0
  c.loss.region_words_q = 0.5

  c.optim.peak_lr = 1e-3
  c.optim.start_lr = 1e-5
  c.optim.end_lr = 1e-5
  c.optim.warmup_steps = 20
  c.optim.weight_decay = 0.05
  c.optim.clip_norm = 1.0

  c.data.train = "regions/train"
  c.data.val = "records/val"
  c.data.shuffle_window = 512
  c.data.threads = 2

  c.log_every_steps = 50
  c.checkpoint.every_steps = 250
  c.checkpoint.keep = 1
  c.evaluate.every_steps = 0
  c.evaluate.image_size = 224
  c.evaluate.stride = 112
  c.evaluate.regions = 4
  c.evaluate.templates = "identity"
  c.evaluate.synonyms = "common"
  c.evaluate.retrieval_size = 200
  c.evaluate.retrieval_captions = 5
  return c
