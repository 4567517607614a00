r"""The paper's main run with queries embedded from what lies under their masks.

    python -m sseg_jax.main --config=configs/cc26m_mask_pooled.py \
      --workdir=gs://BUCKET/cc26m_mask_pooled \
      --config.data.train=gs://BUCKET/records/cc12m,gs://BUCKET/records/cc3m,gs://BUCKET/records/redcaps

Not of the paper: its loss sees only the mean over queries, so that any query
may carry any word; features pooled under a query's own mask have seen less of
the rest. `sseg_jax.ablations` compares the two at small size. Not run here.
"""

from sseg_jax import default_config

PAIRS = 11_156_203 + 2_891_445 + 11_000_000  # as cc26m.py


def get_config():
  """Returns the configuration."""
  c = default_config.get_config()
  # 30 epochs, 2 of them warm-up (GroupViT), and 5e-4 at batch 4096, whatever
  # batch_size is.
  default_config.follow_batch(c, PAIRS)
  # DINO ViT-S/8 (§4.1), downloaded at the first start; its outputs are trained
  # at unit length, hence the cosine.
  c.pseudo_masks.generator = "dino"
  c.pseudo_masks.metric = "cosine"
  c.model.query_embedding = "mask_pooled"
  # Swin's attention windows mix within a stage; early levels have seen least of
  # what is beside a mask.
  c.model.pool_feature = "res3+res4"
  c.model.pool_masks = "pseudo"
  c.model.counted_queries = "owners"
  c.model.mean = "after"
  c.model.normalize_queries = True
  return c
