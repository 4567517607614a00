"""The flags of `sseg_jax.evaluate`, and which belong together."""

import argparse

from sseg_jax import baselines, command_line, files, prompts, synonyms
from sseg_jax.baselines import trained
from sseg_jax.errors import InputError
from sseg_jax.field_rules import REFINEMENTS
from sseg_jax.inference import protocols

_EXAMPLES = (
  "--checkpoint=runs/photos \\\n    --benchmarks=voc,coco --data_root=DATA"
  " --out=runs/photos/scores",
  "--system=clip --weights=CLIP \\\n    --benchmarks=voc --data_root=DATA"
  " --protocol=square448",
  "--oracle --generators=pixels,dino \\\n    --benchmarks=voc --data_root=DATA"
  " --out=table1",
)


def parser() -> argparse.ArgumentParser:
  """Returns the parser of all flags."""
  result = command_line.Parser(
    "evaluate",
    "Scores a checkpoint on benchmarks. With --system it scores another system"
    " in the same way. With --oracle it scores generators of"
    " pseudo-masks instead: the mIoU that is reached if each mask gets the"
    " label of most of its pixels (Table 1).",
    _EXAMPLES,
  )
  add = result.add_argument
  add(
    "--benchmarks",
    help="comma-separated: voc, voc20, context, context59, coco, coco80,"
    " ade20k, cityscapes, coco_stuff (below --data_root), KIND=PATH, or"
    " [NAME=]FOLDER with images/, labels/ and classes.txt; with --oracle voc by"
    " default",
  )
  add(
    "--data_root",
    default=".",
    help="holds VOCdevkit/, coco/, ade/ and cityscapes/",
  )
  add("--split", default="val", help="of the benchmarks that have splits")
  add(
    "--image_size",
    type=int,
    help="short side and window, by default the checkpoint's; with --oracle"
    " both sides, by default 448",
  )
  add("--max_images", type=int, default=0, help="of each benchmark; 0: all")
  add(
    "--out",
    type=files.path,
    help="folder for result.json and pictures; counts are kept there (or in"
    " --report) meanwhile, so the same command, started again after a stop,"
    " goes on",
  )
  add(
    "--pictures",
    type=int,
    help="pictures of each benchmark that are drawn to --out; by default 8,"
    " with --oracle 6",
  )
  add(
    "--protocol",
    metavar="NAME",
    help="fixes resize, windows, prompts, class names, thresholds and the"
    f" background rule: {', '.join(protocols.PROTOCOLS)}; by default what the"
    f" checkpoint's config says, reported as '{protocols.OWN}'",
  )
  add(
    "--pamr",
    action="store_true",
    default=None,
    help="without --protocol: refine the scores by pixel-adaptive mask"
    f" refinement, reported as '{protocols.OWN_PAMR}'; --protocol=tcl_pamr has"
    " it",
  )
  add(
    "--flip",
    action="store_true",
    default=None,
    help="without --protocol: average the scores with those of the mirrored"
    f" picture, reported as '{protocols.OWN_VIEWS}'",
  )
  add(
    "--scales",
    type=command_line.numbers,
    metavar="S,S",
    help="without --protocol: average the scores over these factors of the size"
    f" at which a picture is seen, e.g. 0.75,1,1.25; as --flip reported as"
    f" '{protocols.OWN_VIEWS}'",
  )
  add(
    "--report",
    type=files.path,
    metavar="DIR",
    help="writes report.html and report.json there: the paper's tables beside"
    " the scores of this call, and of earlier calls with the same folder; with"
    " --oracle Table 1",
  )
  add("--json", action="store_true", help="print the result as JSON")
  _add_flags_of_scores(result.add_argument_group("scores of a checkpoint"))
  _add_flags_of_systems(result.add_argument_group("scores of other systems"))
  _add_flags_of_oracle(result.add_argument_group("scores of generators"))
  return result


def _add_flags_of_scores(group: argparse._ArgumentGroup) -> None:
  add = group.add_argument
  add(
    "--checkpoint",
    help="work directory, a step's or an exported folder, org/name",
  )
  add(
    "--classes",
    help="prompt with these names: a file with one a line, in label order, or"
    f" one of {', '.join(prompts.CLASS_NAMES)}",
  )
  add(
    "--background_threshold",
    type=float,
    metavar="T",
    help="pixels whose best score is below are background; default: the one"
    " stored with the checkpoint, else one chosen on the training split",
  )
  add(
    "--choose_threshold_split",
    metavar="SPLIT",
    help="choose the threshold anew, on this split, e.g. train; never on the"
    " pictures that are scored",
  )
  add(
    "--threshold_images",
    type=int,
    metavar="N",
    help="pictures that a threshold is chosen on; default: the checkpoint's",
  )
  command_line.add_templates_and_combiner(group)
  add(
    "--synonyms",
    choices=synonyms.SYNONYMS,
    help="words that stand for the classes besides their names; default: the"
    " checkpoint's",
  )
  add(
    "--refine",
    choices=REFINEMENTS,
    help="masks as the network has them, snapped to clusters of the picture, or"
    " clusters alone; default: the checkpoint's",
  )
  add("--per_class", action="store_true", help="print IoU of each class")
  add(
    "--words_report",
    action="store_true",
    help="instead of scores, write words.json and words.html, as training does"
    " at its end: counts in captions, scores and best regions of each word; to"
    " --out, by default to the work directory that --checkpoint names",
  )


