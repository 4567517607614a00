"""A data set of TensorFlow Datasets, made of any source of `prepare`.

    tfds build captioned_pictures/short512 --manual_dir=SOURCE \
      --imports=sseg_jax.data.captioned_pictures

SOURCE is a folder that `sources.streams.find` knows. Pictures are read,
shrunk, left out and counted as `prepare` does it; the counts are in the data
set's metadata. Its records come in the order of the source.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from sseg_jax.data import import_tensorflow, staging
from sseg_jax.data.sources import streams

# TFDS loads TensorFlow when it is used first. This hides accelerators before.
import_tensorflow()

_HOW = """\
--manual_dir names a folder of pictures and captions, of webdataset's tars, of
Parquet files with pictures, or img2dataset's output.
"""


class CaptionedPictures(tfds.core.GeneratorBasedBuilder):
  """Pictures with captions; the name of the config is the short side."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The first."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = _HOW
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="full", description="pictures of every size"),
    *(
      tfds.core.BuilderConfig(
        name=f"short{side}",
        description=f"larger pictures are shrunk to a short side of {side}",
      )
      for side in (512, 448, 256)
    ),
  ]

  def _info(self) -> Any:
    text = tfds.features.Text()
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "key": text,
          "image": tfds.features.Image(encoding_format="jpeg"),
          "captions": tfds.features.Sequence(text),
          "source": text,
          "license": text,
        }
      ),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    return {"train": self._generate_examples(str(dl_manager.manual_dir))}

  def _generate_examples(
    self, source: str
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    stream = streams.find(source)
    counts = staging.Counts(read=len(stream.rejected))
    for reason, name in stream.rejected:
      staging.count(counts.rejected, reason, name)
    name = self.builder_config.name
    side = int(name.removeprefix("short")) if name != "full" else 0
    rules = staging.Rules(image_size=side)
    number = 0
    for part in stream.parts:
      for key, sample, captions, image in staging.usable(part, rules, counts):
        yield (
          number,
          {
            "key": key,
            "image": image.jpeg,
            "captions": captions,
            "source": sample.source,
            "license": sample.license,
          },
        )
        number += 1
    self.info.metadata.update(
      read=counts.read, kept=number, rejected=counts.rejected
    )
    logging.info("kept %d of %d pictures", number, counts.read)
