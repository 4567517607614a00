"""What a step learns: one module a task, and their registry."""

from sseg_jax.tasks import sseg, supervised
from sseg_jax.tasks.task import InParts, Task

# Values of `config.task`. A new task is one line here.
TASKS: dict[str, Task] = {
  "sseg": Task(sseg.loss, InParts(sseg.towers, sseg.compare)),
  "supervised": Task(supervised.step_loss, frozen=supervised.frozen),
}
