"""Weights as `safetensors`, beside programs that take them as arguments."""


def load(folder):
  import jax
  from jax import export
  from safetensors.numpy import load_file

  weights = jax.device_put(load_file(folder / "weights.safetensors"))
  names = "embed_classes.jax_export", "segment.jax_export"
  read = [export.deserialize((folder / n).read_bytes()) for n in names]
  text, image = (jax.jit(program.call) for program in read)
  return lambda ids: text(weights, ids), lambda *x: image(weights, *x)
