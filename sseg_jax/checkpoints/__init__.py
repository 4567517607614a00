"""Checkpoints: saving, verifying, ranking, and what a resumed run changes."""
