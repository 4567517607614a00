"""Every field of a run, with its default, its reason and its source.

The defaults are the published recipe as far as it is known (S-Seg, CVPR 2025,
section given as "§"), and the nearest relative's value where it is not. Files
in `configs/` import `get_config` and state their differences only.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from sseg_jax.errors import InputError

# Values of `evaluate.combiner`; see inference/scoring.py.
COMBINERS = ("mean", "sum", "hard", "smallest")
# Until 2026 the default threshold, GroupViT's for VOC. The scores of most
# combiners never reach it.
_OLD_THRESHOLD = 0.95


def completed(stored: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns a stored configuration with the fields that are newer than it.

  They get their defaults, which leave its network as it was without them. A
  background threshold that was only the old default is left out.
  """

  def merge(default, stored):
    return {
      **default,
      **{
        name: merge(default[name], value)
        if isinstance(value, Mapping) and isinstance(default.get(name), Mapping)
        else value
        for name, value in stored.items()
      },
    }

  config = ml_collections.ConfigDict(merge(get_config().to_dict(), stored))
  if config.evaluate.background_threshold == _OLD_THRESHOLD:
    config.evaluate.background_threshold = None
  return config


def check_batch(c: ml_collections.ConfigDict) -> None:
  """Raises InputError for a batch that nothing can follow from."""
  if c.batch_size < 1:
    raise InputError(f"batch_size={c.batch_size} must be at least 1")


def follow_batch(
  c: ml_collections.ConfigDict,
  pairs: int,
  *,
  epochs: int = 30,
  warmup_epochs: int = 2,
) -> None:
  """Makes steps and learning rates of `c` follow from its `batch_size`.

  They go on to do so when the batch is overridden, until they are themselves:
  the same epochs, and rates in proportion to the batch, as GroupViT's, from
  those that stand in `c` for its batch now.
  """
  batch = c.get_ref("batch_size")
  epoch = pairs // batch
  c.total_steps = epochs * epoch
  c.optim.warmup_steps = warmup_epochs * epoch
  for name in ("peak_lr", "start_lr", "end_lr"):
    # The number is a reference so that the product is a float's.
    each = ml_collections.FieldReference(c.optim[name] / c.batch_size)
    c.optim[name] = each * batch


