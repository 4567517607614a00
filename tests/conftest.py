"""Settings and fixtures that all tests share."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import xla_flags

# Before anything imports JAX: the suite measures correctness, not devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_FLAGS", xla_flags.FAST)
# Threads of torch and scikit-learn that wait for each other take six times the
# time of one thread where other processes use the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one test compiles, others and the commands that they start read: workers
# of one run have the folder of the process that started them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  folder = tempfile.mkdtemp(prefix="sseg_jax_compiled_")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  # To write programs that compile sooner took longer than reading them saved.
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"

import jax
import jaxtyping
import ml_collections
import numpy as np
import optax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# To trace a network makes many objects that live: with the default, a tenth of
# the time goes to looking for garbage among them.
gc.set_threshold(100_000, 20, 20)

ROOT = pathlib.Path(__file__).parents[1]


# The files that take longest. Their tests start several processes.
_FIRST = ("test_multihost.py", "test_kill_trials.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Starts the longest first: else one worker waits for another at the end."""
  items.sort(key=lambda item: item.path.name not in _FIRST)


def pytest_configure(config: pytest.Config) -> None:
  """Looks for garbage once at the end, not five times: two seconds for each."""
  from _pytest import unraisableexception  # not pytest's public interface

  if key := getattr(unraisableexception, "gc_collect_iterations_key", None):
    config.stash[key] = 1


@pytest.fixture(scope="session", autouse=True)
def contexts_without_threads() -> Iterator[None]:
  """Keeps the time to lower a program from growing with their number.

  JAX lowers each program in a new context of MLIR. A context that may be used
  by several threads leaves a cache in each of them, and every later program
  walks through all caches of its thread: after 2,000 small programs, the next
  takes twice as long. A worker of this suite lowers more than 5,000.
  """
  from jax._src.interpreters import mlir

  class OneThread(mlir.JaxIrContext):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      self.enable_multithreading(False)

    def set_thread_pool(self, pool):
      pass

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mlir, "JaxIrContext", OneThread)
    yield


@pytest.fixture(autouse=True)
def lowered_programs_are_dropped() -> Iterator[None]:
  """Frees, after each test, the MLIR of the programs that were compiled.

  JAX keeps up to thousands of them, each with a context of more than a
  megabyte, and to make the next context takes longer the more there are.
  Functions that were compiled stay compiled.
  """
  yield
  from jax._src import pjit
  from jax._src.interpreters import pxla

  for module, name in (
    (pjit, "_pjit_lower"),
    (pxla, "_cached_lowering_to_hlo"),
  ):
    if cache := getattr(module, name, None):  # not JAX's public interface
      cache.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def package_init() -> Iterator[Callable]:
  """Makes the networks of one configuration once, their weights too.

  Replaces `sseg.build` and `sseg.init`; see `built_once`.

  Yields:
    the package's own `init`.
  """
  import built_once

  with pytest.MonkeyPatch.context() as patch:
    yield built_once.replace(patch)


@pytest.fixture(scope="module")
def signs_of_gradients() -> Iterator[None]:
  """Steps by the sign of the gradient, which is how AdamW takes its first step.

  AdamW itself is two fifths of what a step of a tiny network compiles. For
  tests of what else a step does; clipping and frozen parts stay.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(optax, "adamw", lambda rate, **_: optax.sign_sgd(rate))
    yield


@pytest.fixture
def flags_of_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
  """Removes, for one test, the flags that would end libtpu and the process.

  libtpu reads `XLA_FLAGS` when a process loads it. That of the CPU was loaded
  before, with all flags.
  """
  jax.devices()
  flags = xla_flags.without_cpu_only(os.environ.get("XLA_FLAGS", ""))
  monkeypatch.setenv("XLA_FLAGS", flags)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Folder of real pictures, masks and weights beside the repository."""
  path = ROOT.parent / "shared"
  if not path.is_dir():
    pytest.skip("needs the folder `shared` beside the repository")
  return path


