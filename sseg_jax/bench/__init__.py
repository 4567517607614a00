"""Side-by-side measurements: `python -m sseg_jax.bench`."""
