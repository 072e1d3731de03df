#!/usr/bin/env bash
# Runs the tests on the newest RabbitMQ and PostgreSQL that Debian has, then those of three nodes, one of which dies.
#
#   tests/newest.sh                      everything: the harness, the crates' conformance, the cluster
#   tests/newest.sh --test system order  cargo test's own arguments: what else is to run on the newest servers
#
# The servers are taken into a folder once (`debootstrap`, some 600 MB) and started from there on free ports; nothing is
# installed on this machine. Needs root. NEWEST_SUITE (sid) is the Debian to take them from, by this machine's own
# mirror; NEWEST_FOLDER is where they lie. Remove the folder to take them anew.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

suite=${NEWEST_SUITE:-sid}
folder=${NEWEST_FOLDER:-$PWD/target/servers/$suite}

mirror() {
  # The first Debian archive of apt's sources, in either of their two formats; not all of these files are there.
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
    sed -n -e 's/^URIs: *\([^ ]*\/debian\/\{0,1\}\).*/\1/p' -e 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\/debian\/\{0,1\}\) .*/\2/p' |
    head -n 1
}

take() {
  command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; return 1; }
  local source making=$folder.making
  source=$(mirror)
  [ -n "$source" ] || { echo "apt has no source of Debian packages here" >&2; return 1; }
  rm -rf --one-file-system "$making"
  mkdir -p "$(dirname "$folder")"
  debootstrap --variant=minbase "$suite" "$making" "$source"
  # Nothing is started by its installation.
  printf '#!/bin/sh\nexit 101\n' >"$making/usr/sbin/policy-rc.d"
  chmod 755 "$making/usr/sbin/policy-rc.d"
  # /proc only for the installation, in a mount namespace that ends with it.
  unshare --mount --propagation private /bin/sh -ec '
    mount -t proc proc "$1/proc"
    chroot "$1" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -qq -y --no-install-recommends rabbitmq-server postgresql' take "$making"
  rm -rf "$making/var/cache/apt/archives"
  mv "$making" "$folder"
}

[ -x "$folder/usr/lib/rabbitmq/bin/rabbitmq-server" ] || take
chroot "$folder" dpkg-query -W -f '${Package} ${Version}\n' rabbitmq-server 'postgresql-1*' erlang-base
export SLOTLINE_TEST_SERVERS=$folder

if [ $# -gt 0 ]; then
  exec cargo test -p slotline-tests --locked "$@"
fi
cargo test -p slotline-tests --locked --test harness
cargo test -p slotline-broker --locked --test brokers conformance
cargo test -p slotline-store --locked --test conformance
cargo test -p slotline-tests --locked --test cluster -- --test-threads 1
