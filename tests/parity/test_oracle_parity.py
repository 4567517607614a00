"""Oracle scores of real tokens on real photos against a PyTorch reference."""

import json
import os
import pathlib
import subprocess
import sys

import preloaded
import pytest

from sseg_jax.benchmarks import oracle, table1_rows, voc
from sseg_jax.pseudo_masks import generator


class Both:
  """The train and val photos as one benchmark."""

  def __init__(self, root):
    self._parts = [voc.Pascal(root, split=split) for split in ("train", "val")]
    self.name, self.has_background, self.split = "voc", True, None
    self.class_names = self._parts[0].class_names

  def __len__(self):
    return sum(map(len, self._parts))

  def __getitem__(self, index):
    first = len(self._parts[0])
    if index < first:
      return self._parts[0][index]
    return self._parts[1][index - first]


@pytest.mark.slow
@pytest.mark.parametrize(
  "row, reference",
  # Means of four seeds of make_oracle_reference.py, else of two.
  [("plain", 63.7), ("pixels", 48.8), ("colours", 42.75)],
)
def test_the_reference_s_scores(shared, row, reference):
  # A process of its own compiles with all of XLA's optimisations: a network of
  # twelve blocks then sees the photos in half the time.
  done = subprocess.run(
    [preloaded.python(), __file__, row, str(shared / "data")],
    env=os.environ
    | {"XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["images"] == (25 if row == "plain" else 75)
  assert result["mIoU"] == pytest.approx(reference, abs=1.5), result


def main(row, data):
  fields = {}
  if row == "plain":
    fields["weights"] = f"{data}/weights/vit_s14_grouping.safetensors"
    fields["position_rule"] = "size"
  made = generator.build(table1_rows.config_of(row, fields))
  result = oracle.score(
    made,
    Both(data),
    image_size=448,
    square=True,
    # Seeds of so few photos differ more, but share the network's tokens.
    seeds=4 if row == "plain" else 2,
    max_images=25 if row == "plain" else 0,
    batch_size=8,
  )
  print(json.dumps({k: result[k] for k in ("images", "mIoU", "mIoU_seeds")}))


if __name__ == "__main__":
  main(*sys.argv[1:])
