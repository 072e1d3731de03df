#!/usr/bin/env bash
# Runs rivals on private servers of their own and prints one JSON line a figure; their other output goes to standard error.
#   ./run.sh [RIVAL...] [S|T|M|H|L...]
# Rivals: bullmq bullmq-always graphile-worker graphile-crate pg-boss celery dramatiq procrastinate. Without one: all of them.
# RIVALS_DIVISOR=20 is a trial: a twentieth of everything. The packages of others are installed at the first run.
set -euo pipefail
cd "$(dirname "$0")"

ALL="bullmq bullmq-always celery dramatiq graphile-worker graphile-crate pg-boss procrastinate"
rivals=() measures=()
for word in "$@"; do
  case $word in
    S | T | M | H | L) measures+=("$word") ;;
    *) rivals+=("$word") ;;
  esac
done
[ ${#rivals[@]} -gt 0 ] || read -ra rivals <<<"$ALL"

node() {
  [ -d node_modules ] || npm install --no-audit --no-fund >&2
  # The one that npm brought: pg-boss needs a newer one than many systems have.
  node_modules/.bin/node "$@"
}

python() {
  if [ ! -x venv/bin/python ]; then
    python3 -m venv venv >&2
    venv/bin/pip install --quiet --requirement requirements.txt >&2
  fi
  venv/bin/python "$@"
}

run() {
  local rival=$1
  shift
  case $rival in
    bullmq) FSYNC=everysec node bullmq.mjs "$@" ;;
    bullmq-always) FSYNC=always node bullmq.mjs "$@" ;;
    graphile-worker) node graphile_worker.mjs "$@" ;;
    pg-boss) node pg_boss.mjs "$@" ;;
    celery) python celery_run.py "$@" ;;
    dramatiq) python dramatiq_run.py "$@" ;;
    procrastinate) python procrastinate_run.py "$@" ;;
    graphile-crate) CARGO_TARGET_DIR=../../../target/rivals cargo run --quiet --release --manifest-path rust/Cargo.toml -- "$@" ;;
    *)
      echo "$rival: expected one of $ALL" >&2
      return 2
      ;;
  esac
}

export RIVALS_DATA=${RIVALS_DATA:-$(mktemp -d "${TMPDIR:-/tmp}/slotline-rivals-XXXXXX")}
trap './servers.sh stop >&2' EXIT
./servers.sh start >&2
failed=0
for rival in "${rivals[@]}"; do
  echo "$rival" >&2
  # One that fails does not spoil the figures of the others.
  run "$rival" "${measures[@]}" || { echo "$rival failed" >&2; failed=1; }
done
exit $failed
