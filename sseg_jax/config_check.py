"""Checks every field of a config, and the rules between fields, at once.

`check` needs no data and no devices, and runs before anything is read, drawn or
compiled. What depends on them is checked where they are known: the mesh
(`sharding`), the number of processes and the records (`data.pipeline`), the
layers of a frozen network (`pseudo_masks`).

The rules of networks and steps are in `models/fields.py` and `tasks/fields.py`.
"""

import math
from typing import Any

from sseg_jax import (
  config_files,
  default_config,
  field_rules,
  prompts,
  synonyms,
)
from sseg_jax.data import fields as data_fields
from sseg_jax.errors import InputError
from sseg_jax.field_rules import (
  LARGEST,
  NOT_NEGATIVE,
  POSITIVE,
  RATE,
  SCALES,
  SHARE,
  SWITCH,
  TEXT,
  Between,
  Rule,
  at_least,
  one_of,
  registered,
)
from sseg_jax.inference import scoring, sliding_window
from sseg_jax.models import backbones, positions
from sseg_jax.models import fields as models_fields
from sseg_jax.pseudo_masks import generator, kmeans, tokens
from sseg_jax.tasks import fields as tasks_fields


def _feature(text: str) -> bool:
  try:
    return bool(tokens.parse_features(text, 1000))
  except InputError:
    return False


def _numbers(x: Any, low: float) -> bool:
  """Returns whether these are a low and a high number, both over `low`."""
  numbers = all(type(v) in (int, float) and math.isfinite(v) for v in x)
  return len(x) == 2 and numbers and low < x[0] <= x[1]


def _class_names(names: Any) -> bool:
  if not all(isinstance(name, str) and name.strip() for name in names):
    return False
  if not names:
    return True
  try:
    prompts.without_background(tuple(names), "data.classes")
  except InputError:
    return False
  return len({name.lower() for name in names}) == len(names)


