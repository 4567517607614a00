#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs through xpk (`pip install xpk`, docker).
#
#   export CLUSTER=sseg PROJECT=my-project ZONE=us-west4-a TYPE=v5litepod-64
#   launch/xpk.sh cluster      makes the cluster; call it once
#   launch/xpk.sh run cc26m --config=configs/cc26m.py \
#     --workdir=gs://BUCKET/cc26m --config.data.train=gs://BUCKET/records/cc12m
#   launch/xpk.sh stop cc26m   stops the run, which saves before it ends
#   launch/xpk.sh delete       deletes the cluster
#
# SLICES is the number of slices of TYPE (default 1). BASE_IMAGE is any image
# with Python (default python:3.12).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CLUSTER=${CLUSTER:?set it to the name of a GKE cluster}
PROJECT=${PROJECT:?set it to a project of Google Cloud}
ZONE=${ZONE:?set it to a zone, e.g. us-west4-a}
TYPE=${TYPE:-v5litepod-64} SLICES=${SLICES:-1}
BASE_IMAGE=${BASE_IMAGE:-python:3.12}
PLACE=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")

case ${1:-} in
  cluster)
    xpk cluster create "${PLACE[@]}" --tpu-type="$TYPE" \
      --num-slices="$SLICES" --spot
    ;;
  run)
    # Exit code 1 means that a process died; 75 that the run was asked to stop,
    # for example because a spot node is taken back. Code 2, bad input, must not
    # restart. Processes ended by a signal restart without being listed.
    xpk workload create "${PLACE[@]}" --workload="${2:?give a name for the run}" \
      --tpu-type="$TYPE" --num-slices="$SLICES" \
      --base-docker-image="$BASE_IMAGE" --script-dir=. \
      --max-restarts=1000 --restart-on-exit-codes=1,75 \
      --termination-grace-period-seconds=300 \
      --command="pip install -q -e '.[train]' 'jax[tpu]' &&
        exec python -m sseg_jax.main$(printf ' %q' "${@:3}")"
    ;;
  stop) xpk workload delete "${PLACE[@]}" --workload="${2:?give the name of the run}" ;;
  delete) xpk cluster delete "${PLACE[@]}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
