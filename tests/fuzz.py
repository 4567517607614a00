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
