"""The type checker that jaxtyping puts on every function of the package."""

import beartype

# An int where a float is annotated is fine (PEP 484's numeric tower).
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
