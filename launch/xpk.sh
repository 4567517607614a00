#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs through xpk (`pip install xpk`, docker).
#
#   export CLUSTER=sseg PROJECT=my-project ZONE=us-west4-a TYPE=v5litepod-64
#   launch/xpk.sh cluster      makes the cluster: once
#   launch/xpk.sh run cc26m --config=configs/cc26m.py \
#     --workdir=gs://BUCKET/cc26m --config.data.train=gs://BUCKET/records/cc12m
#   launch/xpk.sh stop cc26m   the run saves and ends
#   launch/xpk.sh delete       the cluster as well
#
# SLICES (1) slices of TYPE; BASE_IMAGE (python:3.12) is any image with Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CLUSTER=${CLUSTER:?of GKE} PROJECT=${PROJECT:?of Google Cloud} ZONE=${ZONE:?}
TYPE=${TYPE:-v5litepod-64} SLICES=${SLICES:-1}
BASE_IMAGE=${BASE_IMAGE:-python:3.12}
PLACE=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")

case ${1:-} in
  cluster)
    xpk cluster create "${PLACE[@]}" --tpu-type="$TYPE" \
      --num-slices="$SLICES" --spot
    ;;
  run)
    # 1: a process died; 75: asked to stop, as when a node is taken back. Not 2,
    # bad input. Codes of signals restart by themselves.
    xpk workload create "${PLACE[@]}" --workload="${2:?a name for the run}" \
      --tpu-type="$TYPE" --num-slices="$SLICES" \
      --base-docker-image="$BASE_IMAGE" --script-dir=. \
      --max-restarts=1000 --restart-on-exit-codes=1,75 \
      --termination-grace-period-seconds=300 \
      --command="pip install -q -e '.[train]' 'jax[tpu]' &&
        exec python -m sseg_jax.main$(printf ' %q' "${@:3}")"
    ;;
  stop) xpk workload delete "${PLACE[@]}" --workload="${2:?of the run}" ;;
  delete) xpk cluster delete "${PLACE[@]}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
