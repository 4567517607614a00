"""Serves a page: a picture, words, coloured regions.

`python -m sseg_jax.demo --checkpoint=DIR`, then open the address it prints.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from sseg_jax import command_line
from sseg_jax.errors import InputError, reported
from sseg_jax.page.limits import Limits


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "demo",
    "Serves a page on this machine: drop a picture, type words, and see where"
    " they are. Needs pip install 'sseg-jax[demo]'.",
    (
      "--checkpoint=runs/quickstart",
      "--checkpoint=org/name --host=0.0.0.0 --port=8080 \\\n    --max_words=20",
    ),
  )
  command_line.add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--host",
    default="127.0.0.1",
    help="address to listen on; default: this machine alone; 0.0.0.0: everyone"
    " who can reach it",
  )
  add("--port", type=int, default=7860, help="default: 7860; 0: any free one")
  add(
    "--share",
    action="store_true",
    help="let Gradio's servers give the page a public address for a while:"
    " everyone who knows it sees the page, and pictures pass through them",
  )
  limits = Limits()
  for name, what in (
    ("words", "words in a request"),
    ("megapixels", "megapixels of a picture"),
    ("waiting", "requests in the queue; more are refused"),
  ):
    add(
      f"--max_{name}",
      type=int,
      default=getattr(limits, name),
      metavar="N",
      help=f"most {what}; default: {getattr(limits, name)}",
    )
  add("--image_size", type=int, help="short side at which the picture is seen")
  add(
    "--no_compile_cache",
    action="store_true",
    help="do not keep compiled programs in ~/.cache/sseg_jax (or below"
    " XDG_CACHE_HOME) for the next start",
  )
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command until a signal ends it."""
  flags = _parser().parse_args(argv)
  limits = Limits(
    words=flags.max_words,
    megapixels=flags.max_megapixels,
    waiting=flags.max_waiting,
  )
  if not 0 <= flags.port <= 65535:
    raise InputError(f"port={flags.port} must be from 0 to 65535")
  if importlib.util.find_spec("gradio") is None:
    raise InputError(
      "the page needs Gradio, which is not installed:"
      " pip install 'sseg-jax[demo]'"
    )
  from sseg_jax.inference import api
  from sseg_jax.page import server
  from sseg_jax.runtime import compile_cache

  if not flags.no_compile_cache:
    compile_cache.use()

  def load() -> api.Model:
    return api.load(
      flags.checkpoint, image_size=flags.image_size, revision=flags.revision
    )

  server.serve(
    load, host=flags.host, port=flags.port, share=flags.share, limits=limits
  )


if __name__ == "__main__":
  sys.exit(main())
