"""The model card of a format's folder, as Markdown."""

from typing import Any

from sseg_jax.exporting.formats import Format
from sseg_jax.exporting.source import Source
from sseg_jax.models import published

_OPEN = """\
Open-vocabulary semantic segmentation: each pixel of a picture gets one of your
words, or background. Trained from captions alone, without labels ([Exploring
Simple Open-Vocabulary Semantic Segmentation](https://arxiv.org/abs/2401.12217))."""
_FIXED = """\
Semantic segmentation: each pixel of a picture gets one of the classes that the
network was trained with, or background. `config.json` lists them as
`fixed_list`; `run.py` takes any of them as words."""
_TOKENIZER = """\
| `tokenizer.json`, CLIP's list of merges | MIT, see `LICENSE.tokenizer` |
"""
_COLOURS = "label 0 is background, 1 and up are the words in their order"


def text(
  source: Source,
  name: str,
  made: Format,
  fields: dict[str, Any],
  found: str,
) -> str:
  """Returns the card.

  Args:
    source: the checkpoint.
    name: of the format.
    made: the format.
    fields: of `config.json`.
    found: what the verification measured, in words.
  """
  config, how = source.config, fields["preprocessing"]
  side, fixed = how["image_size"], "fixed_list" in fields
  return f"""\
---
library_name: sseg_jax
pipeline_tag: image-segmentation
tags: [{_tags(fixed)}, s-seg, {name}]
---

# S-Seg, exported as {name}

{_FIXED if fixed else _OPEN}

```bash
pip install numpy pillow {"" if fixed else "tokenizers ftfy "}{made.reader}
python run.py --image=picture.jpg --words="{_example(fields)}" --out=labels.png
```

`run.py` needs nothing else. In `labels.png` {_COLOURS}.

## What is in the files

| function | in | out |
| --- | --- | --- |
{_embed_classes(config, fields)}
| `segment` | pictures, float32 RGB in 0..255 [pictures, {side}, {side}, 3]; \
class embeddings; background threshold | scores [pictures, {side}, {side}, \
words]; labels{_values(fields, side)} |

`segment` holds normalisation, image tower, class probabilities, the combiner
"{source.segmenter.combiner}" and the background rule. Freely chosen numbers:
{", ".join(fields["dynamic"]) or "none"}. The size {side} is fixed. `run.py`
scales a picture's short side to it, and averages windows that are
{how["stride"]} pixels apart over the long side. A picture more than
{how["long_side"] // side} times as long as wide is padded, which this package's
own windows are not. Computed in float32 (trained in
{source.loaded.config.get("dtype", "float32")}).
{made.notes}

{_refinement(source, fields)}

## Verified

{found}

## The network

Backbone `{config.model.backbone}`, {config.model.num_queries} queries, step \
{fields["step"]} of the run, commit {fields["commit"] or "unknown"}. Words by
default: {", ".join(fields["words"])}. Templates:
{len(fields["templates"])}, the first is "{fields["templates"][0]}".
`config.json` has everything.

## Licences

| what | licence |
| --- | --- |
| code: `run.py`, the programs | Apache-2.0 |
{"" if fixed else _TOKENIZER}| weights | {_weights(config)} |
| data | {_data(config)} |
"""


def of_masks(source: Source, difference: float) -> str:
  """Returns the card of a folder for `transformers`."""
  config = source.config
  return f"""\
---
library_name: transformers
tags: [maskformer, s-seg]
---

# S-Seg's image tower for transformers

`MaskFormerForInstanceSegmentation.from_pretrained` loads this folder. Its masks
are S-Seg's ({difference:.0e} apart when this was written). What each mask shows
is not in it: S-Seg has no class head, so `class_queries_logits` mean nothing.

Backbone `{config.model.backbone}`, {config.model.num_queries} queries, step
{int(source.loaded.step)} of the run.

## Licences

| what | licence |
| --- | --- |
| weights | {_weights(config)} |
| data | {_data(config)} |
"""


def _tags(fixed: bool) -> str:
  return f"{'' if fixed else 'open-vocabulary, '}semantic-segmentation"


def _example(fields: dict[str, Any]) -> str:
  if "fixed_list" not in fields:
    return "cat, grass, sky"
  return ", ".join(fields["fixed_list"]["classes"][:3])


def _embed_classes(config: Any, fields: dict[str, Any]) -> str:
  given = f"""CLIP's token ids, int32 [words, templates, \
{fields["context_length"]}] | class embeddings [words, \
{config.model.embed_dim}]"""
  if "fixed_list" in fields:
    count = len(fields["fixed_list"]["classes"])
    given = f"""places in the list of classes, int32 [words, 1, 1] | a row for \
each, 1 at its place [words, {count}]"""
  return f"| `embed_classes` | {given} |"


def _values(fields: dict[str, Any], side: int) -> str:
  if "fixed_list" not in fields:
    return ""
  return f"""; values of the whole list [pictures, {side}, {side}, \
{fields["channels"]}], of which the mean over windows is taken"""


def _refinement(source: Source, fields: dict[str, Any]) -> str:
  if source.config.evaluate.refine == "none":
    return "Masks are not refined, as in the run."
  if fields["preprocessing"]["refine"] == "clusters":
    return "Masks are clusters of the picture, as in the run."
  if fields["preprocessing"]["refine"] != "none":
    return (
      "Masks are snapped to regions found by clustering the picture"
      f" (`{source.config.pseudo_masks.generator}`), as in the run."
    )
  return (
    "**Without refinement.** The run snaps masks to regions found by clustering"
    " the picture; this format could not hold that. Compared with it,"
    f" {100 * fields['equal_to_refined']:.1f} % of the labels are equal on the"
    " pictures of the verification."
  )


def _weights(config: Any) -> str:
  names = [config.model.weights, config.text.weights]
  known = [
    f"`{name}`: {published.PUBLISHED[name].license}"
    for name in names
    if name in published.PUBLISHED
  ]
  others = [name for name in names if name and name not in published.PUBLISHED]
  known += [f"`{name}`: not known to this program" for name in others]
  if not known:
    return "chosen by who trained them; they started from random values"
  return "chosen by who trained them, within those they started from: " + (
    ", ".join(known)
  )


def _data(config: Any) -> str:
  if config.data.source == "shapes":
    return "pictures drawn by this package: Apache-2.0"
  return (
    f"{config.data.source}: not known to this program; pictures and captions"
    " keep the licences of their owners"
  )
