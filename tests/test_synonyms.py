"""Benchmarks whose classes have synonyms, as a config asks for them."""

import pytest
from test_evaluate import Coded, Listed, two_samples

from sseg_jax import evaluation, prompts, synonyms
from sseg_jax.errors import InputError


class Asked(Coded):
  """Stores the synonyms that it is asked for."""

  synonyms = "common"

  def scores(self, image, class_set):
    self.found = class_set.synonyms
    return super().scores(image, class_set)


def test_a_segmenter_is_asked_for_its_synonyms():
  benchmark = Listed(two_samples(), has_background=True)
  segmenter = Asked()
  result = evaluation.evaluate(segmenter, benchmark, threshold=0.5)
  assert segmenter.found == synonyms.of_classes("common", ("cat", "dog"))
  assert segmenter.found == (("cat", "kitten"), ("dog", "puppy"))
  assert result["synonyms"] == "common"
  plain = evaluation.evaluate(Coded(), benchmark, threshold=0.5)
  assert plain["synonyms"] == "none"


def test_synonyms_are_no_other_class():
  assert synonyms.of_classes("none", prompts.CLASS_NAMES["voc"]) == ()
  for name in ("voc", "context", "coco", "voc_original", "context_original"):
    classes = prompts.CLASS_NAMES[name]
    found = synonyms.of_classes("common", classes)
    words = [w for each in found for w in each]
    assert len(found) == len(classes) and len(set(words)) == len(words)
    for own, each in zip(classes, found, strict=True):
      assert not set(each) & (set(classes) - {own})
  voc = prompts.CLASS_NAMES["voc"]
  found = dict(zip(voc, synonyms.of_classes("common", voc), strict=True))
  assert "man" in found["person"] and found["bottle"] == ("bottle",)
  assert found["aeroplane"] == ("airplane", "plane", "jet")
  with pytest.raises(InputError, match="synonyms='all' is unknown"):
    synonyms.of_classes("all", voc)
