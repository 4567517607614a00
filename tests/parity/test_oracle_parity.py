"""Oracle scores of real tokens on real photos against a PyTorch reference."""

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
  # Mean of the reference's two seeds.
  [("plain", 71.25), ("pixels", 48.8), ("colours", 42.75)],
)
def test_the_reference_s_scores(shared, row, reference):
  data = shared / "data"
  fields = {}
  if row == "plain":
    fields["weights"] = str(data / "weights/vit_s14_grouping.safetensors")
    fields["position_rule"] = "size"
  made = generator.build(table1_rows.config_of(row, fields))
  result = oracle.score(
    made, Both(data), image_size=448, square=True, seeds=2, batch_size=8
  )
  print(row, result["mIoU_seeds"])
  assert result["images"] == 75
  assert result["mIoU"] == pytest.approx(reference, abs=1.5)
