"""Environment variables that allow to compile for TPUs that are not there.

They must be set before JAX is imported.
"""

COMPILE_ONLY = {
  "JAX_PLATFORMS": "cpu",
  # Without it, a lock stops the second compilation on a machine.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # Without it, libtpu asks a metadata server that does not exist, and prints
  # many warnings.
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
