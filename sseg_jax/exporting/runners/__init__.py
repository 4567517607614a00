"""Parts of the `run.py` files; `folder.runner` puts them together."""
