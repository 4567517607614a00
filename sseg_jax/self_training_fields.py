"""The fields `self_training` of a run: S-Seg+; see default_config.py."""

import ml_collections
from ml_collections import config_dict


def defaults() -> ml_collections.ConfigDict:
  """Returns the fields of S-Seg+ (§3.7); without `teacher` none matters."""
  c = ml_collections.ConfigDict()
  # A run, an exported folder or org/name: the model that labels the pictures.
  # "": the run trains as its other fields say. Otherwise it labels, trains a
  # student with task="supervised", and scores both (self_training/).
  c.teacher = ""
  # Unlabelled pictures, comma-separated: folders of records, of which captions
  # and labels are not read, or folders of pictures and patterns such as *.jpg.
  c.pictures = ""
  # "": all of them. Otherwise a text file with a name a line, with or without
  # suffix, as VOC's ImageSets: of folders of pictures only these are taken.
  c.names = ""
  # The target's class list: a key of `prompts.CLASS_NAMES`, or a file with a
  # name a line.
  c.classes = ""
  # Whether pixels may be background (Table 2) or all have a class (Table 4).
  c.background = False
  # Background threshold of the teacher. None: the one that is stored with it
  # for this class list, or its default.
  c.threshold = config_dict.placeholder(float)
  # "hard": each pixel has one label. "soft": the student learns the teacher's
  # probabilities of the likeliest labels of each pixel (data/soft_labels.py). A
  # run that trains on such records needs "soft" too, else it takes the one.
  c.labels = "hard"
  # Whether the teacher's scores are averaged with those of the mirrored
  # picture, and over which factors of its size; the paper does not say so.
  # Labels take as many times as long as there are views, or longer. The
  # background threshold stays that of one view.
  c.flip = False
  c.scales = (1.0,)
  # Pixels whose best score is below it are ignored; 0 keeps all labels, as the
  # paper does as far as is known.
  c.min_score = 0.0
  # Share of the pixels of each label in a picture that keep it, the surest; the
  # others are ignored. 1 keeps all.
  c.keep_share = 1.0
  # Share of the pixels of each label in all pictures that keep it, the surest;
  # the others are ignored. A class that the teacher takes for another is often
  # the less sure part of that other class. 1 keeps all. The scores that it
  # needs are found on the first `class_share_images` pictures.
  c.class_share = 1.0
  c.class_share_images = 1024
  # What the student starts from: "teacher" (all that fits) or "scratch".
  c.start = "teacher"
  # Students one after the other: each but the last labels the pictures for the
  # next.
  c.rounds = 1
  c.batch_size = 32  # pictures of one size labelled at once
  c.shard_size = 256  # pictures in a file; a killed job repeats one at most
  return c
