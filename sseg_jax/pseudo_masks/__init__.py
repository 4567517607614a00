"""Pseudo-masks: clusters of patches in the place of annotated masks."""
