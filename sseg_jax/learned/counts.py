"""How often each word stood in the captions of the training data.

A checkpoint's metadata has them under "word_counts". They are of a sample if
there are many records, so that 26 million pairs take no longer than some
thousand.
"""

import collections
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from absl import logging

from sseg_jax import content_words
from sseg_jax.errors import InputError
from sseg_jax.inference.rarity import NAME

MOST_RECORDS = 10_000  # whose captions are counted
_MOST_WORDS = 100_000  # that are kept, the most frequent ones
_THREADS = 16  # a record of a bucket takes some hundredths of a second


def count(folders: Sequence[str], most: int = MOST_RECORDS) -> dict[str, Any]:
  """Counts the words of captions of records.

  Args:
    folders: of records.
    most: records that are read, spread evenly over all.

  Returns:
    "words": word -> number of captions it stands in, the most frequent first;
    "captions": number of captions that were read; "records": number of their
    records; "of": number of all records.

  Raises:
    InputError: if a folder holds no records or a file of it is gone.
  """
  from sseg_jax.data.shards import RecordTable

  table = RecordTable(folders)
  total = len(table)
  number = min(most, total)

  def captions(place: int) -> tuple[bytes, ...]:
    try:
      return table[place * total // number].captions
    except InputError:
      raise
    except ValueError:  # damaged: training leaves it out as well
      return ()

  words: collections.Counter[str] = collections.Counter()
  read = 0
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for texts in pool.map(captions, range(number)):
      for text in texts:
        # Once for each caption, however often it has the word.
        words.update(set(content_words.words_of(text.decode(errors="replace"))))
        read += 1
  # By the alphabet where counts are equal, so that the result is always the
  # same.
  ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
  return {
    "words": dict(ranked[:_MOST_WORDS]),
    "captions": read,
    "records": number,
    "of": total,
  }


def of_run(
  config: Any, records: str | None, restored: dict[str, Any]
) -> dict[str, Any]:
  """Returns the part of a checkpoint's metadata that tells the counts.

  Args:
    config: of the run.
    records: fingerprint of its records, None if they are drawn.
    restored: metadata of the checkpoint from which the run goes on; its counts
      are taken if they are of the same records.

  Returns:
    {"word_counts": …}, or {} for a task without captions. If records cannot be
    read, a log message says so, and {} is returned: the run itself will say it
    of the records that it needs.
  """
  if config.task != "sseg":
    return {}
  if records and restored.get("records") == records and NAME in restored:
    return {NAME: restored[NAME]}
  folders = [f.strip() for f in config.data.train.split(",") if f.strip()]
  try:
    return {NAME: count(folders)}
  except InputError as error:
    logging.warning("the words of captions are not counted (%s)", error)
    return {}
