"""Memory, time and cost of a training step, without the machine."""
