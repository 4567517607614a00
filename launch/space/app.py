"""The page as a Hugging Face Space; README.md of this folder says how.

`CHECKPOINT` is a repository (org/name), or a folder beside this file.
"""

import os
import sys

from sseg_jax import demo


def flags() -> list[str]:
  """Returns the command's flags, from the Space's variables."""
  checkpoint = os.environ.get("CHECKPOINT")
  if not checkpoint:
    sys.exit("error: set the variable CHECKPOINT, for example to org/name")
  found = [f"--checkpoint={checkpoint}", "--max_words=30"]
  if revision := os.environ.get("REVISION"):
    found.append(f"--revision={revision}")
  # A Space is reached from outside of its container, at this port.
  host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
  port = os.environ.get("GRADIO_SERVER_PORT", "7860")
  return [*found, f"--host={host}", f"--port={port}"]


if __name__ == "__main__":
  sys.exit(demo.main(flags()))
