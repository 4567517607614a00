"""What an unfinished call of `prepare` leaves in OUT, and what it was to do."""

import dataclasses
import hashlib
import json
import os
import re
from typing import Any

from etils import epath

from sseg_jax.data import assembly, manifest
from sseg_jax.data.options import HOW, Options
from sseg_jax.data.sources import streams
from sseg_jax.runtime import lease

_PARTS = re.compile(r"^(\d{6}\.(data|done)|plan\.json|chosen\.json)(\.new)?$")


def plan(stream: streams.Stream, options: Options) -> str:
  """Returns what decides the records; a restart with the same continues."""
  digest = hashlib.sha256()
  for part in stream.parts:
    told: list[Any] = [part]
    paths = [part.path, *(item.image for item in part.of if part.path == "")]
    for path in filter(None, paths):
      try:
        status = os.stat(path)
        told.append((status.st_size, status.st_mtime_ns))
      except OSError:
        continue  # remote, or a picture that is found to be missing later
    digest.update(repr(told).encode("utf-8", "backslashreplace"))
  chosen = dataclasses.asdict(options)
  for name in HOW:
    del chosen[name]
  return json.dumps({"options": chosen, "parts": digest.hexdigest()}, indent=2)


def is_planned(parts: str, plan: str) -> bool:
  """Whether unfinished work in `parts` is that of the plan."""
  path = epath.Path(parts) / "plan.json"
  return path.exists() and path.read_text() == plan


def clear_parts(parts: str) -> None:
  """Deletes the files of unfinished work, and their folder if it is empty."""
  folder = epath.Path(parts)
  if not folder.exists():
    return
  names = list(folder.iterdir())
  # The plan goes last: without it the others are of no use, with it they are.
  for path in sorted(names, key=lambda p: p.name == "plan.json"):
    if _PARTS.match(path.name):
      path.unlink()
  if all(_PARTS.match(path.name) for path in names):
    folder.rmdir()


def tidy(out: str) -> None:
  """Deletes what a call leaves that is killed after its last manifest."""
  parts = manifest.join(out, "parts")
  if any(epath.Path(p).exists() for p in (parts, f"{out}/{lease.FILE}")):
    with lease.Lease(out, field="out"):
      for split in ("train", "val"):
        assembly.tidy(manifest.join(out, split))
      clear_parts(parts)
