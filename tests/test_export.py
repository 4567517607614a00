"""Exports: the same pixels in every format, by files that need no package."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_vit
import test_eye
from PIL import Image

import sseg_jax
from sseg_jax import default_config, export
from sseg_jax.checkpoints import checkpoint, exported
from sseg_jax.errors import InputError
from sseg_jax.exporting import (
  folder,
  formats,
  push,
  source,
  to_jax,
  to_savedmodel,
  to_transformers,
  verify,
  write,
)
from sseg_jax.images import reader
from sseg_jax.inference import background, scoring
from sseg_jax.models import sseg, vit_sizes
from sseg_jax.pseudo_masks import kmeans, unrolled

WORDS = ("cat", "café crème", "sky & sea")
COUNTS = {"words": {"cat": 3}, "captions": 9, "records": 9, "of": 9}
# Alone in a fresh process: what a runner may not find.
BLOCKED = "import sys; sys.modules['sseg_jax'] = None; sys.argv = sys.argv[1:];"
BLOCKED += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"


def _like_the_quickstart(c):
  # But for what chooses a query, the combiner "smallest" and pooling under
  # masks "pseudo": with random weights all queries are equal, and rounding
  # would choose.
  c.model.update(
    query_embedding="mask_pooled",
    pool_feature="stem",
    pool_masks="soft",
    pool_outline=True,
    region_hidden=32,
    counted_queries="owners",
    mean="after",
    normalize_queries=True,
    stem_widths=(8,),
    stem_depths=(1,),
  )
  c.pseudo_masks.update(
    generator="pixels",
    init="farthest",
    fit_every=2,
    iterations=3,
    median_passes=1,
    merge_distance=0.1,
    majority_passes=1,
    stride=1,
  )
  c.model.pool_stride = 1
  c.evaluate.update(combiner="mean", refine="pseudo_masks")


def _source(config) -> source.Source:
  params, state = jax.tree.map(np.asarray, sseg.init(config, 3))
  metadata = {"word_counts": COUNTS}
  loaded = checkpoint.Loaded(config.to_dict(), params, state, 7, metadata)
  return source.make(loaded, words=WORDS)


@pytest.fixture(scope="module", params=["paper", "quickstart"])
def made(request, make_tiny_config):
  config = make_tiny_config()
  config.model.decoder_layers = 2  # each keeps its own weights
  if request.param == "quickstart":
    _like_the_quickstart(config)
  return _source(config)


@pytest.fixture(scope="module")
def plain(make_tiny_config):
  return _source(make_tiny_config())


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
  """A checkpoint that commands read: an exported folder is one."""
  path = tmp_path_factory.mktemp("stored")
  exported.save(
    path,
    {"params": plain.loaded.params, "model_state": plain.loaded.model_state},
    folder.fields(plain, "none"),
  )
  return path


@pytest.fixture
def no_unknown_sizes_checked(unchecked_types):
  """Programs of unknown sizes are traced: shapes are no numbers there."""


def _need(name):
  if missing := formats.FORMATS[name].missing():
    pytest.skip(f"needs {', '.join(missing)}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters
@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_gives_the_same_pixels_without_this_package(
  name, made, tmp_path, no_unknown_sizes_checked
):
  _same_pixels(name, made, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters
def test_onnx_holds_an_eye_and_a_bag_of_words(
  tmp_path, tiny_config, monkeypatch, no_unknown_sizes_checked
):
  # It knows neither loops over a batch nor a choice between booleans.
  monkeypatch.setitem(vit_sizes.VIT_SIZES, "tiny", small_vit.SIZES)
  weights = small_vit.write(tmp_path / "vit.npz")
  test_eye.eye_config(tiny_config, weights)
  tiny_config.model.teacher_more_k = (2,)
  tiny_config.pseudo_masks.restarts = 2
  tiny_config.pseudo_masks.iterations = 3  # each is written out
  (tmp_path / "out").mkdir()
  _same_pixels("onnx", _source(tiny_config), tmp_path / "out")


def _same_pixels(name, made, tmp_path):
  """Writes a format, runs its own program, and compares its pixels."""
  _need(name)
  pictures = verify.pictures(made.segmenter.image_size)
  functions = [dict(vars(module)) for module in (jax.numpy, jax.lax, jax.nn)]
  done = write.write(made, name, tmp_path, pictures)
  for before, module in zip(
    functions, (jax.numpy, jax.lax, jax.nn), strict=True
  ):
    changed = [k for k, v in before.items() if vars(module).get(k) is not v]
    assert not changed, f"a converter leaves these changed: {changed}"
  refined = done.refine != "none"
  assert done.report.difference <= (1e-2 if refined else 1e-4)
  assert done.report.equal >= 0.999
  assert done.refine == made.config.evaluate.refine
  assert sorted(os.listdir(tmp_path)) == [name]
  Image.fromarray(pictures[2]).save(tmp_path / "picture.png")
  subprocess.run(
    [sys.executable, "-c", BLOCKED, done.path / "run.py"]
    + ["--image", tmp_path / "picture.png", "--words", ",".join(WORDS)]
    + ["--out", tmp_path / "labels.png"],
    check=True,
    cwd=tmp_path,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
  )
  labels = np.asarray(Image.open(tmp_path / "labels.png"))
  wanted = made.model(done.refine).segment(pictures[2], WORDS).labels
  assert (labels == wanted).mean() >= 0.999
  fields = json.loads((done.path / "config.json").read_text())
  assert exported.KEYS.keys() <= fields.keys()
  card = (done.path / "README.md").read_text()
  for part in ("## Licences", "| code", "| weights", "| data", "MIT"):
    assert part in card


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_runner_is_short_and_whole(name, fixed):
  text = folder.runner(name, fixed)
  assert len(text.splitlines()) <= 100
  assert "sseg_jax" not in text and "NotImplemented" not in text
  compile(text, "run.py", "exec")


@pytest.mark.parametrize("combiner", ["mean", "sum", "smallest"])
@pytest.mark.parametrize("stored_of", [None, 1, 2, 5])
@pytest.mark.parametrize("words", [1, 2, 5])
def test_a_runner_finds_the_same_threshold(
  combiner, stored_of, words, rng, tmp_path
):
  metadata = {}
  if stored_of:
    metadata = background.to_store({"a": 0.3}, {"a": stored_of}, combiner)
  rule = background.portable(metadata, combiner, None)
  best = np.exp(rng.normal(size=(20, 30)) - 3 * (rng.random((20, 30)) < 0.4))
  best = best.astype(np.float32) if words > 1 else np.ones((20, 30), "f4")
  known = background.stored(metadata, "default", words, combiner)
  wanted = known or background.without_labels(best, words, combiner)
  (tmp_path / "run.py").write_text(folder.runner("stablehlo"))
  found = verify.module(tmp_path).threshold(rule, best, words)
  labels = background.apply_threshold(
    best, np.zeros(best.shape, int), wanted.value
  )
  np.testing.assert_array_equal(
    background.apply_threshold(best, np.zeros(best.shape, int), found), labels
  )


@pytest.mark.parametrize("size", [(96, 120), (20, 30), (37, 80), (37, 53)])
def test_a_runner_resizes_to_the_same_bits(size, rng, tmp_path):
  # A rounding error may change which query a pixel takes.
  (tmp_path / "run.py").write_text(folder.runner("stablehlo"))
  image = rng.integers(0, 256, (37, 53, 3), np.uint8)
  found = verify.module(tmp_path).resize(image.astype(np.float32), size)
  np.testing.assert_array_equal(found, reader.resize(image, *size))


@pytest.mark.slow
def test_a_runner_makes_the_same_tokens(plain, tmp_path):
  words = ["cat", "Café  crème", "it's 2 &amp; ☃", "long " * 40]
  folder.add_runner(tmp_path, "stablehlo", 16)
  fields = {"templates": ["a {}.", "{}"], "context_length": 16}
  run = verify.module(tmp_path)
  found = run.token_ids(fields, words)
  texts = [t.replace("{}", w) for w in words for t in fields["templates"]]
  wanted = plain.segmenter._tokenizer(texts)
  np.testing.assert_array_equal(found.reshape(8, -1), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("init", kmeans.INITS)
@pytest.mark.parametrize("metric", kmeans.METRICS)
def test_unrolled_kmeans_equals_the_loops(init, metric, restarts, rng):
  points = rng.normal(size=(3, 40, 4)).astype(np.float32)
  # Few distinct points, but not fewer than clusters: between equal centers
  # rounding would choose.
  points[1, 6:] = points[1, 0]
  how = dict(k=5, iterations=4, metric=metric, init=init, restarts=restarts)
  for folded, key in (
    (None, jax.random.key(0)),
    (7, jax.random.fold_in(jax.random.key(0), 7)),
  ):
    keys = jax.numpy.broadcast_to(key, (3,))
    wanted = kmeans.kmeans(points, keys, **how)
    found = jax.jit(functools.partial(unrolled.kmeans, **how, folded=folded))(
      points, None
    )
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.valid, wanted.valid)
    np.testing.assert_allclose(found.centers, wanted.centers, atol=1e-5)
    np.testing.assert_allclose(found.inertia, wanted.inertia, rtol=1e-4)


@pytest.mark.parametrize("combiner", default_config.COMBINERS)
def test_scores_are_combined_as_in_the_package(combiner, plain, rng):
  logits = rng.normal(scale=60, size=(2, 8, 6, 7)).astype(np.float32)
  p = rng.dirichlet(np.ones(5), size=(2, 8)).astype(np.float32)
  towers = dataclasses.replace(plain.towers("none"), combiner=combiner)
  logits, p = jax.numpy.asarray(logits), jax.numpy.asarray(p)
  wanted = scoring.combine(logits, p, combiner)
  np.testing.assert_allclose(towers._combine(logits, p), wanted, atol=1e-5)


def test_erf_equals_scipys():
  special = pytest.importorskip("scipy.special")
  x = np.linspace(-7, 7, 10_001).astype(np.float32)
  np.testing.assert_allclose(
    to_savedmodel.erf(jax.numpy.asarray(x)), special.erf(x), atol=1e-6
  )


def _wrong(towers, part, fields):
  scaled = {name: 2 * array for name, array in towers.weights.items()}
  other = dataclasses.replace(towers, weights=scaled)
  to_jax.write_stablehlo(other, part, fields)


def _breaks(towers, part, fields):
  (part / "half").write_text("half")
  raise RuntimeError("no such operation\nand more")


@pytest.mark.slow
@pytest.mark.parametrize(
  "writer, reason",
  [(_wrong, "the check failed: scores differ"), (_breaks, "no such operation")],
)
def test_a_format_that_fails_leaves_nothing(
  writer, reason, plain, tmp_path, monkeypatch, no_unknown_sizes_checked
):
  _need("safetensors")
  bad = dataclasses.replace(formats.FORMATS["safetensors"], write=writer)
  monkeypatch.setitem(formats.FORMATS, "stablehlo", bad)
  pictures = verify.pictures(32)[:1]
  with pytest.raises(write.NotWritten, match=reason) as caught:
    write.write(plain, "stablehlo", tmp_path, pictures)
  assert len(str(caught.value).splitlines()) == 1
  assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_refinement_that_cannot_be_held_is_left_out_and_told(
  make_tiny_config, tmp_path, monkeypatch, no_unknown_sizes_checked
):
  _need("safetensors")
  config = make_tiny_config()
  _like_the_quickstart(config)
  usual = formats.FORMATS["safetensors"].write

  def picky(towers, part, fields):
    if towers.refined:
      raise NotImplementedError("no loops")
    usual(towers, part, fields)

  picky = dataclasses.replace(formats.FORMATS["safetensors"], write=picky)
  monkeypatch.setitem(formats.FORMATS, "safetensors", picky)
  pictures = verify.pictures(32)[:1]
  done = write.write(_source(config), "safetensors", tmp_path, pictures)
  assert done.refine == "none"
  assert "without refinement" in done.notes[0] and "no loops" in done.notes[0]
  fields = json.loads((done.path / "config.json").read_text())
  assert fields["preprocessing"]["refine"] == "none"
  assert 0 <= fields["equal_to_refined"] <= 1
  assert "**Without refinement.**" in (done.path / "README.md").read_text()


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--format=onxx"], "format='onxx' is unknown"),
    (["--format=onnx,,"], "format='' is unknown"),
    (["--format=onnx", "--to=transformers"], "does not go with"),
    (["--push=name"], "push='name': give org/name"),
    (["--words=cat,,dog"], "word 2 is empty"),
  ],
)
def test_bad_flags_are_one_line(flags, message, stored, tmp_path, capsys):
  out = tmp_path / "out"
  common = [f"--checkpoint={stored}", f"--out={out}"]
  assert export.main([*common, *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1
  assert not out.exists()


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path, capsys):
  out = tmp_path / "out"
  assert export.main([f"--checkpoint={tmp_path}/no", f"--out={out}"]) == 2
  error = capsys.readouterr().err
  assert "no" in error and len(error.splitlines()) == 1
  assert not out.exists()


@pytest.mark.slow
def test_a_folder_that_exists_stays_as_it_is(stored, tmp_path, capsys):
  _need("safetensors")
  (tmp_path / "safetensors").mkdir()
  flags = [f"--checkpoint={stored}", f"--out={tmp_path}"]
  assert export.main([*flags, "--format=safetensors"]) == 2
  error = capsys.readouterr().err
  assert "safetensors exists there already" in error
  assert len(error.splitlines()) == 1
  (tmp_path / "file").write_text("")
  flags = [f"--checkpoint={stored}", f"--out={tmp_path / 'file'}"]
  assert export.main([*flags, "--format=safetensors"]) == 2
  assert "is a file" in capsys.readouterr().err


def test_formats_that_cannot_be_written_are_named_with_a_command(monkeypatch):
  lacking = dataclasses.replace(formats.FORMATS["onnx"], modules=("no_onnx",))
  monkeypatch.setitem(formats.FORMATS, "onnx", lacking)
  names, lines = formats.chosen(None)
  assert "onnx" not in names
  assert "onnx" in lines[0] and "`pip install jax2onnx" in lines[0]
  with pytest.raises(InputError, match="pip install"):
    formats.chosen("onnx")


class _Hub:
  """Stands in for `huggingface_hub.HfApi`: keeps what it is given."""

  made: list = []

  def create_repo(self, repository, exist_ok):
    assert exist_ok
    self.made.append(repository)

  def create_commit(self, repository, operations, commit_message):
    self.made.append({o.path_in_repo for o in operations})
    return type("Made", (), {"repo_url": f"https://example.org/{repository}"})


def test_push_puts_safetensors_at_the_top(tmp_path, monkeypatch):
  hub = pytest.importorskip("huggingface_hub")
  monkeypatch.setattr(hub, "HfApi", _Hub)
  for path in ("safetensors/config.json", "onnx/a/b.onnx", "other/secret"):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("{}")
  _Hub.made.clear()
  address = push.push(tmp_path, ["safetensors", "onnx"], "org/name")
  assert address == "https://example.org/org/name"
  assert _Hub.made == ["org/name", {"config.json", "onnx/a/b.onnx"}]


def test_push_without_a_connection_is_one_line(tmp_path, monkeypatch):
  pytest.importorskip("huggingface_hub")
  # Nobody listens at that port.
  monkeypatch.setattr(
    "huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"
  )
  monkeypatch.setenv("HF_TOKEN", "hf_x")
  (tmp_path / "safetensors").mkdir()
  (tmp_path / "safetensors" / "config.json").write_text("{}")
  from sseg_jax.errors import Unavailable

  with pytest.raises(Unavailable, match="push=org/name: cannot be") as caught:
    push.push(tmp_path, ["safetensors"], "org/name")
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backbone", ["swin_t", "resnet50"])
def test_transformers_loads_the_image_tower(
  backbone, make_tiny_config, tmp_path
):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  config = make_tiny_config()
  config.model.update(backbone=backbone, memory="res5", hidden_dim=256)
  config.model.decoder_layers = 2  # each keeps its own weights
  config.evaluate.image_size = 64  # torch normalises no map of a single cell
  made = _source(config)
  written, failed = write.transformers_alone(
    made, ["transformers"], tmp_path, None, print
  )
  assert not failed, failed
  assert [w.name for w in written] == ["transformers"]
  assert (tmp_path / "transformers" / "model.safetensors").is_file()


def test_transformers_has_no_narrow_decoder(tiny_config):
  pytest.importorskip("transformers")
  tiny_config.model.update(backbone="resnet50", memory="res5")
  with pytest.raises(InputError, match="model.hidden_dim=32"):
    to_transformers.check(tiny_config)


def test_transformers_has_no_other_backbone(stored, tmp_path, capsys):
  pytest.importorskip("transformers")
  flags = [f"--checkpoint={stored}", f"--out={tmp_path / 'o'}"]
  assert export.main([*flags, "--to=transformers"]) == 2
  error = capsys.readouterr().err
  assert "model.backbone='conv_tiny'" in error
  assert len(error.splitlines()) == 1


def test_the_checkpoint_may_be_an_export(stored):
  assert isinstance(stored, pathlib.Path)
  assert sseg_jax.load(stored).step == 7


@pytest.mark.slow
def test_an_export_tells_of_words_that_were_rare_in_training(stored, capsys):
  model = sseg_jax.load(stored)
  assert model.metadata["word_counts"] == COUNTS
  image = np.zeros((32, 32, 3), np.uint8)
  for _ in range(2):
    model.segment(image, "cat, zebra")
  assert capsys.readouterr().err == (
    "note: never seen: 'zebra'; seldom seen: 'cat' in 3; counted in the 9"
    " captions of training\n"
  )
