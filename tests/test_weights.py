"""Weights: formats, names, strictness, and downloads that go on."""

import dataclasses
import http.server
import pickle
import socket
import threading
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from sseg_jax.errors import InputError
from sseg_jax.models import published, vit_weights, weights

SIZES = dict(patch=4, width=64, depth=2, num_heads=1, grid=3)


def arrays(seed=0):
  """Random weights of a small network under DINO's names."""
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, (shape, _) in vit_weights._expected(SIZES).items()
  }


def transformers_names(original):
  """The same weights as transformers 4 names them."""
  named = {}
  for name, array in original.items():
    name = name.replace("blocks.", "encoder.layer.")
    name = name.replace("norm1", "layernorm_before")
    name = name.replace("norm2", "layernorm_after")
    name = name.replace("attn.proj", "attention.output.dense")
    name = name.replace("mlp.fc1", "intermediate.dense")
    name = name.replace("mlp.fc2", "output.dense")
    name = name.replace("pos_embed", "embeddings.position_embeddings")
    name = name.replace("cls_token", "embeddings.cls_token")
    name = name.replace(
      "patch_embed.proj", "embeddings.patch_embeddings.projection"
    )
    if name.startswith("norm."):
      name = "layernorm." + name.removeprefix("norm.")
    if "attn.qkv" in name:
      for part, piece in zip(
        ("query", "key", "value"), np.split(array, 3), strict=True
      ):
        named[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
    else:
      named[name] = array
  return named


def save(path, values):
  if path.suffix == ".npz":
    np.savez(path, **values)
  elif path.suffix == ".safetensors":
    safetensors.numpy.save_file(values, path)
  else:
    torch = pytest.importorskip("torch")
    teacher = {
      f"module.backbone.{k}": torch.from_numpy(v) for k, v in values.items()
    }
    # As older files have them.
    name = "module.backbone.cls_token"
    teacher[name] = torch.nn.Parameter(teacher[name])
    teacher["module.head.mlp.0.weight"] = torch.zeros(3)
    torch.save({"teacher": teacher, "epoch": 3}, path)
  return path


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_formats_give_the_same_network(tmp_path, suffix):
  path = save(tmp_path / f"w{suffix}", arrays())
  graphdef, params = vit_weights.load(path)
  equal(params, vit_weights.convert(arrays(), SIZES))
  model = nnx.merge(graphdef, params)
  assert (model.patch, model.depth, model.grid) == (4, 2, 3)
  assert model(jnp.zeros((1, 8, 12, 3))).shape == (1, 7, 64)


def test_names_of_transformers(tmp_path):
  values = transformers_names(arrays()) | {
    "pooler.dense.weight": np.zeros((2, 2), np.float32),
    "embeddings.mask_token": np.zeros((1, 64), np.float32),
  }
  path = save(tmp_path / "w.safetensors", values)
  equal(
    vit_weights.load(path)[1],
    vit_weights.convert(arrays(), SIZES),
  )


def test_half_precision_is_read_as_float32(tmp_path):
  values = {k: v.astype(np.float16) for k, v in arrays().items()}
  params = vit_weights.load(save(tmp_path / "w.npz", values))[1]
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    np.dtype("float32")
  }


def test_linear_layers_are_transposed():
  params = vit_weights.convert(arrays(), SIZES)
  np.testing.assert_array_equal(
    params["blocks"][1]["mlp_in"]["kernel"],
    arrays()["blocks.1.mlp.fc1.weight"].T,
  )
  np.testing.assert_array_equal(
    params["patch_embedding"]["kernel"][1, 2, 0, 5],
    arrays()["patch_embed.proj.weight"][5, 0, 1, 2],
  )


def _without(name):
  values = arrays()
  del values[name]
  return values