def get_config() -> ml_collections.ConfigDict:
  """Returns the default configuration: the paper's model at batch 4096."""
  c = ml_collections.ConfigDict()

  # "sseg" learns from captions and pseudo-masks (the paper). "supervised"
  # trains the same network on the records' label maps: the ceiling in
  # comparisons.
  c.task = "sseg"
  c.seed = 0
  # 30 epochs (as GroupViT) of the 11,156,203 pairs of CC12M that GroupViT could
  # fetch, at batch 4096. The paper's configs call `follow_batch`.
  c.total_steps = 81_690
  c.batch_size = 4096
  # The batch passes the towers in so many parts, one after the other, where it
  # does not fit into memory; the loss is still the whole batch's.
  c.accumulate_steps = 1
  c.image_size = 224  # training crop; a multiple of the backbone's stride
  # Type of the matrix products, "bfloat16" or "float32" (float16 would need its
  # losses scaled); parameters, losses, softmax, matching and K-means stay
  # float32 whatever stands here.
  c.dtype = "bfloat16"
  # On TPUs, attention in one Pallas kernel in Swin and in the teacher; False:
  # by XLA alone. (On CUDA GPUs the teacher takes cuDNN's whatever stands here.)
  c.pallas = True

  c.model = ml_collections.ConfigDict()
  c.model.backbone = "swin_s"  # see models/backbones.py for the registry
  # "": random weights, the paper's claim. Otherwise the backbone, of a
  # MaskFormer both decoders as well, starts from a file or a name in
  # models/published.py (models/pretrained.py); a run that goes on does not ask.
  c.model.weights = ""
  c.model.drop_path = 0.1  # GroupViT; MaskFormer's 0.3 is for fine-tuning
  # "fpn": MaskFormer's BasePixelDecoder. "transformer_encoder": the one of its
  # panoptic models, with an encoder over the deepest level.
  c.model.pixel_decoder = "fpn"
  c.model.encoder_layers = 6  # "transformer_encoder" only
  c.model.memory = "res5"  # the level that queries attend to (§3.2: the lowest)
  c.model.hidden_dim = 256  # §4.1
  c.model.mask_dim = 256
  c.model.num_queries = 64  # §4.1
  c.model.decoder_layers = 6  # §4.1
  c.model.num_heads = 8
  c.model.ffn_dim = 2048
  c.model.dropout = 0.1
  # What the blocks of all networks keep for the backward pass beside their
  # inputs: a name in `jax.checkpoint_policies`, as "nothing_saveable" or
  # "dots_saveable". "none" keeps everything.
  c.model.remat = "none"
  # Mask losses on every decoder layer, as MaskFormer does; the contrastive loss
  # always takes the last layer alone.
  c.model.deep_supervision = True
  # What a query is embedded from. "decoder": its feature after the decoder, the
  # paper's form. "mask_pooled": pixel features averaged under its own mask.
  c.model.query_embedding = "decoder"
  # "mask_pooled" only: what is pooled, levels joined by "+". "res2" to "res5"
  # are the backbone's, "pixel" is the pixel decoder's output (stride 4), which
  # has seen the whole picture through its deepest level; "stem" is a small
  # convolution network of its own, which the captions alone teach: all of its
  # stages, at strides 4, 8, 16 and 32.
  c.model.pool_feature = "pixel"
  c.model.stem_widths = (48,)
  c.model.stem_depths = (1,)
  # "mask_pooled" only: "soft" pools under the mask's probabilities, "hard"
  # under the pixels where no other query's logit is higher. "pseudo" pools
  # where the probability is over one half and no smaller mask lies in front;
  # while training, the picture's embedding comes from the pseudo-masks, which
  # are right from the first step.
  c.model.pool_masks = "soft"
  # "mask_pooled" only: tells the projection the outline of the mask as well.
  c.model.pool_outline = False
  c.model.pool_place = False  # and where the mask is, and how large
  # "mask_pooled" only: width of a layer that feature and outline pass together
  # before the projection; 0 goes without.
  c.model.region_hidden = 0
  c.model.pool_stride = 4  # "pseudo": pixels of a cell of the masks pooled
  # Which queries the mean over queries counts: "all" (the paper) or "owners",
  # those whose logit is the highest at some pixel.
  c.model.counted_queries = "all"
  # Where the mean over queries is taken: "before" the projection (§3.5, the
  # paper's form) or "after" it, so that each query is projected on its own.
  c.model.mean = "before"
  # Unit length for each query's embedding before the mean (mean="after" only).
  c.model.normalize_queries = False
  c.model.embed_dim = 256  # the joint space; GroupViT's output_dim
  c.model.proj_hidden = 4096  # GroupViT's ProjectMLP
  c.model.proj_norm = "bn"  # "bn" over the global batch, "ln" or "none"

  c.text = ml_collections.ConfigDict()
  c.text.layers = 12  # §4.1
  c.text.width = 256  # §4.1
  c.text.num_heads = 4  # width / 64, as CLIP and GroupViT
  c.text.context_length = 77
  c.text.dropout = 0.0
  c.text.weights = ""  # likewise, of the text tower

  c.pseudo_masks = ml_collections.ConfigDict()
  c.pseudo_masks.generator = "pixels"  # see pseudo_masks/generator.py
  c.pseudo_masks.k = 8  # as GroupViT's last stage
  # "pixels", "spectral": image pixels a cell (Table 1). The other generators
  # have a network's patch; cached labels are read at this stride.
  c.pseudo_masks.stride = 8
  c.pseudo_masks.mode = "online"  # "online": inside the step; "cached": records
  # Of the frozen network: a file's path, or a name in models/published.py;
  # "" is the generator's usual network.
  c.pseudo_masks.weights = ""
  # How the network's table of positions is resized (models/positions.py); "" is
  # the rule of whoever published the weights. A file has that of the usual
  # network of its generator, or "antialias" if it has registers.
  c.pseudo_masks.position_rule = ""
  # Heads of a file's network; 0 is one for 64 features, as of all published.
  c.pseudo_masks.num_heads = 0
  # Side of the picture that the network sees, over that of the picture given: a
  # small student can learn from what a teacher sees enlarged. Rounded to whole
  # patches, but for 1.0, which wants sides that are multiples of the patch.
  c.pseudo_masks.scale = 1.0
  # What is clustered: "tokens" of the last layer after the final norm, or
  # "keys", "queries", "values"; "keys:10" is another layer's. Several, joined
  # by "+", stand side by side.
  c.pseudo_masks.feature = "tokens"
  # Five switches of the networks' generators, none of them the paper's
  # (pseudo_masks/refine.py): best of so many K-means; tokens averaged with
  # those near and alike, radius in patches, 0 without; label cells a patch
  # along a side; steps by which masks follow colours. Measured to be good: 4,
  # 4.0, 0.05, 4 and 5 (benchmarks/table1_rows.py).
  c.pseudo_masks.restarts = 1
  c.pseudo_masks.smooth_radius = 0.0
  c.pseudo_masks.smooth_temperature = 0.05
  c.pseudo_masks.upsample = 1
  c.pseudo_masks.colour_steps = 0
  c.pseudo_masks.iterations = 10  # Lloyd iterations, fixed
  c.pseudo_masks.metric = "euclidean"  # or "cosine"
  c.pseudo_masks.init = "kmeans++"  # or "farthest"
  c.pseudo_masks.position_weight = 0.5  # "pixels": weight of the position term
  c.pseudo_masks.majority_passes = 0  # "pixels": 3x3 votes against specks
  # "pixels": clusters closer than this are one mask; 0 keeps all k (the paper).
  c.pseudo_masks.merge_distance = 0.0
  # "pixels": centers are found from one cell of so many along each side, then
  # all cells go to the nearest.
  c.pseudo_masks.fit_every = 1
  c.pseudo_masks.median_passes = 0  # "pixels": 3x3 medians against fine texture

  c.loss = ml_collections.ConfigDict()
  c.loss.mask = 1.0  # §3.6
  c.loss.contrastive = 1.0  # §3.6
  c.loss.dice = 1.0  # §3.6
  c.loss.focal = 20.0  # §3.6
  # Pixels of the picture along a side of a cell at which masks are compared: 1,
  # 2 or 4. 1 is the picture's size (§3.4: clusters are "resized to the original
  # resolution to supervise"); 4 is the logits' own, in a sixteenth of the work.
  c.loss.mask_stride = 1
  # One picture of so many learns masks, each picture once in so many epochs.
  # All learn words. Only for a "stem" that is pooled under pseudo-masks, as
  # words then do without the backbone.
  c.loss.mask_every = 1
  c.loss.init_temperature = 0.07  # CLIP; the paper only says "learnable"
  c.loss.max_logit_scale = 100.0  # clamped where it is used, as GroupViT does
  # Rows of the logits of images by captions that exist at once, over all
  # devices; 0: all. The same loss in less memory where the batch is large for
  # its devices: 32,768 pairs on 4 chips take 4.5 GB of each for it, and 0.25 GB
  # in blocks of 4096 (compiled for v5e; on 16 chips 0.9 and 0.1).
  c.loss.contrastive_block = 0

  c.optim = ml_collections.ConfigDict()
  c.optim.peak_lr = 5e-4
  c.optim.start_lr = 1.25e-6  # GroupViT's 4e-6, scaled by 5e-4 / 1.6e-3
  c.optim.end_lr = 1.25e-5  # GroupViT's 4e-5, scaled alike
  c.optim.warmup_steps = 5446  # 2 epochs of CC12M, inside total_steps
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.eps = 1e-8
  # None on biases, norms, embeddings, positions, queries, relative-position
  # tables and the logit scale (GroupViT, MaskFormer's Swin recipe).
  c.optim.weight_decay = 0.05
  c.optim.clip_norm = 5.0  # global norm, GroupViT; 0 switches it off

  c.data = ml_collections.ConfigDict()
  # "records": TFRecords with a manifest, as `sseg_jax.prepare` writes them, in
  # the folders `train` (comma-separated). "shapes": the embedded data set,
  # written to the work directory at the start of the run.
  c.data.source = "records"
  c.data.train = ""
  c.data.val = ""  # held-out pairs for retrieval; optional
  # Parts of the global order; divides the batch (pipeline.py).
  c.data.lanes = 64
  c.data.shuffle_window = 4096  # records permuted together
  c.data.crop_scale = (0.4, 1.0)  # area share of the random crop (OVSegmentor)
  c.data.crop_ratio = (3 / 4, 4 / 3)
  c.data.flip = 0.5
  # Share of the strongest photometric change (brightness, contrast, saturation,
  # hue); 0 switches it off. The student's view alone is altered.
  c.data.photometric = 0.0
  c.data.word_dropout = 0.0  # share of a caption's words left out at random
  c.data.max_bad_share = 0.05  # of records unreadable before the run stops
  c.data.threads = 8
  # "shapes" only.
  c.data.shapes = ml_collections.ConfigDict()
  c.data.shapes.train_size = 16_384
  c.data.shapes.eval_size = 256  # pictures of each held-out split
  c.data.shapes.hard_share = 0.5  # of the training pictures, from the hard kind

  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # devices along the batch; -1: all that fsdp leaves
  c.mesh.fsdp = 1  # devices over which parameters are split

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every_steps = 1000
  c.checkpoint.every_minutes = 30.0
  c.checkpoint.keep = 3  # the newest
  # And so many with the best scores of the evaluations between steps; the best
  # is WORKDIR/best to all commands.
  c.checkpoint.keep_best = 1
  # The score, by the name that TensorBoard shows, e.g. "mIoU/voc"; empty: the
  # mean mIoU of all benchmarks, or R@1 without any.
  c.checkpoint.best_score = ""

  c.log_every_steps = 50
  c.max_bad_steps = 20  # steps in a row with a non-finite loss before the stop
  # A step that takes longer than this, and than ten times the median, is warned
  # about with the stack of every thread; 0 switches it off.
  c.watchdog_minutes = 10.0

  c.evaluate = ml_collections.ConfigDict()
  c.evaluate.every_steps = 5000
  # Comma-separated benchmarks evaluated between steps and at the end, KIND=PATH
  # or [NAME=]FOLDER as `sseg_jax.evaluate --benchmarks` takes them. With
  # data.source="shapes" its three held-out kinds come first.
  c.evaluate.benchmarks = ""
  c.evaluate.max_images = 0  # of each benchmark between steps; 0: all
  c.evaluate.image_size = 448  # short side at test (§4.1)
  c.evaluate.stride = 224  # of the sliding window; its size is image_size
  c.evaluate.combiner = "mean"  # one of COMBINERS
  # "pseudo_masks": the generator clusters the test picture as well, and masks
  # are snapped to the clusters; not of the paper. "none" leaves masks alone.
  c.evaluate.refine = "none"
  # A pixel whose best score is below is background. None: chosen for each
  # benchmark on pictures of its training split, or without labels where it has
  # none (inference/background.py), and stored with the checkpoint.
  c.evaluate.background_threshold = config_dict.placeholder(float)
  c.evaluate.threshold_images = 100  # pictures it is chosen on
  c.evaluate.templates = "simple"  # a key of prompts.TEMPLATES
  c.evaluate.retrieval_size = 1000  # held-out pairs ranked against each other
  # Scores are the mean over so many rankings, each with one caption a picture.
  c.evaluate.retrieval_captions = 1
  return c