@pytest.fixture
def rng() -> np.random.Generator:
  """Random numbers, the same in every run."""
  return np.random.default_rng(0)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
  """Lets calls through to the package's own checks of types.

  jaxtyping's checker looks at one item of a list, drawn at random: a test that
  puts a wrong item among right ones would fail now and then.
  """
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def tiny_config() -> ml_collections.ConfigDict:
  """The default configuration, shrunk to compile in seconds on a CPU."""
  return _tiny_config()


@pytest.fixture(scope="session")
def stored_network(
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A folder with a tiny network: a work directory `run`, and an `export`."""
  import stored

  folder = tmp_path_factory.mktemp("stored")
  stored.write(folder / "run", folder / "export", _tiny_config())
  return folder


@pytest.fixture(scope="module")
def stored_model(stored_network: pathlib.Path) -> object:
  """The export of `stored_network`, loaded."""
  import sseg_jax

  return sseg_jax.load(stored_network / "export")


@pytest.fixture
def coloured(monkeypatch: pytest.MonkeyPatch) -> object:
  """A model that finds red, green and blue; see test_segmenter."""
  from test_segmenter import PARAMS, config, fake_network

  from sseg_jax.inference import api, segmenter

  monkeypatch.setattr(segmenter, "sseg", fake_network())
  network = segmenter.SSegSegmenter(PARAMS, {}, config())
  return api.Model(
    network, templates=("{}",), threshold=None, step=1, metadata={}
  )


@pytest.fixture(scope="module")
def tally() -> Iterator[None]:
  """Prints what the fuzz tests of a file have counted."""
  import hostile

  yield
  hostile.report()


@pytest.fixture
def sandbox(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> object:
  """A `hostile.Sandbox`, its home folder too; the hub is not asked."""
  import hostile

  for name in ("out", "home", "here"):
    (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path / "here")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  return hostile.Sandbox(tmp_path)


TINY_VIT = dict(
  patch=16, depth=3, grid=2, position_rule="size", width=16, num_heads=2
)


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch) -> None:
  """A ViT backbone that compiles in seconds, named tiny_vit."""
  from sseg_jax.models import backbones, vit_pyramid

  entry = (vit_pyramid.ViTPyramid, TINY_VIT)
  monkeypatch.setitem(backbones.BACKBONES, "tiny_vit", entry)
  monkeypatch.setitem(vit_pyramid.PYRAMID_SIZES, "tiny_vit", TINY_VIT)


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], ml_collections.ConfigDict]:
  """Makes what `tiny_config` is, for fixtures of a wider scope."""
  return _tiny_config


def _tiny_config() -> ml_collections.ConfigDict:
  from sseg_jax import default_config

  c = default_config.get_config()
  c.batch_size = 8
  c.total_steps = 10
  c.image_size = 32
  c.dtype = "float32"
  c.model.backbone = "conv_tiny"
  c.model.drop_path = 0.0
  c.model.hidden_dim = 32
  c.model.mask_dim = 32
  c.model.num_queries = 8
  # One layer compiles much sooner. Tests of what layers do to each other take
  # two.
  c.model.decoder_layers = 1
  c.model.num_heads = 4
  c.model.ffn_dim = 64
  c.model.embed_dim = 32
  c.model.proj_hidden = 64
  c.text.layers = 1
  c.text.width = 32
  c.text.num_heads = 2
  c.text.context_length = 16
  c.pseudo_masks.k = 4
  c.pseudo_masks.stride = 4
  c.optim.warmup_steps = 2
  c.optim.clip_norm = 0.0  # a sixth of what a step compiles
  c.data.lanes = 4
  c.data.shuffle_window = 16
  c.data.threads = 1
  c.data.shapes.train_size = 32
  c.data.shapes.eval_size = 4
  c.checkpoint.every_steps = 5
  c.log_every_steps = 1
  c.evaluate.every_steps = 10
  c.evaluate.image_size = 32
  c.evaluate.stride = 16
  return c
