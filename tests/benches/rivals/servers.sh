#!/usr/bin/env bash
# Private PostgreSQL, RabbitMQ and Redis for the rivals, on loopback, with their data below $RIVALS_DATA.
#   ./servers.sh start | stop | cpu
# Durable as by default: PostgreSQL with fsync and synchronous_commit, and the memory that the comparison gives to ours;
# Redis with an append-only file that is flushed once a second, unless a script asks for every write.
set -euo pipefail

DATA=${RIVALS_DATA:-${TMPDIR:-/tmp}/slotline-rivals}
POSTGRES_PORT=25432 AMQP_PORT=26672 DISTRIBUTION_PORT=26673 REDIS_PORT=26379 EPMD_PORT=24369
POSTGRES_BIN=${POSTGRES_BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
RABBITMQ_BIN=${RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}

rabbitmq() {
  env HOME="$DATA/rabbitmq" ERL_EPMD_PORT=$EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_NODENAME=rivals@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$AMQP_PORT \
    RABBITMQ_DIST_PORT=$DISTRIBUTION_PORT RABBITMQ_MNESIA_BASE="$DATA/rabbitmq/mnesia" RABBITMQ_LOG_BASE="$DATA/rabbitmq" \
    RABBITMQ_PID_FILE="$DATA/rabbitmq.pid" RABBITMQ_ENABLED_PLUGINS_FILE="$DATA/rabbitmq/enabled_plugins" \
    RABBITMQ_CONFIG_FILE="$DATA/rabbitmq/rabbitmq" RABBITMQ_CONF_ENV_FILE="$DATA/rabbitmq/none" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
    "$RABBITMQ_BIN/$1" "${@:2}"
}

# PostgreSQL refuses to run as root.
postgres() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$POSTGRES_BIN/$1" "${@:2}")
  else
    "$POSTGRES_BIN/$1" "${@:2}"
  fi
}

start_postgres() {
  local home=$DATA/postgres
  mkdir -p "$home"
  [ "$(id -u)" != 0 ] || chown postgres "$home"
  postgres initdb -D "$home" -A trust -U postgres >"$DATA/initdb.log"
  cat >>"$home/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $POSTGRES_PORT
unix_socket_directories = '$home'
max_connections = 200
shared_buffers = 1GB
max_wal_size = 4GB
fsync = on
synchronous_commit = on
CONF
  postgres pg_ctl -D "$home" -l "$home/server.log" -w start >"$DATA/pg_ctl.log"
  head -1 "$home/postmaster.pid" >"$DATA/postgres.pid"
}

start_rabbitmq() {
  local home=$DATA/rabbitmq
  mkdir -p "$home"
  echo '[].' >"$home/enabled_plugins"
  cat >"$home/rabbitmq.conf" <<CONF
loopback_users = none
listeners.tcp.1 = 127.0.0.1:$AMQP_PORT
vm_memory_high_watermark.absolute = 2GB
disk_free_limit.absolute = 50MB
CONF
  (umask 077 && echo RIVALS$$ >"$home/.erlang.cookie")
  # First, so that its process is known.
  epmd -address 127.0.0.1 -port $EPMD_PORT >/dev/null 2>&1 &
  echo $! >"$DATA/epmd.pid"
  rabbitmq rabbitmq-server >"$home/stdout.log" 2>&1 &
  rabbitmq rabbitmqctl wait "$DATA/rabbitmq.pid" --timeout 120 >/dev/null
}

start_redis() {
  mkdir -p "$DATA/redis"
  redis-server --bind 127.0.0.1 --port $REDIS_PORT --dir "$DATA/redis" --appendonly yes --appendfsync everysec --save '' \
    --maxmemory-policy noeviction >"$DATA/redis/log" 2>&1 &
  echo $! >"$DATA/redis.pid"
  until redis-cli -p $REDIS_PORT ping >/dev/null 2>&1; do sleep 0.1; done
}

stop() {
  [ ! -f "$DATA/rabbitmq.pid" ] || rabbitmq rabbitmqctl stop "$DATA/rabbitmq.pid" >/dev/null 2>&1 || true
  for name in epmd redis; do
    [ ! -f "$DATA/$name.pid" ] || kill "$(cat "$DATA/$name.pid")" 2>/dev/null || true
  done
  [ ! -f "$DATA/postgres.pid" ] || postgres pg_ctl -D "$DATA/postgres" -m immediate -w stop >/dev/null 2>&1 || true
  rm -rf "$DATA"
}

# User and system seconds so far, on one line: PostgreSQL with all its sessions, RabbitMQ, Redis.
cpu() {
  local ticks
  ticks=$(getconf CLK_TCK)
  local head
  head=$(cat "$DATA/postgres.pid")
  {
    # shellcheck disable=SC2046 # each of them is an argument
    cat "/proc/$head/stat" $(pgrep -P "$head" | sed 's|.*|/proc/&/stat|') 2>/dev/null | spent 15 "$ticks"
    spent 13 "$ticks" <"/proc/$(cat "$DATA/rabbitmq.pid")/stat"
    spent 13 "$ticks" <"/proc/$(cat "$DATA/redis.pid")/stat"
  } | paste -sd ' '
}

# The sum of the times that end in this field after the name: 13 for a process alone, 15 with its children.
spent() {
  awk -v last="$1" -v ticks="$2" '{ sub(/^.*\) /, ""); for (at = 12; at <= last; at++) sum += $at } END { print sum / ticks }'
}

case ${1:-} in
  start)
    mkdir -p "$DATA"
    chmod 711 "$DATA"
    start_postgres
    start_rabbitmq
    start_redis
    ;;
  stop) stop ;;
  cpu) cpu ;;
  *)
    echo "usage: $0 start | stop | cpu" >&2
    exit 2
    ;;
esac
