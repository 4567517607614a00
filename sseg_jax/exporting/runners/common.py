"""Segments a picture: run.py --image=cat.jpg --words="cat, sky" --out=a.png."""

import argparse
import html
import json
import pathlib

import ftfy
import numpy as np
import tokenizers
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).resolve().parent


def load(folder):
  """Replaced by the format's own function, from a file beside this one."""
  raise NotImplementedError


def token_ids(config, words):  # int32 [words, templates, context length]
  bpe = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
  texts = [t.replace("{}", w) for w in words for t in config["templates"]]
  texts = [html.unescape(html.unescape(ftfy.fix_text(t))) for t in texts]
  found = bpe.encode_batch([" ".join(t.split()).lower() for t in texts])
  ids = np.array([one.ids for one in found], np.int32)
  return ids.reshape(len(words), len(config["templates"]), -1)


def resize(values, sizes):  # bilinear, half-pixel centres, no antialias
  for axis, (old, new) in enumerate(zip(values.shape[:2], sizes, strict=True)):
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low, high = at.astype(int), np.minimum(at.astype(int) + 1, old - 1)
    weight = np.float32(at - low).reshape((-1, 1, 1)[: 3 - axis])
    step = values.take(high, axis) - values.take(low, axis)
    values = values.take(low, axis) + step * weight
  return values


def scores(config, segment, classes, image):  # [h, w, words], mean of windows
  side, stride, cap = config["window"]
  short, long = sorted(image.shape[:2])
  factor = min(max(cap, side) / long, side / short)
  sizes = [max(1, int(n * factor + 0.5)) for n in image.shape[:2]]
  small = resize(image.astype(np.float32), sizes)
  small = np.pad(small, [(0, max(0, side - n)) for n in (*sizes, side)], "edge")
  total = np.zeros((*small.shape[:2], len(classes) + 1), np.float32)
  last, zero = [n - side for n in small.shape[:2]], np.float32(0)
  for corner in np.ndindex(*[-(-n // stride) + 1 for n in last]):
    y, x = (min(c * stride, n) for c, n in zip(corner, last, strict=True))
    found = segment(small[None, y : y + side, x : x + side], classes, zero)[0]
    total[y : y + side, x : x + side, :-1] += np.asarray(found)[0]
    total[y : y + side, x : x + side, -1] += 1  # visits
  total = total[: sizes[0], : sizes[1]]
  return resize(total[..., :-1] / total[..., -1:], image.shape[:2])


def threshold(rule, best, words):  # stored, or found without labels
  if rule["value"] is not None and rule["words"] in (None, words):
    return rule["value"]
  if rule["odds"] and words > 1:  # times as likely as others
    return rule["odds"] / (rule["odds"] + words - 1)
  some = best.ravel()[:: -(-best.size // 2**22)].astype(np.float64)
  logs = np.log(np.maximum(some, 1e-12))
  counts, edges = np.histogram(logs, 512)  # Otsu's threshold (1979)
  below = counts.cumsum() / counts.sum()
  mean = (counts * (edges[:-1] + edges[1:]) / 2).cumsum() / counts.sum()
  apart = (mean[-1] * below - mean) ** 2 / np.maximum(below - below**2, 1e-30)
  cuts = edges[1 + np.flatnonzero(apart >= apart.max() * (1 - 1e-9))]
  return np.exp((cuts[0] + cuts[-1]) / 2) if np.ptp(logs) > 1e-6 else 0.0


def main():
  config = json.loads((FOLDER / "config.json").read_text("utf-8"))
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--image", required=True)
  parser.add_argument("--words", default=",".join(config["words"]))
  parser.add_argument("--background_threshold", type=float)
  parser.add_argument("--out", default="labels.png")
  flags = parser.parse_args()
  words = [" ".join(word.split()) for word in flags.words.split(",")]
  if not all(words) or len(words) > 254:
    parser.error(f"words={flags.words!r}: give up to 254, none empty")
  image = ImageOps.exif_transpose(Image.open(flags.image)).convert("RGB")
  embed, segment = load(FOLDER)
  classes = np.asarray(embed(token_ids(config, words)))
  found = scores(config, segment, classes, np.asarray(image))
  best, limit, rule = found.max(-1), flags.background_threshold, config["rule"]
  limit = threshold(rule, best, len(words)) if limit is None else limit
  limit = float(min(limit, best.max()))  # never all is background
  labels = np.where(best >= limit, found.argmax(-1) + 1, 0).astype(np.uint8)
  for label, word in enumerate(["background", *words]):
    print(f"{label:3d}  {100 * (labels == label).mean():6.2f} %  {word}")
  picture = Image.fromarray(labels)
  picture.putpalette(config["colours"])
  picture.save(flags.out)


if __name__ == "__main__":
  try:
    main()
  except Exception as error:  # of a damaged picture or folder
    raise SystemExit(f"error: {FOLDER}: {error!r:.500}") from None
