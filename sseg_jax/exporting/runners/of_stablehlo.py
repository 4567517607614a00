"""StableHLO that `jax.export` wrote, with the weights in it."""


def load(folder):
  import jax
  from jax import export

  names = "embed_classes.jax_export", "segment.jax_export"
  read = [export.deserialize((folder / n).read_bytes()) for n in names]
  return [jax.jit(program.call) for program in read]