RULES: dict[str, Rule] = {
  **models_fields.RULES,
  **tasks_fields.RULES,
  "seed": Rule(lambda x: 0 <= x < 2**32, "from 0 to 4294967295"),
  "total_steps": at_least(1),
  # Its lower bound is `default_config.check_batch`.
  "batch_size": Rule(lambda x: x <= LARGEST, f"at most {LARGEST}"),
  "image_size": Rule(
    lambda x: 0 < x <= LARGEST and not x % backbones.LARGEST_STRIDE,
    f"a multiple of {backbones.LARGEST_STRIDE}, the backbone's largest stride",
  ),
  "pallas": SWITCH,
  "start_from": TEXT,
  "pseudo_masks.generator": registered(generator.GENERATORS),
  "pseudo_masks.k": at_least(1),
  "pseudo_masks.stride": at_least(1),
  "pseudo_masks.mode": one_of("online", "cached"),
  "pseudo_masks.weights": TEXT,
  "pseudo_masks.position_rule": one_of("", *positions.RULES),
  "pseudo_masks.num_heads": at_least(0),
  "pseudo_masks.scale": POSITIVE,
  "pseudo_masks.feature": Rule(
    _feature, 'kinds of features joined by +, as "tokens" or "keys:10"'
  ),
  "pseudo_masks.restarts": at_least(1),
  "pseudo_masks.smooth_radius": NOT_NEGATIVE,
  "pseudo_masks.smooth_temperature": POSITIVE,
  "pseudo_masks.upsample": at_least(1),
  "pseudo_masks.colour_steps": at_least(0),
  "pseudo_masks.iterations": at_least(1),
  "pseudo_masks.metric": one_of(*kmeans.METRICS),
  "pseudo_masks.init": one_of(*kmeans.INITS),
  "pseudo_masks.position_weight": NOT_NEGATIVE,
  "pseudo_masks.majority_passes": at_least(0),
  "pseudo_masks.merge_distance": NOT_NEGATIVE,
  "pseudo_masks.fit_every": at_least(1),
  "pseudo_masks.median_passes": at_least(0),
  "loss.mask": NOT_NEGATIVE,
  "loss.contrastive": NOT_NEGATIVE,
  "loss.dice": NOT_NEGATIVE,
  "loss.focal": NOT_NEGATIVE,
  "optim.peak_lr": POSITIVE,
  "optim.start_lr": NOT_NEGATIVE,
  "optim.end_lr": NOT_NEGATIVE,
  "optim.warmup_steps": at_least(0),
  "optim.b1": RATE,
  "optim.b2": RATE,
  "optim.eps": NOT_NEGATIVE,
  "optim.weight_decay": NOT_NEGATIVE,
  "optim.clip_norm": NOT_NEGATIVE,
  "data.source": one_of("records", "shapes"),
  "data.train": TEXT,
  "data.weights": Rule(
    lambda x: x == "" or bool(data_fields.weights(x)),
    "numbers over 0 with commas between them, one for each folder of"
    " data.train, or empty",
  ),
  "data.val": TEXT,
  "data.classes": Rule(_class_names, "texts that differ, background first"),
  "data.lanes": at_least(1),
  "data.shuffle_window": at_least(1),
  "data.crop_scale": Rule(
    lambda x: _numbers(x, 0) and x[1] <= 1, "two shares over 0, the lower first"
  ),
  "data.crop_ratio": Rule(
    lambda x: _numbers(x, 0), "two numbers over 0, the lower first"
  ),
  "data.flip": SHARE,
  "data.photometric": SHARE,
  "data.word_dropout": RATE,
  "data.max_bad_share": SHARE,
  "data.threads": at_least(1),
  "data.shapes.train_size": at_least(1),
  "data.shapes.eval_size": at_least(1),
  "data.shapes.hard_share": SHARE,
  "self_training.teacher": TEXT,
  "self_training.pictures": TEXT,
  "self_training.names": TEXT,
  "self_training.classes": TEXT,
  "self_training.background": SWITCH,
  "self_training.threshold": NOT_NEGATIVE,
  "self_training.labels": one_of("hard", "soft"),
  "self_training.flip": SWITCH,
  "self_training.scales": SCALES,
  "self_training.min_score": NOT_NEGATIVE,
  "self_training.keep_share": Rule(lambda x: 0 < x <= 1, "over 0, at most 1"),
  "self_training.class_share": Rule(lambda x: 0 < x <= 1, "over 0, at most 1"),
  "self_training.class_share_images": at_least(1),
  "self_training.start": one_of("teacher", "scratch"),
  "self_training.rounds": at_least(1),
  "self_training.batch_size": at_least(1),
  "self_training.shard_size": at_least(1),
  "mesh.data": Rule(
    lambda x: x == -1 or 1 <= x <= LARGEST, "-1, or at least 1"
  ),
  "mesh.fsdp": at_least(1),
  "checkpoint.every_steps": at_least(0),
  "checkpoint.every_minutes": NOT_NEGATIVE,
  "checkpoint.keep": at_least(1),
  "checkpoint.keep_best": at_least(0),
  "checkpoint.best_score": TEXT,
  "log_every_steps": at_least(1),
  "max_bad_steps": at_least(1),
  "watchdog_minutes": NOT_NEGATIVE,
  "evaluate.every_steps": at_least(0),
  "evaluate.benchmarks": TEXT,
  "evaluate.max_images": at_least(0),
  "evaluate.image_size": Rule(
    lambda x: 0 < x <= LARGEST and not x % sliding_window.PAD,
    f"a multiple of {sliding_window.PAD}",
  ),
  "evaluate.stride": at_least(1),
  "evaluate.regions": Rule(
    lambda x: x == 0 or 2 <= x <= 256, "0, or from 2 to 256"
  ),
  "evaluate.combiner": one_of(*scoring.COMBINERS),
  "evaluate.refine": one_of(*field_rules.REFINEMENTS),
  "evaluate.background_threshold": NOT_NEGATIVE,
  "evaluate.threshold_images": at_least(0),
  "evaluate.templates": one_of(*prompts.TEMPLATES),
  "evaluate.synonyms": one_of(*synonyms.SYNONYMS),
  "evaluate.retrieval_size": at_least(0),
  "evaluate.retrieval_captions": at_least(1),
}


# --- Rules between fields: each returns a message, or None --------------------


def _warmup(c: Any) -> str | None:
  if c.optim.warmup_steps < c.total_steps:
    return None
  return (
    f"optim.warmup_steps={c.optim.warmup_steps}: must be below"
    f" total_steps={c.total_steps}"
  )


def _queries(c: Any) -> str | None:
  if c.pseudo_masks.k <= c.model.num_queries:
    return None
  return (
    f"pseudo_masks.k={c.pseudo_masks.k} is more than"
    f" model.num_queries={c.model.num_queries}: each mask needs a query"
  )


