"""What the planner counts, on programs small enough to count by hand."""

import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import preloaded
import pytest
import small_vit
from flax import nnx

from sseg_jax import default_config, sharding
from sseg_jax.errors import InputError
from sseg_jax.models import vit
from sseg_jax.plan import (
  __main__,
  chips,
  environment,
  hlo,
  loops,
  networks,
  page,
  planner,
  products,
  profile,
  report,
  step,
  sweep,
  traced,
  traffic,
)

pytestmark = pytest.mark.usefixtures("flags_of_libtpu")

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def compiled_text(function, *shapes):
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  compiled = jax.jit(function).lower(*shapes).compile()
  return compiled.as_text(), compiled.cost_analysis()


# --- Trip counts --------------------------------------------------------------


def test_a_loop_counts_as_often_as_it_runs():
  def scanned(x, w):
    def body(x, _):
      return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x), None

    return jax.lax.scan(body, x, length=5)[0]

  text, cost = compiled_text(scanned, (8, 16), (16, 16))
  once = 2 * 8 * 16 * 16
  assert profile.profile(text, 1).total_flops == 15 * once
  # What the compiler says of its own, and why it is never quoted.
  assert cost["flops"] < 3 * once
  traced = products.trace(scanned, jnp.zeros((8, 16)), jnp.zeros((16, 16)))
  assert sum(traced.values()) == 15 * once


def test_a_loop_that_depends_on_data_is_named():
  def searched(x, w):
    return jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: jnp.tanh(x @ w), x
    )

  text, _ = compiled_text(searched, (8, 16), (16, 16))
  made = profile.profile(text, 1)
  assert made.unknown_loops == 1
  assert made.total_flops == 2 * 8 * 16 * 16


LOOP = """HloModule loop

%body (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %p = (s32[], f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[4,4]{1,0} get-tuple-element(%p), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
  ROOT %out = (s32[], f32[4,4]{1,0}) tuple(%next, %y)
}

%test (q: (s32[], f32[4,4])) -> pred[] {
  %q = (s32[], f32[4,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] constant(10)
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (a: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  %start = s32[] constant(1)
  %both = (s32[], f32[4,4]{1,0}) tuple(%start, %a)
  %loop = (s32[], f32[4,4]{1,0}) while(%both), condition=%test, body=%body
  ROOT %last = f32[4,4]{1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(
  ("old", "new", "times"),
  [
    ("", "", 5),  # 1, 3, 5, 7, 9
    ("direction=LT", "direction=LE", 5),
    ("constant(10)", "constant(11)", 5),
    ("constant(10)", "constant(12)", 6),
    (
      "compare(%j, %bound), direction=LT",
      "compare(%bound, %j), direction=GT",
      5,
    ),
    ("constant(1)", "constant(20)", 0),
    ("constant(2)", "constant(0)", None),
  ],
)
def test_trip_counts_are_read_off_the_condition(old, new, times):
  program = hlo.parse(LOOP.replace(old, new) if old else LOOP)
  found = loops.Loops()
  items = loops.executed(program, found)
  assert found.counts["loop"] == (1 if times is None else times)
  assert found.unknown == (["loop"] if times is None else [])
  dots = [i for i in items if i.instruction.opcode == "dot"]
  assert [i.times for i in dots] == [1 if times is None else times]


# --- Products, bytes, collectives ---------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_what_meets_the_padding_is_not_counted(stride):
  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  x, w = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 8))
  # On ones each output counts its own multiply-adds.
  expected = 2 * float(conv(x, w).sum())
  assert sum(products.trace(conv, x, w).values()) == expected
  text, _ = compiled_text(conv, x.shape, w.shape)
  found = profile.profile(text, 1).total_flops
  if "convolution(" in text:  # a backend may call a library instead
    assert found == expected
  # The gradient by the input is a convolution with a dilated input.
  grad = jax.grad(lambda x, w: conv(x, w).sum())
  assert sum(products.trace(grad, x, w).values()) == expected


KERNEL = """HloModule kernel

ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  ROOT %k = bf16[8,128]{1,0} custom-call(%a), \
custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUz","cost_estimate":\
{"flops":"4096","transcendentals":"0","bytes_accessed":"9"}}}
}
"""


def test_a_kernel_counts_as_its_author_states():
  made = profile.profile(KERNEL, 1)
  assert (made.total_flops, made.kernels) == (4096, 0)
  assert made.total_bytes == 2 * 8 * 128 * 2
  silent = profile.profile(KERNEL.replace("cost_estimate", "other"), 1)
  assert (silent.total_flops, silent.kernels) == (0, 1)


def test_bytes_are_those_of_whole_tiles():
  (shape,) = hlo.parse_shapes("bf16[3,130]{1,0:T(8,128)(2,1)}")
  assert shape.bytes == 8 * 256 * 2
  (turned,) = hlo.parse_shapes("f32[130,3]{0,1:T(8,128)}")
  assert turned.bytes == 8 * 256 * 4
  (near,) = hlo.parse_shapes("f32[8,128]{1,0:T(8,128)S(1)}")
  assert not near.in_hbm


MOVED = """HloModule moved

