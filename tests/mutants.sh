#!/usr/bin/env bash
# Changes each function and operator of what decides a little, one at a time, and counts what a test notices.
#
# Takes an hour; the reports stay below the folder named, or target/mutants.out. Fails if of the changes that
# compile less than nine in ten are noticed. Needs cargo-mutants: cargo install cargo-mutants --locked
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/mutants.out}
command -v cargo-mutants >/dev/null || {
  echo "cargo-mutants is missing: cargo install cargo-mutants --locked" >&2
  exit 1
}

mkdir -p "$out"

# try PACKAGE TESTS [OPTION...]: only those tests are built and run.
try() {
  local status=0
  # 2 and 3 mean that some were missed, or took too long; they are counted below.
  cargo mutants --shuffle --jobs "$(nproc)" --output "$out/$1" --package "$1" \
    --cargo-arg=--lib --cargo-arg=--test --cargo-arg="$2" "${@:3}" || status=$?
  [ $status -eq 0 ] || [ $status -eq 2 ] || [ $status -eq 3 ]
}

# Of a counter-example only that there is one counts.
export PROPTEST_MAX_SHRINK_ITERS=0
# Its tests take three seconds: what takes twenty goes on for ever.
try slotline-scheduler rules --minimum-test-timeout 20
# Its other tests need servers, and not the duty book. What chance finds at all it nearly always finds soon.
PROPTEST_CASES=64 try slotline-worker duty

count() { cat "$out"/*/mutants.out/"$1".txt | wc -l; }
caught=$(($(count caught) + $(count timeout)))
viable=$((caught + $(count missed)))
printf '%d of %d viable mutants are noticed (%d of them by taking too long); %d do not compile\n' \
  $caught $viable "$(count timeout)" "$(count unviable)"
[ $((caught * 10)) -ge $((viable * 9)) ]
