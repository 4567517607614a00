"""Times the same work done in several ways: `python -m sseg_jax.bench`."""