%cut (p0: f32[64,128], p1: s32[]) -> f32[1,128] {
  %p0 = f32[64,128]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,128]{1,0} dynamic-slice(%p0, %p1, %zero), \
dynamic_slice_sizes={1,128}
}

ENTRY %main (a: f32[64,128], i: s32[]) -> f32[1,128] {
  %a = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[64,128]{1,0} negate(%a)
  ROOT %c = f32[1,128]{1,0} fusion(%b, %i), kind=kLoop, calls=%cut
}
"""


def test_of_what_is_sliced_the_slice_counts():
  made = profile.profile(MOVED, 1)
  found = {work.name: work.bytes for work in made.work}
  assert found["b"] == 2 * 64 * 128 * 4
  assert found["c"] == 2 * 128 * 4 + 4  # the index as well


REDUCED = """HloModule reduced

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}

ENTRY %main (a: f32[256,4]) -> f32[256,4] {
  %a = f32[256,4]{1,0} parameter(0)
  %all = f32[256,4]{1,0} all-reduce(%a), channel_id=1, \
replica_groups=[1,8]<=[8], to_apply=%sum
  %g = (f32[256,4]{1,0}, f32[512,4]{1,0}) all-gather-start(%all), \
channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %h = f32[512,4]{1,0} all-gather-done(%g)
  ROOT %r = f32[256,4]{1,0} slice(%h), slice={[0:256], [0:4]}
}
"""


def test_collectives_are_rings():
  items = loops.executed(hlo.parse(REDUCED))
  found, _ = traffic.collectives(items, 8)
  size = 256 * 4 * 4
  reduced, gathered = found["all-reduce"], found["all-gather"]
  assert (reduced.count, reduced.bytes) == (1, size)
  assert reduced.sent == 2 * 7 / 8 * size
  assert (gathered.count, gathered.bytes) == (1, 2 * size)
  assert gathered.sent == size


# --- Closed form against the traced step --------------------------------------


def _tiny(**fields):
  """Small enough to trace in a second, large enough for products to rule."""
  c = default_config.get_config()
  c.batch_size, c.image_size = 8, 64
  c.model.backbone = "conv_tiny"
  c.model.decoder_layers = 2
  c.model.num_queries = 16
  c.text.layers = 2
  c.text.context_length = 16
  with c.unlocked():
    c.update_from_flattened_dict(fields)
  return c


VARIANTS = {
  "paper": {},
  "encoder": {
    "model.backbone": "resnet50",
    "model.pixel_decoder": "transformer_encoder",
  },
  "mask_pooled": {
    "model.query_embedding": "mask_pooled",
    "model.region_hidden": 64,
    "pseudo_masks.init": "farthest",
  },
  "teacher": {
    "pseudo_masks.generator": "dino",
    "pseudo_masks.restarts": 2,
  },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_closed_form_agrees_with_the_traced_step(name, tmp_path):
  fields = VARIANTS[name]
  if name == "teacher":
    weights = small_vit.write(tmp_path / "vit.npz")
    fields = fields | {"pseudo_masks.weights": weights}
  _agree(_tiny(**fields))


def _agree(config):
  built = step.build(config, jax.devices())
  traced = products.trace(built.function, *built.arguments)
  closed = networks.training(config)
  for part, value in closed.items():
    assert traced[part] == pytest.approx(value, rel=0.05), part
  assert sum(closed.values()) == pytest.approx(sum(traced.values()), rel=0.05)


def test_what_each_device_does_counts_for_all():
  mesh = jax.sharding.AbstractMesh((4,), ("data",))
  rows = jax.sharding.PartitionSpec("data")
  split = jax.shard_map(
    lambda x: jnp.sin(x) @ x.T,
    mesh=mesh,
    in_specs=rows,
    out_specs=rows,
    check_vma=False,
  )
  shape = jax.ShapeDtypeStruct((8, 16), jnp.float32)
  # Each of four has 2 x 16 times 16 x 2.
  assert products.trace(split, shape) == {"other": 4 * 2 * 2 * 16 * 2}


def test_a_kernel_belongs_to_what_calls_it():
  network = vit.ViT(
    patch=8, width=64, depth=2, num_heads=2, grid=4, rngs=nnx.Rngs(0)
  )
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  plain = products.trace(lambda x: network(x), image)
  network.use_flash_attention()
  found = products.trace(lambda x: network(x), image)
  assert found.keys() == plain.keys() == {"teacher"}
  # 128 tokens in place of 65 attend to as many, and are projected to them.
  assert plain["teacher"] < found["teacher"] < 2 * plain["teacher"]


@pytest.mark.slow
def test_closed_form_of_the_paper_agrees_with_the_traced_step():
  from sseg_jax import config_files

  config = config_files.load(str(CONFIGS / "cc26m.py"))
  config.batch_size = 8
  assert {"teacher", "backbone"} <= networks.training(config).keys()
  _agree(config)


# --- Plans --------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(make_tiny_config):
  """The plan for this machine, with three steps run."""
  config = make_tiny_config()
  config.text.layers = 1
  config.model.dropout = 0.0
  return planner.plan(config, None)


@pytest.mark.slow
def test_plan_for_this_machine(local):
  assert local["topology"] is None and local["projected"] is None
  measured = local["measured"]
  assert len(measured["steps_s"]) == 3
  assert 0 < measured["loss"] < 100
  assert measured["images_per_second"] == pytest.approx(8 / measured["step_s"])
  # Float32 moments are twice the parameters.
  memory = local["memory"]
  assert memory["optimizer"] == pytest.approx(
    2 * memory["parameters"], rel=0.01
  )
  assert memory["total"] > memory["arguments"]
  json.dumps(local)
  text = page.render(local)
  assert "measured here" in text and page.PROJECTED not in text


def test_projection_of_a_profile():
  chip = chips.find("v5e")
  made = profile.Profile(
    [profile.Work("dot", "dot", "", "backbone", 1, 1e12, 1e12, 819e6)],
    {"backbone": 1e12},
    {"all-reduce": traffic.Collective(1, 1e6, 2e6)},
    0,
    0,
    [],
  )
  config = _tiny(batch_size=64)
  found = report.project(config, made, chip, 4, 2e12)
  assert found["bound"] == "compute"
  assert found["step_s"] == pytest.approx(1e12 / 197e12)
  assert found["limits_s"]["memory"] == pytest.approx(1e-3)
  assert found["limits_s"]["network"] == pytest.approx(2e6 / 100e9)
  assert found["mfu"] == pytest.approx(0.5)  # 0.5 of 1 TFLOP a chip is model
  assert found["chip_hours"] == pytest.approx(4 * found["hours"])
  shown = {"projected": found, "compiler_estimate_s": None, "total_steps": 9}
  lines = page._projection(shown)
  assert [line for line in lines if "<- binds" in line][0].startswith("compute")


@pytest.mark.parametrize("value", [None, -3.0, 0.0, float("nan")])
def test_the_compilers_own_estimate_may_be_no_time(value):
  analysis = {} if value is None else {"optimal_seconds": value}
  assert report.compiler_estimate(analysis) is None


def test_efficiency_is_relative_to_the_fewest_chips():
  def plan(topology, batch):
    if topology.count == 8:
      raise InputError("too large")
    speed = 100.0 * topology.count * (1 if topology.count < 64 else 0.5)
    projected = dict.fromkeys(("step_s", "mfu", "chip_hours"), 1.0)
    return {
      "memory": {"total": batch * 1e6},
      "fits": True,
      "projected": projected | {"images_per_second": speed, "bound": "network"},
    }

  rows = sweep.run(chips.find("v5e"), sweep.parse("8..64"), 4096, 16, plan)
  assert [r["batch_size"] for r in rows] == [4096] * 4 + [128, 256, 512, 1024]
  assert rows[0]["problem"] == "too large"
  assert [r["efficiency"] for r in rows[1:4]] == [1.0, 1.0, 0.5]
  text = sweep.render(rows)
  assert "v5e:4x4" in text and "too large" in text
  assert text.startswith("projected, not measured")


def test_another_batch_trains_as_many_epochs():
  config = default_config.get_config()
  config.batch_size, config.total_steps = 64, 1000
  config.optim.warmup_steps = 100
  found = sweep.with_batch_size(config, 256)
  assert (found.batch_size, found.total_steps) == (256, 250)
  assert found.optim.warmup_steps == 25
  assert config.batch_size == 64 and config.total_steps == 1000


def test_sweep_writes_a_plot(tmp_path):
  pytest.importorskip("matplotlib", reason="needs the extra train")
  rows = sweep.with_efficiency(
    [
      {"curve": "batch 8", "chips": n, "images_per_second": 10.0 * n}
      for n in (1, 2)
    ]
  )
  sweep.write(rows, tmp_path)
  assert (tmp_path / "scaling.png").stat().st_size > 1000
  assert json.loads((tmp_path / "scaling.json").read_text()) == rows


# --- Topologies and what is wrong with them -----------------------------------


@pytest.mark.parametrize(
  ("text", "name", "count"),
  [
    ("v5e:16x16", "v5e:16x16", 256),
    ("v5e:32", "v5e:4x8", 32),
    ("v5e:1024", "v5e:16x16*4", 1024),
    ("v5e:4x4*2", "v5e:4x4*2", 32),
    ("v5p:512", "v5p:8x8x8", 512),
    ("v4:4", "v4:2x2x1", 4),
    ("v6e:8", "v6e:2x4", 8),
  ],
)
def test_topologies(text, name, count):
  topology = chips.parse(text)
  assert (str(topology), topology.count) == (name, count)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=h100:8"], "v5e:16x16"),
    (["--topology=v5e:4x4x4"], "2 dimensions"),
    (["--topology=v5e:32x32"], "largest slice"),
    (["--topology=v5e:24"], "power of two"),
    (["--topology=v5e:4by4"], "2 dimensions"),
    (["--sweep=8..64"], "--topology=v5e"),
    (["--topology=v5e", "--sweep=64"], "8..256"),
    (["--topology=v5e", "--sweep=9..15"], "no power of two"),
    (["--topology=v5e", "--per_chip=16"], "--sweep"),
    (["--topology=v5e", "--sweep=8..16", "--per_chip=0"], "at least 1"),
    (["--set=batch_sise=8"], "batch_sise"),
    (["--set=mesh.fsdp=3"], "mesh.fsdp"),
    (["--set=model.backbone=swin_z"], "swin_z"),
  ],
)
def test_bad_input_gets_one_line(arguments, message, capsys, monkeypatch):
  monkeypatch.setattr(os, "environ", dict(os.environ))
  status = __main__.main([f"--config={CONFIGS}/quickstart.py", *arguments])
  error = capsys.readouterr().err
  assert status and message in error
  assert error.startswith("error: ") and error.count("\n") == 1


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(step.importlib.util, "find_spec", lambda _: None)
  with pytest.raises(InputError, match=r"sseg-jax\[tpu\]"):
    step.devices_of(chips.parse("v5e:2x2"))


def test_fsdp_stays_inside_a_slice():
  pytest.importorskip("libtpu", reason="needs the extra tpu")
  devices = step.devices_of(chips.parse("v5e:2x2*2"))
  fields = default_config.get_config().mesh
  fields.fsdp = 2
  mesh = sharding.make_mesh(fields, devices)
  assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
  assert {d.id for d in mesh.devices.flat} == {d.id for d in devices}
  for row in mesh.devices:
    assert len({d.slice_index for d in row}) == 1
  fields.fsdp = 8
  with pytest.raises(InputError, match="divisor of the 4 devices of a slice"):
    sharding.make_mesh(fields, devices)


@pytest.mark.slow
def test_a_step_compiles_for_absent_chips(tmp_path):
  pytest.importorskip("libtpu", reason="needs the extra tpu")
  config = tmp_path / "small.py"
  config.write_text(SMALL)
  made = {}
  # The compiler wants a process of its own, whose start it may set up.
  for topology, fields in {
    "v5e:2x2": [],
    "v5e:2x2*2": ["--set=mesh.fsdp=2"],
  }.items():
    run = subprocess.run(
      [
        *(preloaded.python(), "-m", "sseg_jax.plan", f"--config={config}"),
        *(f"--topology={topology}", "--json", *fields),
      ],
      capture_output=True,
      text=True,
      check=False,
      env=os.environ | environment.COMPILE_ONLY,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    made[topology] = json.loads(run.stdout)
  plain, split = made.values()
  assert plain["fits"] and plain["chips"] == 4 and split["chips"] == 8
  assert (plain["slices"], split["slices"]) == (1, 2)
  assert plain["compiled_over_traced"] == pytest.approx(1, abs=0.1)
  assert plain["projected"]["bound"] in plain["projected"]["limits_s"]
  # Gradients are reduced once, in bfloat16 where products made them so;
  # parameters are gathered with fsdp alone.
  size = plain["memory"]["parameters"]
  reduced = plain["collectives"]["all-reduce"]["bytes"]
  assert 0.4 * size < reduced < 1.2 * size
  gathered = plain["collectives"].get("all-gather", {"bytes": 0})["bytes"]
  assert gathered < 0.2 * size
  assert split["memory"]["parameters"] < 0.6 * size
  # Most parameters are the vectors of tokens, of which only rows are sent.
  assert split["collectives"]["all-gather"]["bytes"] > 0.25 * size


SMALL = """
from sseg_jax import default_config

