#!/usr/bin/env bash
# Trains on a TPU slice that is asked for as a queued resource; asks for it anew
# when it is taken back, and goes on from the newest checkpoint.
#
#   export NAME=sseg ZONE=us-west4-a TYPE=v5litepod-64
#   launch/tpu_pod.sh run --config=configs/cc26m.py \
#     --workdir=gs://BUCKET/cc26m --config.data.train=gs://BUCKET/records/cc12m
#   launch/tpu_pod.sh state    what the queue says
#   launch/tpu_pod.sh stop     SIGTERM on all hosts: the run saves and ends
#   launch/tpu_pod.sh delete   gives the slice back
#
# VERSION is the runtime of TYPE's generation: v2-alpha-tpuv5-lite (v5e, the
# default), v2-alpha-tpuv6e, v2-alpha-tpuv5 (v5p). SPOT=0 asks for slices that
# are not taken back. The project is gcloud's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NAME=${NAME:?what to call the slice} ZONE=${ZONE:?of the slice}
TYPE=${TYPE:-v5litepod-64} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-1}
FAILURES=${FAILURES:-5} # gives up after this many in a row (training or gcloud)
PAUSE=${PAUSE:-60}      # seconds between two queries of the state
ERRORS=$(mktemp)
trap 'rm -f "$ERRORS"' EXIT

tpus() { gcloud compute tpus "$1" "$2" "$NAME" --zone="$ZONE" "${@:3}"; }
everywhere() { tpus tpu-vm ssh --worker=all --command="$1"; }

state() { # NONE where nothing was asked for, UNKNOWN where gcloud fails
  if tpus queued-resources describe --format='value(state.state)' \
    2>"$ERRORS"; then
    return
  elif grep -q NOT_FOUND "$ERRORS"; then
    echo NONE
  else
    cat "$ERRORS" >&2
    echo UNKNOWN
  fi
}

delete() { tpus queued-resources delete --quiet --force; }

create() {
  local spot=()
  if [[ $SPOT == 1 ]]; then spot=(--spot); fi
  tpus queued-resources create --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" "${spot[@]}"
}

obtain() {
  local failed=0
  while true; do
    local ok=1
    case $(state) in
      ACTIVE) return ;;
      NONE) create || ok=0 ;;
      SUSPENDED | FAILED) delete || ok=0 ;;
      UNKNOWN) ok=0 ;;
    esac
    if ((ok)); then failed=0; else failed=$((failed + 1)); fi
    if ((failed >= FAILURES)); then
      echo "error: gcloud failed $failed times in a row; the reason is above" >&2
      return 1
    fi
    sleep "$PAUSE"
  done
}

clear_hosts() { # ends a training that runs since a lost connection; it saves
  everywhere "pkill -TERM -f '[s]seg_jax.main' || exit 0
    for _ in {1..300}; do
      pgrep -f '[s]seg_jax.main' >/dev/null || exit 0; sleep 1
    done
    pkill -KILL -f '[s]seg_jax.main' || true"
}

install() { # installs the committed code in a separate environment
  git archive --prefix=sseg_jax/ --output=/tmp/sseg_jax.tar.gz HEAD &&
    gcloud compute tpus tpu-vm scp /tmp/sseg_jax.tar.gz "$NAME:" \
      --zone="$ZONE" --worker=all || return
  everywhere "set -e; tar xzf sseg_jax.tar.gz
    [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh
    [ -d ~/venv ] || ~/.local/bin/uv venv --python=3.12 ~/venv
    . ~/venv/bin/activate; cd sseg_jax
    ~/.local/bin/uv pip install -q -e '.[train]' 'jax[tpu]'"
}

train() { # starts training; the processes find each other through the slice
  everywhere "cd sseg_jax && ~/venv/bin/python -m sseg_jax.main$(
    printf ' %q' "$@"
  )"
}

run() {
  local failed=0
  while true; do
    obtain || return 1
    if clear_hosts && install && train "$@"; then
      echo "done; give the slice back with: $0 delete"
      return
    fi
    if [[ $(state) =~ ^(ACTIVE|UNKNOWN)$ ]]; then
      failed=$((failed + 1))
      if ((failed >= FAILURES)); then
        echo "error: training failed $failed times on a slice that stayed;" \
          "the reason is above" >&2
        return 1
      fi
    else
      failed=0
    fi
    sleep "$PAUSE"
  done
}

case ${1:-} in
  run) run "${@:2}" ;;
  state) state ;;
  stop) everywhere "pkill -TERM -f '[s]seg_jax.main'" ;;
  delete) delete ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
