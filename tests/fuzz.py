"""How many examples the property-based tests try.

1,000 each, the same in every run; `SSEG_FUZZ=20000 pytest …` tries that many
others. Use: `@fuzz.examples` above `@given(…)`.
"""

import os

from hypothesis import HealthCheck, settings

COUNT = int(os.environ.get("SSEG_FUZZ", "1000"))

examples = settings(
  max_examples=COUNT,
  deadline=None,  # two busy cores: a slow example is no fault
  derandomize="SSEG_FUZZ" not in os.environ,
  database=None,
  suppress_health_check=[
    HealthCheck.too_slow,
    HealthCheck.function_scoped_fixture,  # tmp_path: each example overwrites
  ],
)


def some(short: int, share: float) -> settings:
  """Returns the settings of a test whose examples take long.

  Args:
    short: examples in the suite.
    share: of `SSEG_FUZZ`, where it is set.
  """
  is_set = "SSEG_FUZZ" in os.environ
  count = max(1, int(COUNT * share)) if is_set else short
  return settings(examples, max_examples=count)