def get_config():
  c = default_config.get_config()
  c.batch_size, c.image_size = 32, 32
  c.model.backbone = "conv_tiny"
  c.model.hidden_dim = c.model.mask_dim = 32
  c.model.num_heads = 4
  c.model.num_queries = 8
  c.model.embed_dim, c.model.proj_hidden = 32, 64
  c.model.decoder_layers = 1
  c.model.dropout = 0.0
  c.model.drop_path = 0.0
  c.text.layers = 1
  c.text.width, c.text.num_heads = 32, 4
  c.text.context_length = 16
  c.pseudo_masks.iterations = 3
  c.pseudo_masks.init = "farthest"
  return c
"""


def test_a_closed_form_that_is_wrong_is_named():
  counts = {
    "closed_form": {"backbone": 1e9, "text": 1e9},
    "traced": {"backbone": 2e9, "text": 1e9},
    "compiled": {"backbone": 2e9, "text": 1e9},
  }
  assert report.differences(counts) == [
    "backbone: 1.000 GFLOP in closed form, 2.000 traced"
  ]


# --- Without a compiler -------------------------------------------------------


def test_a_traced_plan_needs_a_number_of_chips_that_divides_the_batch():
  config = default_config.get_config()
  with pytest.raises(InputError, match="chips=3: must divide batch_size=4096"):
    traced.plan(config, 3)


@pytest.mark.slow
def test_a_traced_plan_of_a_small_network(tiny_config):
  tiny_config.task, tiny_config.model.head = "supervised", "classes"
  tiny_config.data.classes = ("red", "green", "blue")
  one, two = (traced.plan(tiny_config, n) for n in (1, 2))
  built = step.build(tiny_config, jax.devices()[:1])
  weights = sum(x.size * 4 for x in jax.tree.leaves(built.arguments[0].params))
  assert one["memory"]["gradients"] == weights
  # Weights, and Adam's two means of each; a batch is small beside them.
  assert 3 <= one["memory"]["state"] / weights < 3.5
  # Half of the pictures: half of what is kept, and half of the products.
  assert two["memory"]["kept"] == pytest.approx(
    one["memory"]["kept"] / 2, rel=0.1
  )
  work = [sum(plan["flops"].values()) for plan in (one, two)]
  assert work[1] == pytest.approx(work[0] / 2, rel=0.1)
  row = one["projected"]["v5e"]
  assert row["hours"] == pytest.approx(
    work[0] / 197e12 * tiny_config.total_steps / 3600
  )
  assert row["fits"]
  assert "hours at least" in traced.render(one)


def test_what_is_kept_for_the_backward_pass_is_counted_by_hand(
  monkeypatch, unchecked_types
):
  def loss(setup, params, model_state, frozen, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["w"])  # kept: tanh's result
    return (hidden @ params["v"]).sum(), ()

  monkeypatch.setattr(traced.train_step, "whole_loss", loss)
  state = type("State", (), {})()
  state.params = {"w": jnp.zeros((5, 7)), "v": jnp.zeros((7, 2))}
  state.model_state = {}
  batch = {"x": jnp.zeros((3, 5))}
  # x [3,5] and tanh's result [3,7] for the gradients of w and v, and 1 - tanh²
  # or what makes it; v [7,2] is a weight.
  found = traced.kept(None, state, {}, batch) / 4
  assert 15 + 21 <= found <= 15 + 3 * 21