def _add_flags_of_systems(group: argparse._ArgumentGroup) -> None:
  add = group.add_argument
  add(
    "--system",
    metavar="NAME",
    help="sseg (the default),"
    f" {', '.join(trained.TRAINED)}, all from --checkpoint;"
    f" {', '.join(baselines.SYSTEMS)}, whose"
    " --weights are a folder that transformers saved: on a machine with a"
    " connection, transformers.CLIPModel.from_pretrained("
    "'openai/clip-vit-base-patch16').save_pretrained('CLIP'), or GroupViTModel"
    " and 'nvidia/groupvit-gcc-redcaps'",
  )
  add(
    "--predictions",
    metavar="DIR",
    help="of --system=predictions: holds ID.png, the labels of each picture",
  )
  add(
    "--key_smoothing",
    type=float,
    metavar="P",
    help="of --system=maskclip: patches less sure than this take the scores of"
    " alike ones; 0 (default) for none, MaskCLIP's own is 1",
  )
  add(
    "--prompt_denoising",
    type=float,
    metavar="P",
    help="of --system=maskclip: classes less likely than this in a window are"
    " left out; 0 (default) for none, MaskCLIP's own is 0.5",
  )
  add(
    "--mask_generator",
    metavar="NAME",
    help="of --system=b1: a name of --generators; by default dino",
  )
  add("--mask_weights", help="of that generator: a file or published name")


def _add_flags_of_oracle(group: argparse._ArgumentGroup) -> None:
  from sseg_jax.benchmarks.table1_rows import GROUPS, ROWS

  add = group.add_argument
  add("--oracle", action="store_true", help="scores generators")
  add(
    "--generators",
    metavar="NAMES",
    help=f"comma-separated: {', '.join(ROWS)}; or a group of these:"
    f" {', '.join(GROUPS)}; by default table",
  )
  add(
    "--weights",
    help="file or published name; dino=A,mae=B for several networks, for the"
    " row groupvit a folder that transformers saved; of a --system a folder or"
    " file",
  )
  add("--position_rule", help="of the networks: dino, size, …")
  add("--k", type=int, help="masks a picture, by default 8")
  add(
    "--keep_ratio",
    action="store_true",
    help="--image_size is the short side, and pictures keep their ratio",
  )
  add(
    "--seeds",
    type=int,
    help="how many seeds of K-means, whose mean is reported; by default 1",
  )
  add("--batch_size", type=int, help="pictures segmented at once, by default 8")
  add("--time_size", type=int, help="side of timed pictures, by default 224")
  add(
    "--time_batch",
    type=int,
    help="pictures timed at once, by default 128; 0 measures no time",
  )
  add("--dtype", help="of the networks: float32 (default) or bfloat16")


# Flags that only one of the two kinds of scores has.
_OF_A_CHECKPOINT = (
  *("checkpoint", "classes", "background_threshold", "choose_threshold_split"),
  *("threshold_images", "templates", "combiner", "per_class", "synonyms"),
  *("refine", "words_report"),
)
_OF_SCORES = ("protocol", "pamr", "flip", "scales")  # of any system
_OF_ORACLE = (
  *("generators", "weights", "position_rule", "k", "keep_ratio", "seeds"),
  *("batch_size", "time_size", "time_batch", "dtype"),
)


# Beside --weights, which generators have as well.
_OF_SYSTEMS = (
  *("system", "predictions", "key_smoothing", "prompt_denoising"),
  *("mask_generator", "mask_weights"),
)


def check(flags: argparse.Namespace) -> None:
  """Raises InputError for flags of the other kind, and for missing ones."""
  other = not trained.is_trained(flags.system)
  wrong: list[str] = []
  where = "belongs to --oracle; add that, or leave this out"
  if flags.oracle:
    where = "belongs to scores of a checkpoint, not to --oracle"
    wrong += [*_OF_A_CHECKPOINT, *_OF_SYSTEMS, *_OF_SCORES]
  elif other:
    where = f"means nothing for --system={flags.system}; leave it out"
    wrong += ["checkpoint", "words_report", *_OF_ORACLE]
    known = baselines.OPTIONS.get(flags.system, ())
    wrong = [name for name in (*wrong, *_OF_SYSTEMS[1:]) if name not in known]
  else:
    wrong += [*_OF_ORACLE, *_OF_SYSTEMS[1:]]

  def given(name: str) -> bool:
    return getattr(flags, name) not in (None, False)

  wrong = [f"--{name}" for name in wrong if given(name)]
  if wrong:
    raise InputError(f"{', '.join(wrong)}: {where}")
  if flags.oracle:
    return
  if flags.words_report:
    others = [n for n in ("benchmarks", "report", *_OF_SCORES) if given(n)]
    if others:
      raise InputError(
        f"--words_report scores no benchmark; leave --{', --'.join(others)}"
        " out, and call the command twice for both"
      )
  if flags.words_report:
    needed: tuple[str, ...] = ("checkpoint",)
  else:
    needed = ("benchmarks",) if other else ("checkpoint", "benchmarks")
  for name in needed:
    if getattr(flags, name) is None:
      raise InputError(f"--{name} is missing; see --help for what to give")