@pytest.mark.parametrize(
  "values, message",
  [
    (_without("blocks.1.mlp.fc2.bias"), "missing: blocks.1.mlp.fc2.bias"),
    (_without("cls_token"), "cls_token is missing"),
    (_without("blocks.0.mlp.fc1.weight"), "blocks.0.mlp.fc1.weight is missing"),
    (
      arrays() | {"blocks.1.attn.gate": np.zeros(3, np.float32)},
      "left over: blocks.1.attn.gate",
    ),
    (
      arrays() | {"norm.weight": np.zeros(65, np.float32)},
      r"norm.weight has shape \(65,\) where \(64,\)",
    ),
    (
      arrays() | {"pos_embed": np.zeros((1, 12, 64), np.float32)},
      "11 cells, which is no square",
    ),
    (
      arrays() | {"cls_token": np.zeros((), np.float32)},
      r"cls_token has shape \(\) where 3 dimensions",
    ),
    (
      arrays() | {"pos_embed": np.zeros(10, np.float32)},
      r"pos_embed has shape \(10,\) where 3 dimensions",
    ),
    (
      arrays() | {"blocks.x.gate": np.zeros(3, np.float32)},
      "left over: blocks.x.gate",
    ),
    (arrays() | {"norm.weight": np.zeros(64, int)}, "norm.weight holds int64"),
    (
      arrays() | {"norm.bias": np.full(64, np.nan, np.float32)},
      "norm.bias holds NaN",
    ),
    (
      transformers_names(arrays())
      | {
        "encoder.layer.0.attention.attention.value.weight": np.zeros(
          (64, 32), np.float32
        )
      },
      r"blocks.0.attn.v.weight have the shapes .*\(64, 32\), which must be",
    ),
  ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, values, message):
  with pytest.raises(InputError, match=f"w.npz: .*{message}"):
    vit_weights.load(save(tmp_path / "w.npz", values))


def test_a_missing_part_of_the_attention(tmp_path):
  values = transformers_names(arrays())
  del values["encoder.layer.1.attention.attention.value.bias"]
  with pytest.raises(InputError, match="blocks.1.attn.v.bias is missing"):
    vit_weights.load(save(tmp_path / "w.npz", values))


def test_files_that_are_none(tmp_path):
  with pytest.raises(InputError, match="nowhere.npz: no such file"):
    vit_weights.load(tmp_path / "nowhere.npz")
  with pytest.raises(InputError, match="neither a file nor one of dino_vits8"):
    vit_weights.load("dino_vits9")
  other = tmp_path / "w.onnx"
  other.write_bytes(b"x")
  with pytest.raises(InputError, match="w.onnx: weights are read from"):
    vit_weights.load(other)
  for name in ("w.safetensors", "w.npz"):
    broken = tmp_path / name
    broken.write_bytes(b"not a file of weights")
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
      vit_weights.load(broken)


class Bomb:
  def __reduce__(self):
    return (pytest.fail, ("a pickle was executed",))


def test_a_pickle_is_not_executed(tmp_path):
  pytest.importorskip("torch")
  path = tmp_path / "w.pth"
  path.write_bytes(pickle.dumps({"model": Bomb()}))
  with pytest.raises(InputError, match="w.pth: cannot be read"):
    vit_weights.load(path)
  np.savez(tmp_path / "w.npz", x=np.array([Bomb()], object))
  with pytest.raises(InputError, match="w.npz: cannot be read"):
    vit_weights.load(tmp_path / "w.npz")


def test_pth_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  path = tmp_path / "w.pth"
  path.write_bytes(b"x")
  with pytest.raises(InputError, match="needs PyTorch.*safetensors"):
    vit_weights.load(path)


class Server(http.server.BaseHTTPRequestHandler):
  """Serves `body` with ranges, and breaks off after `limit` bytes."""

  body, limit, ranges = b"", 1 << 30, []

  def do_GET(self):
    asked = self.headers.get("Range")
    type(self).ranges.append(asked)
    start = int(asked[6:-1]) if asked else 0
    if start >= len(self.body):
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(self.body)}")
      self.send_header("Content-Length", "0")
      self.end_headers()
      return
    part = self.body[start:]
    self.send_response(206 if asked else 200)
    self.send_header("Content-Length", str(len(part)))
    if asked:
      end = len(self.body)
      self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
    self.end_headers()
    self.wfile.write(part[: self.limit])

  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A server on this machine that holds one published file."""
  save(tmp_path / "source.npz", arrays())
  handler = type("Handler", (Server,), {"ranges": []})
  handler.body = (tmp_path / "source.npz").read_bytes()
  listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  thread = threading.Thread(target=listening.serve_forever)
  thread.start()
  url = f"http://127.0.0.1:{listening.server_address[1]}/net.npz"
  entry = published.Published(url, "dino_vits8", 1, "none")
  monkeypatch.setattr(published, "PUBLISHED", {"net": entry})
  monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
  yield handler
  listening.shutdown()
  listening.server_close()
  thread.join()


def test_download_once_then_from_the_cache(server, tmp_path):
  path = weights.fetch("net")
  assert path == tmp_path / "cache" / "net.npz"
  assert path.read_bytes() == server.body
  assert weights.fetch("net") == path
  assert server.ranges == [None]


def test_a_download_goes_on_where_it_broke_off(server, tmp_path):
  server.limit = 1000
  with pytest.raises(InputError, match="1000 of .* bytes.*start again|cannot"):
    weights.fetch("net")
  part = tmp_path / "cache" / "net.npz.part"
  assert part.stat().st_size == 1000
  server.limit = 1 << 30
  assert weights.fetch("net").read_bytes() == server.body
  assert server.ranges == [None, "bytes=1000-"]
  assert not part.exists()


def test_a_download_killed_before_its_last_rename(server, tmp_path):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache" / "net.npz.part").write_bytes(server.body)
  assert weights.fetch("net").read_bytes() == server.body


def test_a_part_that_is_longer_than_the_file_is_not_taken(server, tmp_path):
  (tmp_path / "cache").mkdir()
  part = tmp_path / "cache" / "net.npz.part"
  part.write_bytes(server.body + b"more")
  assert weights.fetch("net").read_bytes() == server.body
  assert not part.exists()


def test_several_that_fetch_at_once_download_once(server):
  with futures.ThreadPoolExecutor(4) as pool:
    paths = list(pool.map(weights.fetch, ["net"] * 4))
  assert {path.read_bytes() for path in paths} == {server.body}
  assert server.ranges == [None]


def test_a_page_is_not_kept(server, tmp_path):
  server.body = b"<html>log in"
  with pytest.raises(InputError, match="a web page came.*not kept"):
    weights.fetch("net")
  assert not list((tmp_path / "cache").glob("*.part"))
  assert not list((tmp_path / "cache").glob("*.npz"))


def test_a_server_that_speaks_no_http(monkeypatch, tmp_path):
  with socket.create_server(("127.0.0.1", 0)) as listening:

    def answer():
      connection, _ = listening.accept()
      with connection:
        connection.recv(1 << 16)
        connection.sendall(b"nonsense\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/x.npz"
    entry = published.Published(url, "dino_vits8", 1, "none")
    monkeypatch.setattr(published, "PUBLISHED", {"net": entry})
    with pytest.raises(InputError, match="cannot be downloaded"):
      weights.fetch("net", folder=tmp_path)
    thread.join()


def test_a_cache_that_cannot_be_made_is_named(server, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "file"))
  with pytest.raises(InputError, match="file: .*set SSEG_JAX_CACHE"):
    weights.fetch("net")


def test_a_changed_file_is_refused(server):
  path = weights.fetch("net")
  path.write_bytes(path.read_bytes()[:-1] + b"?")
  with pytest.raises(InputError, match="net.npz has SHA-256 .*delete it"):
    weights.fetch("net")


def test_the_published_hash_is_checked(server, monkeypatch):
  entry = dataclasses.replace(published.PUBLISHED["net"], sha256="0123")
  monkeypatch.setattr(published, "PUBLISHED", {"net": entry})
  with pytest.raises(InputError, match="does not begin with 0123"):
    weights.fetch("net")


def test_a_file_put_there_by_hand_is_compared(server, tmp_path, monkeypatch):
  entry = dataclasses.replace(published.PUBLISHED["net"], sha256="0123")
  monkeypatch.setattr(published, "PUBLISHED", {"net": entry})
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache" / "net.npz").write_bytes(server.body)
  with pytest.raises(InputError, match="the published one begins with 0123"):
    weights.fetch("net")
  assert not (tmp_path / "cache" / "net.npz.sha256").exists()


def test_no_connection(monkeypatch, tmp_path):
  entry = published.Published(
    "http://127.0.0.1:9/x.npz", "dino_vits8", 1, "none"
  )
  monkeypatch.setattr(published, "PUBLISHED", {"net": entry})
  with pytest.raises(InputError, match="cannot be downloaded.*local file"):
    weights.fetch("net", folder=tmp_path)


def test_every_entry_names_a_network():
  from sseg_jax.models.backbones import BACKBONES
  from sseg_jax.models.vit import VIT_SIZES

  for entry in published.PUBLISHED.values():
    network = entry.network.removeprefix("maskformer/")
    assert network in {*VIT_SIZES, *BACKBONES, "text"} and entry.license
  files = [
    e.file or e.url.rsplit("/", 1)[1] for e in published.PUBLISHED.values()
  ]
  assert len({*files}) == len(files)  # in one folder


def test_weights_of_another_network_are_named():
  with pytest.raises(InputError, match="'swin_t' are weights of swin_t.*vits8"):
    vit_weights.load("swin_t")
