"""The generator through the compiler for TPUs; no TPU is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sseg_jax import default_config
from sseg_jax.models import vit_weights
from sseg_jax.models.vit import VIT_SIZES
from sseg_jax.pseudo_masks import generator

# Published peaks of a chip: bf16 FLOP/s, bytes/s and bytes of memory.
CHIPS = {"v5e": (197e12, 819e9, 16e9), "v6e": (918e12, 1640e9, 32e9)}
BATCH, SIZE = 128, 224
# Multiply-adds of ViT-S/8 at 224 px, 785 tokens.
MACS = 22.4e9


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_dino_compiles_for(chip, monkeypatch):
  pytest.importorskip("libtpu", reason="needs the extra tpu")
  # Its lock would stop a second compilation on this machine.
  monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  monkeypatch.setattr(
    vit_weights,
    "load",
    lambda *_, dtype, **__: vit_weights.build(VIT_SIZES["dino_vits8"], dtype),
  )
  config = default_config.get_config()
  config.pseudo_masks.update(generator="dino", metric="cosine")
  made = generator.build(config)
  topology = topologies.get_topology_desc(f"{chip}:2x2", platform="tpu")
  mesh = Mesh(np.array(topology.devices[:1]), ("data",))
  place = NamedSharding(mesh, PartitionSpec())
  shapes = (
    made.frozen,
    jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.uint8),
    jax.eval_shape(lambda: jax.random.split(jax.random.key(0), BATCH)),
  )
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
  )
  compiled = jax.jit(made.generate).lower(*shapes).compile()
  peak, bandwidth, memory = CHIPS[chip]
  cost, used = compiled.cost_analysis(), compiled.memory_analysis()
  # K-means' loop is counted once, the network in full.
  assert 1.9 < cost["flops"] / (BATCH * MACS) < 2.3
  used = used.temp_size_in_bytes + used.argument_size_in_bytes
  assert used < memory
  seconds = max(cost["flops"] / peak, cost["bytes accessed"] / bandwidth)
  print(
    f"{chip}: {used / 1e9:.1f} GB, projected {seconds / BATCH:.5f} s/image"
    f" ({cost['flops'] / peak / seconds:.0%} of the peak)"
  )
