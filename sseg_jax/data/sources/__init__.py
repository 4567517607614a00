"""Readers of captioned pictures as people have them: folders on disk.

Start with `folder.read_items`. A new kind of captions needs one file here that
yields `rows.Row`, and one line in `kinds.READERS`.
"""

from sseg_jax.data.sources.folder import Item, read_items

__all__ = ["Item", "read_items"]
