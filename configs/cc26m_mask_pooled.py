r"""The paper's main run, with query embeddings pooled under the masks.

    python -m sseg_jax.main --config=configs/cc26m_mask_pooled.py \
      --workdir=gs://BUCKET/cc26m_mask_pooled \
      --config.data.train=gs://BUCKET/records/cc12m,gs://BUCKET/records/cc3m,gs://BUCKET/records/redcaps

Hardware: 256 TPU v5e chips (16x16), 16 pictures a chip; or any number of GPUs
  or TPU chips that divides the batch.
Hours: 0.56 (144 chip-hours), projected by `python -m sseg_jax.plan --traced
  --chips=256` from the operations of its step, not measured: the least time; a
  real run takes longer. For cc26m.py the same plan says 143 chip-hours.
Score: no score: has not been run.

This is not in the paper. The paper's loss takes only the mean over queries, so
any query can represent any word. Features pooled under a query's own mask
depend less on the rest of the picture. `sseg_jax.ablations` compares the two at
small size.
"""

from sseg_jax import default_config

PAIRS = 11_156_203 + 2_891_445 + 11_000_000  # as cc26m.py


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  # 30 epochs with 2 of warm-up (GroupViT) for every batch_size. The learning
  # rate is proportional to batch_size, 5e-4 at 4096.
  default_config.follow_batch(c, PAIRS)
  # DINO ViT-S/8 (§4.1), downloaded at the first start. The metric is cosine
  # because its outputs are trained at unit length.
  c.pseudo_masks.generator = "dino"
  c.pseudo_masks.metric = "cosine"
  c.model.query_embedding = "mask_pooled"
  # Swin's attention mixes pixels within windows in each stage, so early levels
  # depend least on pixels outside a mask.
  c.model.pool_feature = "res3+res4"
  c.model.pool_masks = "pseudo"
  c.model.counted_queries = "owners"
  c.model.mean = "after"
  c.model.normalize_queries = True
  # Features of a mask are pooled where no smaller one lies in front of it, so
  # that a pixel has the name of the smallest.
  c.evaluate.combiner = "smallest"
  return c
