"""The surest share of each class over all pictures: class-balanced labels.

Source: Zou et al. 2018, "Unsupervised Domain Adaptation for Semantic
Segmentation via Class-Balanced Self-Training". A single score for all classes
would leave out those that the teacher is seldom sure of.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from sseg_jax import files
from sseg_jax.inference import batches
from sseg_jax.self_training import labelling
from sseg_jax.self_training.pictures import Part, pixels_of
from sseg_jax.self_training.teacher import Teacher

_PIXELS = 4096  # of a picture that are counted, evenly spread
_NONE = -1e9  # below all that is called sureness
KEY = "class_scores"  # in `labels.json`


def limited(
  teacher: Teacher,
  parts: Sequence[Part],
  fields: Any,
  out: str,
  check: Callable[[], None] = lambda: None,
) -> Teacher:
  """Returns a teacher that keeps its surest labels of each class.

  Args:
    teacher: labels the pictures.
    parts: the pictures.
    fields: `config.self_training`.
    out: folder of the labels. If a job that was stopped has left the scores
      there, they are taken.
    check: is called before each picture; it may raise to end the search.
  """
  if fields.class_share == 1:
    return teacher
  made_with = teacher.made_with | {
    "class_share": float(fields.class_share),
    "class_share_images": int(fields.class_share_images),
  }
  teacher = dataclasses.replace(teacher, made_with=made_with)
  stored = files.read_json(epath.Path(out) / labelling.MADE_WITH)
  wanted = json.loads(json.dumps(labelling.described(teacher, parts)))
  found: Any = None
  if isinstance(stored, dict) and wanted.items() <= {**stored}.items():
    found = stored.get(KEY)
  if not isinstance(found, list) or len(found) != len(teacher.names):
    found = least(
      teacher,
      parts,
      float(fields.class_share),
      int(fields.class_share_images),
      int(fields.batch_size),
      check,
    ).tolist()
  return dataclasses.replace(
    teacher,
    made_with=made_with | {KEY: found},
    least=np.asarray(found, np.float32),
  )


def least(
  teacher: Teacher,
  parts: Sequence[Part],
  share: float,
  images: int,
  batch_size: int,
  check: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "n"]:
  """Returns how sure the teacher must be of each label, to keep `share` of it.

  Args:
    teacher: labels the pictures.
    parts: the pictures.
    share: of the pixels of each label.
    images: so many pictures are looked at, the first ones.
    batch_size: pictures of one size labelled at once.
    check: is called before each picture.

  Returns:
    A number for each label, as `Teacher.found` gives them. A label that no
    pixel has keeps all.
  """
  sure: list[list[np.ndarray]] = [[] for _ in teacher.names]
  rows = itertools.chain.from_iterable(
    pixels_of(part, 4 * batch_size, [], check) for part in parts
  )
  for _, pixels in rows:
    pixels = pixels[:images]
    for indices in batches.of_one_shape(pixels, batch_size):
      some = np.stack([pixels[i] for i in indices])
      for labels, sureness in teacher.found(some):
        step = max(1, labels.size // _PIXELS)
        labels, sureness = labels.ravel()[::step], sureness.ravel()[::step]
        for label in np.unique(labels):
          sure[label].append(sureness[labels == label])
    images -= len(pixels)
    if images <= 0:
      break
  return np.array([_least(values, share) for values in sure], np.float32)


def _least(values: list[np.ndarray], share: float) -> float:
  if not values:
    return _NONE
  joined = np.concatenate(values)
  count = max(1, round(share * len(joined)))
  return float(np.partition(joined, -count)[-count])
