"""What has to be set before JAX is imported, to compile for absent TPUs."""

COMPILE_ONLY = {
  "JAX_PLATFORMS": "cpu",
  # Else a lock stops the second compilation on a machine.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # Else libtpu asks a metadata server that is not there, and says so at length.
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
