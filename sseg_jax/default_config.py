"""Every field of a run, with its default, its reason and its source.

The defaults are the published recipe as far as it is known (S-Seg, CVPR 2025,
section given as "§"). Where the paper gives no value, it is that of the most
similar published work. Files in `configs/` import `get_config` and state only
their differences.
"""

import ml_collections

from sseg_jax import evaluate_fields, self_training_fields
from sseg_jax.batch_fields import check_batch, follow_batch

__all__ = ["COMBINERS", "check_batch", "follow_batch", "get_config"]

# Values of `evaluate.combiner`; see inference/scoring.py.
COMBINERS = ("mean", "sum", "hard", "smallest")


def get_config() -> ml_collections.ConfigDict:
  """Returns the default configuration: the paper's model at batch 4096."""
  c = ml_collections.ConfigDict()

  # "sseg" learns from captions and pseudo-masks (the paper). "supervised"
  # trains the same network on the records' label maps: of a person, an upper
  # bound for comparisons; of another model, self-training (§3.7).
  c.task = "sseg"
  c.seed = 0
  # 30 epochs (as GroupViT) of the 11,156,203 pairs of CC12M that GroupViT could
  # fetch, at batch 4096. The paper's configs call `follow_batch`.
  c.total_steps = 81_690
  c.batch_size = 4096
  # Number of parts in which the towers take the batch, one after the other, if
  # it does not fit into memory. The loss is still that of the whole batch.
  c.accumulate_steps = 1
  c.image_size = 224  # training crop; a multiple of the backbone's stride
  # Type of the matrix products, "bfloat16" or "float32" (float16 would need
  # loss scaling). Parameters, losses, softmax, matching and K-means are always
  # float32.
  c.dtype = "bfloat16"
  # Whether Swin and the teacher compute attention in a Pallas kernel on TPUs.
  # False leaves it to XLA. (On CUDA GPUs the teacher always uses cuDNN.)
  c.pallas = True
  # "": random weights, or those that model.weights and text.weights name.
  # Otherwise a run or an exported folder, of which the run takes all arrays
  # that have the same name and shape here (tasks/start.py). Ignored when a run
  # resumes.
  c.start_from = ""

  c.model = ml_collections.ConfigDict()
  c.model.backbone = "swin_s"  # see models/backbones.py for the registry
  # "teacher" is no part of the paper: a frozen vision transformer gives regions
  # and their features (models/teacher.py). The next six fields are for it.
  # The transformer: a name in models/vit_sizes.py. Its weights are
  # pseudo_masks.weights, or if that is empty, the published ones of this name.
  c.model.teacher = "dino_vits8"
  # What a region is embedded from, written as pseudo_masks.feature. Each kind
  # has unit length in each cell.
  c.model.teacher_features = "tokens+keys:9+values:9"
  # Besides pseudo_masks.k regions, a picture has those of clusterings with so
  # many clusters. Scores of a pixel are averaged over its regions.
  c.model.teacher_more_k = ()
  c.model.teacher_masks = False  # a MaskFormer learns its clusters (loss.mask)
  # Last blocks whose copies are trained, for regions' features: "online" only;
  c.model.teacher_trained = 0  # optim.layer_decay lowers their rate.
  c.model.region_dropout = 0.0  # share of a region's features, while training
  # "": random weights, as in the paper. Otherwise a file's path, or a name in
  # models/published.py. It initialises the backbone, and both decoders if the
  # file is a MaskFormer (models/pretrained.py). Ignored when a run resumes.
  c.model.weights = ""
  # How classes are known. "text": by the embeddings of any words. The others
  # know only data.classes, and are for task="supervised": "classes" is
  # MaskFormer's own head, "upernet" classifies pixels over a ViT backbone, with
  # model.hidden_dim features, "linear" tokens of a ViT (fixed_classes.py).
  c.model.head = "text"
  c.model.frozen = False  # "linear": the backbone stays as it started
  c.model.drop_path = 0.1  # GroupViT; MaskFormer's 0.3 is for fine-tuning
  # "fpn": MaskFormer's BasePixelDecoder. "transformer_encoder": the decoder of
  # MaskFormer's panoptic models, with an encoder over the deepest level.
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
  # What the blocks of all networks store for the backward pass besides their
  # inputs: a name in `jax.checkpoint_policies`, such as "nothing_saveable" or
  # "dots_saveable". "none" switches rematerialisation off: all is stored.
  c.model.remat = "none"
  # Mask losses on every decoder layer, as MaskFormer does; the contrastive loss
  # always takes the last layer alone.
  c.model.deep_supervision = True
  # What the embedding of a query is computed from. "decoder": its feature after
  # the decoder, as in the paper. "mask_pooled": the mean of pixel features
  # under its own mask. "segments", the paper's baseline B2: no query and no
  # decoder; pseudo-masks are the masks, each with the mean of a ViT's tokens.
  c.model.query_embedding = "decoder"
  # "mask_pooled" only: the levels that are pooled, joined by "+". "res2" to
  # "res5" are levels of the backbone. "pixel" is the output of the pixel
  # decoder (stride 4), which depends on the whole picture through the deepest
  # level. "stem" is a separate small convolution network that only the captions
  # train; all of its stages are pooled, at strides 4, 8, 16 and 32.
  c.model.pool_feature = "pixel"
  c.model.stem_widths = (48,)
  c.model.stem_depths = (1,)
  # "mask_pooled" only. "soft" weights pixels by the mask's probabilities.
  # "hard" takes the pixels where no other query's logit is higher. "pseudo"
  # takes the pixels where the probability is over one half and no smaller mask
  # overlaps; in training, the picture's embedding comes from the pseudo-masks
  # instead, which are right from the first step.
  c.model.pool_masks = "soft"
  # "mask_pooled" only: whether the projection takes the mask's outline too.
  c.model.pool_outline = False
  c.model.pool_place = False  # likewise, the mask's position and size
  # "mask_pooled" only: width of a layer before the projection; 0 for none.
  c.model.region_hidden = 0
  c.model.pool_stride = 4  # "pseudo": pixels along a side of a mask's cell
  # Which queries the mean over queries includes: "all" (the paper) or "owners",
  # the queries whose logit is the highest at some pixel.
  c.model.counted_queries = "all"
  # Where the mean over queries is taken: "before" the projection (§3.5, as in
  # the paper) or "after" it, so that each query is projected separately.
  c.model.mean = "before"
  # Unit length for each query's embedding before the mean (mean="after" only).
  c.model.normalize_queries = False
  c.model.embed_dim = 256  # the joint space; GroupViT's output_dim
  c.model.proj_hidden = 4096  # GroupViT's ProjectMLP
  c.model.proj_norm = "bn"  # "bn" over the global batch, "ln" or "none"
  # Each head makes a part of the embedding, with a loss of its own.
  c.model.proj_heads = 1

  c.text = ml_collections.ConfigDict()
  c.text.layers = 12  # §4.1
  c.text.width = 256  # §4.1
  c.text.num_heads = 4  # width / 64, as CLIP and GroupViT
  c.text.context_length = 77
  c.text.dropout = 0.0
  # With n, a token's embedding is a vector of its own plus the sum of vectors
  # of the letter groups in it, divided by the root of their number. These are
  # shared: n vectors, picked by a hash, so that few captions teach "dog" by
  # "dogs". Not of the paper; 0 leaves it out.
  c.text.letter_groups = 0
  c.text.weights = ""  # as model.weights, for the text tower
  # "supervised" only: text tower and its projection stay as they started: words
  # which no label map has keep their meaning.
  c.text.frozen = False

  c.pseudo_masks = ml_collections.ConfigDict()
  c.pseudo_masks.generator = "pixels"  # see pseudo_masks/generator.py
  c.pseudo_masks.k = 8  # as GroupViT's last stage
  # "pixels", "spectral": image pixels along a side of a cell (Table 1). For the
  # other generators a cell is a patch of their network. Cached labels are read
  # at this stride.
  c.pseudo_masks.stride = 8
  # "online": computed inside the step. "cached": read from the records.
  c.pseudo_masks.mode = "online"
  # Weights of the frozen network: a file's path, or a name in
  # models/published.py; "" is the generator's usual network.
  c.pseudo_masks.weights = ""
  # How the network's table of positions is resized (models/positions.py). "" is
  # the rule of the code that the weights were published with. For a file it is
  # that of the generator's usual network, or "antialias" if the file has
  # registers.
  c.pseudo_masks.position_rule = ""
  # Attention heads of a file's network. 0 means one head per 64 features, as in
  # all published networks.
  c.pseudo_masks.num_heads = 0
  # The picture is enlarged by this factor before it goes into the teacher
  # network: a small student can learn from an enlarged picture. The result is
  # rounded to whole patches. With 1.0 nothing is rounded, and sides must be
  # multiples of the patch.
  c.pseudo_masks.scale = 1.0
  # What is clustered: "tokens" of the last layer after the final norm, or
  # "keys", "queries", "values". "keys:10" takes the keys of another layer.
  # Several, joined by "+", are concatenated.
  c.pseudo_masks.feature = "tokens"
  # Five switches of the networks' generators, none of them the paper's
  # (pseudo_masks/refine.py): the number of K-means runs, of which the best is
  # used; the radius in patches within which similar tokens are averaged (0
  # switches it off), and the temperature of that average; label cells per patch
  # along a side; the number of steps that fit masks to colours. Measured to be
  # good: 4, 4.0, 0.05, 4 and 5 (benchmarks/table1_rows.py).
  c.pseudo_masks.restarts = 1
  c.pseudo_masks.smooth_radius = 0.0
  c.pseudo_masks.smooth_temperature = 0.05
  c.pseudo_masks.upsample = 1
  c.pseudo_masks.colour_steps = 0
  c.pseudo_masks.iterations = 10  # Lloyd iterations, fixed
  c.pseudo_masks.metric = "euclidean"  # or "cosine"
  c.pseudo_masks.init = "kmeans++"  # or "farthest"
  c.pseudo_masks.position_weight = 0.5  # "pixels": weight of the position term
  # "pixels": passes of a 3x3 majority filter, which removes small specks.
  c.pseudo_masks.majority_passes = 0
  # "pixels": clusters closer than this are merged; 0 keeps all k (the paper).
  c.pseudo_masks.merge_distance = 0.0
  # "pixels": cluster centers are computed from every n-th cell along each side,
  # then every cell is assigned to the nearest center.
  c.pseudo_masks.fit_every = 1
  # "pixels": passes of a 3x3 median filter, which removes fine texture.
  c.pseudo_masks.median_passes = 0

  c.loss = ml_collections.ConfigDict()
  c.loss.mask = 1.0  # §3.6
  c.loss.contrastive = 1.0  # §3.6
  c.loss.dice = 1.0  # §3.6
  c.loss.focal = 20.0  # §3.6
  # Stride, in pixels, at which masks are compared: 1, 2 or 4. 1 is the size of
  # the picture (§3.4), 4 that of the logits, with a sixteenth of the work.
  c.loss.mask_stride = 1
  # With n, the mask loss uses every n-th picture of a batch, the contrastive
  # loss all. It needs model.teacher_masks, or a "stem" pooled under
  # pseudo-masks, where the contrastive loss does not use the backbone.
  c.loss.mask_every = 1
  # "supervised" only, where pseudo-masks are embedded: which masks are named.
  # "classes": one for each class of a label map. "pseudo_masks", the regions
  # that are named at test: each gets the label of most of its pixels.
  c.loss.label_regions = "classes"
  # What the contrastive loss compares. "global": a picture and a caption, as in
  # the paper. Two more, not of the paper, need model.mean="after":
  # "caption_attends", a caption and the regions that it attends to; "words",
  # each of its words and the regions that fit it best (contrastive.py).
  c.loss.contrastive_form = "global"
  # "caption_attends" and "words": factor of the cosines in the softmax over the
  # regions. A large one sees the best alone, 0 their mean.
  c.loss.sharpness = 10.0
  c.loss.max_words = 16  # "words": of a caption at most
  # "words": weight of asking each region for a word (region_words.py).
  c.loss.region_words = 0.0
  # 0 to 1; more asks less of regions that no word of their caption fits.
  c.loss.region_words_q = 0.0
  # model.head "classes" and "upernet": weights of classes, of "no object"
  # (MaskFormer), and of UperNet's auxiliary head (mmsegmentation).
  c.loss.classes = 1.0
  c.loss.no_object = 0.1
  c.loss.auxiliary = 0.4
  c.loss.init_temperature = 0.07  # CLIP; the paper only says "learnable"
  c.loss.max_logit_scale = 100.0  # clamped where it is used, as GroupViT does
  # Number of rows of the image-caption logits that exist at once, over all
  # devices; 0 means all. The loss is the same and needs less memory: for 32,768
  # pairs on 4 v5e chips 0.25 GB of each in blocks of 4096, else 4.5 (compiled).
  c.loss.contrastive_block = 0

  c.optim = ml_collections.ConfigDict()
  c.optim.peak_lr = 5e-4
  c.optim.start_lr = 1.25e-6  # GroupViT's 4e-6, scaled by 5e-4 / 1.6e-3
  c.optim.end_lr = 1.25e-5  # GroupViT's 4e-5, scaled alike
  c.optim.warmup_steps = 5446  # 2 epochs of CC12M, inside total_steps
  # "cosine", or "poly": (1 - step / total_steps) ** power times the warm-up.
  c.optim.schedule = "cosine"
  c.optim.power = 1.0
  # Factor of the rate from each block of a ViT backbone to the one before it;
  # BEiT and MAE are tuned with 0.65. 1 leaves all rates equal.
  c.optim.layer_decay = 1.0
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.eps = 1e-8
  # Not applied to biases, norms, embeddings, positions, queries,
  # relative-position tables and the logit scale (GroupViT, MaskFormer's Swin
  # recipe).
  c.optim.weight_decay = 0.05
  c.optim.clip_norm = 5.0  # global norm, GroupViT; 0 switches it off

  c.data = ml_collections.ConfigDict()
  # "records": TFRecords with a manifest, as `sseg_jax.prepare` writes them, in
  # the folders `train` (comma-separated). "shapes": the embedded data set,
  # written to the work directory at the start of the run.
  c.data.source = "records"
  c.data.train = ""
  # Shares of the folders in a batch: "2,1,1" takes half from the first, to
  # the nearest 1 / lanes. "" takes all records equally often.
  c.data.weights = ""
  c.data.val = ""  # held-out pairs for retrieval; optional
  # "supervised" only: names of the labels 0, 1, …, "background" first if label
  # 0 is that. Empty: the list of the records.
  c.data.classes = ()
  # Parts of the global order of records; must divide batch_size (pipeline.py).
  c.data.lanes = 64
  c.data.shuffle_window = 4096  # records permuted together
  c.data.crop_scale = (0.4, 1.0)  # area share of the random crop (OVSegmentor)
  c.data.crop_ratio = (3 / 4, 4 / 3)
  c.data.flip = 0.5
  # Share of the strongest photometric change (brightness, contrast, saturation,
  # hue); 0 switches it off. Only the student's picture is changed.
  c.data.photometric = 0.0
  c.data.word_dropout = 0.0  # share of a caption's words left out at random
  c.data.max_bad_share = 0.05  # the run stops at more unreadable records
  c.data.threads = 8
  # "shapes" only.
  c.data.shapes = ml_collections.ConfigDict()
  c.data.shapes.train_size = 16_384
  c.data.shapes.eval_size = 256  # pictures of each held-out split
  c.data.shapes.hard_share = 0.5  # of the training pictures, from the hard kind

  c.self_training = self_training_fields.defaults()  # S-Seg+

  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # devices along the batch; -1: all devices / fsdp
  c.mesh.fsdp = 1  # devices over which parameters are split

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every_steps = 1000
  c.checkpoint.every_minutes = 30.0
  c.checkpoint.keep = 3  # how many of the newest checkpoints are kept
  # How many of the best-scoring checkpoints are kept as well. Evaluations
  # between steps give the scores. All commands accept WORKDIR/best.
  c.checkpoint.keep_best = 1
  # The score that decides, by its name in TensorBoard, e.g. "mIoU/voc". Empty:
  # the mean mIoU of all benchmarks, or R@1 if there are no benchmarks.
  c.checkpoint.best_score = ""

  c.log_every_steps = 50
  c.max_bad_steps = 20  # steps in a row with a non-finite loss before the stop
  # If a step takes longer than this, and longer than ten times the median, a
  # warning shows the stack of every thread; 0 switches it off.
  c.watchdog_minutes = 10.0

  c.evaluate = evaluate_fields.defaults()
  return c
