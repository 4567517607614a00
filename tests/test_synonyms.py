"""Benchmarks whose classes have synonyms, as a config asks for them."""

from test_evaluate import Coded, Listed, two_samples

from sseg_jax import evaluation, prompts


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
  assert segmenter.found == prompts.synonyms("common", ("cat", "dog"))
  assert segmenter.found == (("cat", "kitten"), ("dog", "puppy"))
  assert result["synonyms"] == "common"
  plain = evaluation.evaluate(Coded(), benchmark, threshold=0.5)
  assert plain["synonyms"] == "none"
