"""The fields `evaluate` of a run: tests and scores; see default_config.py."""

import ml_collections
from ml_collections import config_dict


def defaults() -> ml_collections.ConfigDict:
  """Returns the fields of evaluations, between steps and of a checkpoint."""
  c = ml_collections.ConfigDict()
  c.every_steps = 5000
  # Comma-separated benchmarks evaluated between steps and at the end, KIND=PATH
  # or [NAME=]FOLDER as in `sseg_jax.evaluate --benchmarks`. With
  # data.source="shapes" its three held-out splits are evaluated as well, first.
  c.benchmarks = ""
  # Pictures of each benchmark in evaluations between steps; 0 means all.
  c.max_images = 0
  c.image_size = 448  # short side at test (§4.1)
  c.stride = 224  # of the sliding window; its size is image_size
  c.combiner = "mean"  # of default_config.COMBINERS; "smallest" fits "pseudo"
  # model.backbone="teacher" only: regions of a window at test. Larger ones than
  # in training may be named more surely. 0: those of training.
  c.regions = 0
  # "pseudo_masks": the generator clusters the test picture as well, and masks
  # are aligned with the clusters; not in the paper. "none" does not change
  # masks. "clusters", for model.teacher_masks: clusters are the masks.
  c.refine = "none"
  # A pixel whose best score is below this threshold is background. None: the
  # threshold is chosen for each benchmark on pictures of its training split, or
  # without labels if it has no such split (inference/background.py). It is
  # stored with the checkpoint.
  c.background_threshold = config_dict.placeholder(float)
  c.threshold_images = 100  # pictures used to choose the threshold
  c.templates = "simple"  # a key of prompts.TEMPLATES
  # Words that stand for the classes of benchmarks, the best of which counts: a
  # key of synonyms.SYNONYMS. "none", the published protocols, has the names
  # alone. "common" has words that captions use, as "man" for "person".
  c.synonyms = "none"
  c.retrieval_size = 1000  # held-out pairs ranked against each other
  # Number of rankings, each with one caption per picture; scores are the mean.
  c.retrieval_captions = 1
  return c
