"""Comparisons of many trainings: rows, runs, tables, curves."""
