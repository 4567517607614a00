"""What a step learns: one module a task."""
