"""Computations written by hand, where XLA's own are slower."""