def _self_training(c: Any) -> str | None:
  teacher = c.self_training.teacher
  if not teacher:
    return None
  given = f"self_training.teacher={config_files.shown(teacher)}: "
  if c.task != "supervised":
    return (
      f'{given}its student needs task="supervised", not {c.task!r};'
      " configs/sseg_plus.py is an example"
    )
  if c.data.source != "records" or c.data.train or c.data.val:
    return (
      f"{given}its student learns from labels that the run makes; leave"
      ' data.train and data.val empty, and data.source="records"'
    )
  return None


def _cells(c: Any) -> str | None:
  stride = c.pseudo_masks.stride
  by_stride = c.pseudo_masks.generator in ("pixels", "spectral")
  if not by_stride and c.pseudo_masks.mode == "online":
    return None  # a network's patch
  if c.image_size % stride:
    return (
      f"pseudo_masks.stride={stride}: must divide image_size={c.image_size}"
    )
  every = c.pseudo_masks.fit_every
  if every // 2 >= c.image_size // stride:
    return (
      f"pseudo_masks.fit_every={every}: too many for the"
      f" {c.image_size // stride} cells along a side (image_size over"
      " pseudo_masks.stride)"
    )
  return None


def _pool_stride(c: Any) -> str | None:
  stride = c.model.pool_stride
  if c.model.pool_masks != "pseudo" or not c.image_size % stride:
    return None
  return f"model.pool_stride={stride}: must divide image_size={c.image_size}"


def _shapes(c: Any) -> str | None:
  size = c.data.shapes.train_size
  if c.data.source != "shapes" or size >= c.batch_size:
    return None
  return (
    f"data.shapes.train_size={size}: must be at least batch_size={c.batch_size}"
  )


def _window(c: Any) -> str | None:
  if c.evaluate.stride <= c.evaluate.image_size:
    return None
  return (
    f"evaluate.stride={c.evaluate.stride}: must be at most"
    f" evaluate.image_size={c.evaluate.image_size}, or windows leave gaps"
  )


def _losses(c: Any) -> str | None:
  if c.task != "sseg" or c.loss.mask or c.loss.contrastive:
    return None
  return "loss.mask=0.0 and loss.contrastive=0.0: one must be over 0"


BETWEEN: tuple[Between, ...] = (
  *models_fields.BETWEEN,
  *tasks_fields.BETWEEN,
  Between(("optim.warmup_steps", "total_steps"), _warmup),
  Between(("data.lanes", "batch_size"), data_fields.lanes),
  Between(("pseudo_masks.k", "model.num_queries"), _queries),
  Between(
    (
      "self_training.teacher",
      "task",
      "data.source",
      "data.train",
      "data.val",
    ),
    _self_training,
  ),
  Between(
    (
      "image_size",
      "pseudo_masks.stride",
      "pseudo_masks.fit_every",
      "pseudo_masks.generator",
      "pseudo_masks.mode",
    ),
    _cells,
  ),
  Between(
    ("image_size", "model.pool_stride", "model.pool_masks"), _pool_stride
  ),
  Between(("data.source", "data.shapes.train_size", "batch_size"), _shapes),
  Between(("evaluate.stride", "evaluate.image_size"), _window),
  Between(("task", "loss.mask", "loss.contrastive"), _losses),
)


def check(config: Any, *, data: bool = True) -> None:
  """Raises InputError if a field cannot work; names all such fields.

  Args:
    config: as `default_config.get_config` makes, with changes.
    data: False leaves out the rules between `data` and other fields, for
      callers that read no training data.
  """
  default_config.check_batch(config)  # first: other fields may depend on it
  found = config_files.names(config)
  known = field_rules.types()
  if missing := [name for name in known if name not in found]:
    raise InputError(
      f"the config has no field {', '.join(missing[:3])}; begin with"
      " sseg_jax.default_config.get_config()"
    )
  messages = [
    f"{name}: there is no such field; {config_files.hint(name)}"
    for name in found
    if name not in known
  ]
  between = [
    rule
    for rule in BETWEEN
    if data or not any(field.startswith("data.") for field in rule.fields)
  ]
  # In the order of the config, not of `RULES`.
  rules = {name: RULES[name] for name in known}
  messages += field_rules.violations(config, rules, between)
  if messages:
    raise InputError("; ".join(messages))
