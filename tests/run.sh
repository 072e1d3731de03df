#!/usr/bin/env bash
# Formats, lints and tests everything, on private RabbitMQ and PostgreSQL nodes below a temporary directory.
#
#     tests/run.sh            all of it
#     tests/run.sh --quick    what needs no servers: formats, lints, and `cargo t`
#
# What is missing of the system's packages is installed first, which needs root or sudo (Debian, Ubuntu). Their
# services are not started: no test uses them. Everything else needs only the Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

quick=no
case "$*" in
  "") ;;
  --quick) quick=yes ;;
  *) echo "usage: tests/run.sh [--quick]" >&2; exit 2 ;;
esac

log=$(mktemp) times=""
trap 'rm -f "$log"' EXIT

# Prints what ran, how long each step took and how many tests passed.
summary() {
  printf '%s\n' "$times"
  awk '/^test .* \.\.\. FAILED$/ { print "failed: " $2 }
    /^test result:/ { passed += $4; failed += $6 }
    END { printf "\n%d passed, %d failed\n", passed, failed }' "$log"
}

step() {
  local name=$1 begun=$SECONDS status=0
  shift
  printf '\n== %s\n' "$name"
  # Through a pipe: the summary counts what is printed. Colours are for a terminal, which this no longer is.
  "$@" 2>&1 | tee -a "$log" || status=$?
  times+=$(printf '\n%6d s  %s' $((SECONDS - begun)) "$name")
  if [ $status -ne 0 ]; then
    summary
    printf '\n== %s FAILED after %d s\n' "$name" $((SECONDS - begun)) >&2
    exit 1
  fi
  printf -- '-- %s: %d s\n' "$name" $((SECONDS - begun))
}

missing_packages() {
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || echo rabbitmq-server
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || echo postgresql
  # The system's Python: another one on the PATH does not see the system's packages.
  /usr/bin/python3 -c 'import pika' 2>/dev/null || echo python3-pika
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v curl >/dev/null || echo curl
  compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || echo libfaketime
  [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
  command -v valgrind >/dev/null || echo valgrind
  command -v promtool >/dev/null || echo prometheus
  command -v chromedriver >/dev/null || echo chromium chromium-driver
}

install_packages() {
  local packages
  packages=$(missing_packages | tr '\n' ' ')
  if [ -z "$packages" ]; then
    echo "nothing is missing"
    return
  fi
  if ! command -v apt-get >/dev/null; then
    echo "missing: $packages(names of Debian's packages); install them by hand, there is no apt-get here" >&2
    return 1
  fi
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "missing: $packages- run this as root, or have sudo, or install them by hand" >&2
      return 1
    }
    root=(sudo)
  fi
  # The real services would take the default ports and start at once; this file keeps the packages from it.
  local policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null && "${root[@]}" chmod 755 $policy && made=yes
  fi
  local status=0
  { "${root[@]}" apt-get update -qq &&
    # shellcheck disable=SC2086  # one word per package
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages; } || status=$?
  [ $made = no ] || "${root[@]}" rm -f $policy
  return $status
}

toolchain() {
  command -v cargo >/dev/null || {
    echo "cargo is missing: install Rust with rustup" >&2
    return 1
  }
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
  cargo --version
}

if [ $quick = yes ]; then
  step "toolchain" toolchain
  step "format" cargo fmt --all --check
  step "lints" cargo lint
  step "tests without servers" cargo t
  summary
  exit
fi

step "packages" install_packages
step "toolchain" toolchain
step "format" cargo fmt --all --check
step "lints" cargo lint
step "build" cargo test --workspace --locked --no-run
# Built by the step before; tests that start the program need not ask cargo for it.
export SLOTLINE_BIN=$PWD/${CARGO_TARGET_DIR:-target}/debug/slotline
case ${CARGO_TARGET_DIR:-} in /*) SLOTLINE_BIN=$CARGO_TARGET_DIR/debug/slotline ;; esac
step "the program is there" test -x "$SLOTLINE_BIN"
# Most tests wait for servers most of the time: more of them at once than there are cores take half the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}
step "every test, and 100,000 simulations" cargo test --workspace --locked --no-fail-fast
step "instructions of the scheduler" cargo bench -p slotline-scheduler --locked --bench instructions
step "two planted mistakes" cargo planted --draw 2
# Last, and alone: a storm on a machine that is busy otherwise shows nothing but slowness.
step "chaos" cargo chaos
summary
