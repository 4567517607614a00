"""The variants of a config that are compared, one for each row of a table.

`ROWS` is the registry: a new row is one entry.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sseg_jax.config_files import load, overridden
from sseg_jax.errors import InputError
from sseg_jax.study.runs import Row, Run

_TABLE = ("table",)
_TABLE3 = ("table3",)
_DECODER = {
  "model.query_embedding": "decoder",
  "model.mean": "after",
  "model.counted_queries": "all",
  "model.normalize_queries": False,
  "evaluate.combiner": "mean",
  "loss.mask_every": 1,  # captions need the queries of every picture
}
# Words are read one by one, so no layer need join them.
_WORDS = {"loss.contrastive_form": "words", "text.layers": 0}
_ASKED = {**_WORDS, "loss.region_words": 1.0}
_POOLED = {"model.query_embedding": "mask_pooled"}
_BACKBONE = {**_POOLED, "loss.mask_every": 1}  # as above
# The paper's simple baselines: no network learns masks, as configs/b2.py.
_SEGMENTS = {
  "model.backbone": "vit_tiny8",
  "model.query_embedding": "segments",
  "model.mean": "before",
  "loss.mask_every": 1,
  "evaluate.combiner": "hard",
}

ROWS: dict[str, Row] = {
  "trained": Row(
    "the base config as it is", groups=("table", "ablation", "table3")
  ),
  "paper": Row(
    "the paper's embedding: mean of the decoder's features, then projected",
    {**_DECODER, "model.mean": "before"},
    ("table", "table3"),
  ),
  "clip": Row(
    "pictures and captions compared as a whole; names each picture by one word",
    {**_SEGMENTS, "pseudo_masks.k": 1},
    _TABLE3,
  ),
  "b1": Row(
    "B1 of Table 3: the row clip names each pseudo-mask by itself",
    _SEGMENTS,
    _TABLE3,
    method="b1",
    of="clip",
  ),
  "b2": Row(
    "B2 of Table 3: a ViT's tokens, averaged in pseudo-masks",
    _SEGMENTS,
    _TABLE3,
  ),
  "supervised": Row(
    "the same network taught true masks and their names",
    {"task": "supervised"},
    _TABLE,
  ),
  "supervised_regions": Row(
    "the same network taught its pseudo-masks and their true names",
    {"task": "supervised", "loss.label_regions": "pseudo_masks"},
    _TABLE,
  ),
  "untrained": Row(
    "random weights: the floor", groups=_TABLE, method="untrained"
  ),
  "global_words": Row(
    "control: the picture's best words, given to its masks by area",
    groups=_TABLE,
    method="global_words",
  ),
  "global_words_3": Row(
    "the same with the three best words, about as many as a picture has nouns",
    groups=_TABLE,
    method="global_words",
    settings={"words": 3},
  ),
  "oracle": Row(
    "pseudo-masks with oracle labels: what better words alone could reach",
    groups=_TABLE,
    method="oracle",
  ),
  "decoder_after": Row("decoder features, each query projected", _DECODER),
  "decoder_after_unit": Row(
    "the same, and all queries have unit length before the mean",
    {**_DECODER, "model.normalize_queries": True},
  ),
  "decoder_local": Row(
    "the same with one layer, so that queries exchange little",
    {**_DECODER, "model.decoder_layers": 1},
  ),
  "decoder_words": Row(
    "decoder features; each word is compared with the queries that fit it best",
    {**_DECODER, **_WORDS},
  ),
  "decoder_asked": Row(
    "the same, and each query is asked for a word of the caption",
    {**_DECODER, **_ASKED},
  ),
  "decoder_attends": Row(
    "decoder features; each caption attends to the queries",
    {**_DECODER, "loss.contrastive_form": "caption_attends"},
  ),
  "pooled_words": Row(
    "features under masks, and words as in decoder_words", _WORDS
  ),
  "pooled_asked": Row(
    "the same, and each mask is asked for a word of the caption", _ASKED
  ),
  "pooled_pixel": Row(
    "pools features of the pixel decoder, which see the whole picture",
    {**_BACKBONE, "model.pool_feature": "pixel"},
  ),
  "pooled_res2": Row(
    "pools the most local level alone",
    {**_BACKBONE, "model.pool_feature": "res2"},
  ),
  "pooled_res3": Row(
    "pools the next level alone", {**_BACKBONE, "model.pool_feature": "res3"}
  ),
  "masks_hard": Row(
    "pools under the pixels that each query wins, in training as well",
    {**_BACKBONE, "model.pool_masks": "hard"},
  ),
  "masks_soft_all": Row(
    "pools under soft masks, and counts queries that win no pixel",
    {
      **_BACKBONE,
      "model.pool_masks": "soft",
      "model.counted_queries": "all",
      "evaluate.combiner": "mean",
    },
  ),
  "no_outline": Row(
    "the outline of a mask is no input of the projection",
    {"model.pool_outline": False},
  ),
  "coarse_outline": Row(
    "the outline has cells of four pixels", {"model.pool_stride": 4}
  ),
  "no_region_layer": Row(
    "no layer joins feature and outline before the projection",
    {"model.region_hidden": 0},
  ),
  "mask_every_2": Row(
    "half of the pictures teach masks, not an eighth", {"loss.mask_every": 2}
  ),
  "no_refine": Row(
    "at test, masks are not changed to follow the clusters",
    {"evaluate.refine": "none"},
  ),
  "no_unit": Row(
    "queries keep their length in the mean",
    {"model.normalize_queries": False},
  ),
  "all_words": Row("captions keep all their words", {"data.word_dropout": 0.0}),
  "mirrored": Row("pictures are mirrored at random", {"data.flip": 0.5}),
  "mean_before": Row(
    "pooled features, but the paper's mean before the projection",
    {**_POOLED, "model.mean": "before"},
  ),
  "queries_8": Row("fewer queries", {"model.num_queries": 8}),
  "queries_24": Row("more queries", {"model.num_queries": 24}),
  "k_4": Row("fewer pseudo-masks", {"pseudo_masks.k": 4}),
  "no_merge": Row(
    "similar clusters are not merged", {"pseudo_masks.merge_distance": 0.0}
  ),
  "no_median": Row(
    "clusters are not smoothed by medians", {"pseudo_masks.median_passes": 0}
  ),
  "batch_32": Row(
    "fewer negatives; also fewer pictures, for the same number of steps",
    {"batch_size": 32, "data.lanes": 32},
  ),
  "proj_bn": Row(
    "GroupViT's batch norm in the projections", {"model.proj_norm": "bn"}
  ),
  "proj_none": Row("no norm in the projections", {"model.proj_norm": "none"}),
  "bfloat16": Row(
    "matrix products in bfloat16, as on accelerators", {"dtype": "bfloat16"}
  ),
  "text_2": Row("two layers read a caption", {"text.layers": 2}),
  "plain_only": Row(
    "no training picture is of the hard kind", {"data.shapes.hard_share": 0.0}
  ),
  "hard_only": Row(
    "all training pictures are of the hard kind",
    {"data.shapes.hard_share": 1.0},
  ),
}


def choose(names: str) -> list[str]:
  """Returns the rows that a comma-separated list of rows and groups names.

  In the order of `ROWS`, and with the row whose checkpoint another one needs.
  """
  wanted: set[str] = set()
  for name in filter(None, (n.strip() for n in names.split(","))):
    found = {r for r, row in ROWS.items() if name == r or name in row.groups}
    if not found:
      raise InputError(
        f"rows={name!r} is neither table, table3, ablation nor one of"
        f" {', '.join(ROWS)}"
      )
    wanted |= found
  if not wanted:
    raise InputError(
      "rows is empty; give table, table3, ablation or names of rows"
    )
  wanted |= {ROWS[name].needs for name in wanted} - {""}
  return [name for name in ROWS if name in wanted]


def plan(
  names: Sequence[str],
  seeds: Sequence[int],
  *,
  out: Path,
  config_path: str,
  settings: Mapping[str, Any],
) -> tuple[list[Run], dict[str, str]]:
  """Returns the runs in their order, and why rows are left out.

  The order is seed by seed, so that whole tables are finished early. Runs that
  are computed in this process come last, because this process then occupies
  the accelerator.
  """
  base = overridden(load(config_path), settings)
  runs, left_out = [], {}
  for name in names:
    row = ROWS[name]
    config = overridden(base, row.overrides)
    if row.overrides and config.to_dict() == base.to_dict():
      left_out[name] = "equals the base config"
      continue
    for seed in seeds:
      overrides = {**settings, **row.overrides, "seed": seed}
      config = overridden(base, {**row.overrides, "seed": seed})
      runs.append(Run(name, row, seed, out, config_path, config, overrides))
  order = {name: i for i, name in enumerate(ROWS)}
  runs.sort(key=lambda r: (r.row.method != "train", r.seed, order[r.name]))
  return runs, left_out
