#!/usr/bin/env bash
# A PostgreSQL server for tests: on this machine alone, in a folder that goes with it.
#   postgres.sh      prints the address of a database; the end of stdin ends the server
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
test -n "$bin" || { echo "no PostgreSQL below /usr/lib/postgresql" >&2; exit 1; }
home=$(mktemp -d)
# The server refuses to run as root.
as=()
if test "$(id -u)" = 0; then as=(runuser -u postgres --); chown postgres "$home"; fi
stop() { "${as[@]}" "$bin/pg_ctl" -D "$home/data" -m immediate stop > /dev/null 2>&1 || true; rm -rf "$home"; }
trap stop EXIT
cd "$home"
"${as[@]}" "$bin/initdb" -D "$home/data" -A trust -U colora --no-sync > /dev/null
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 20000))
    "${as[@]}" "$bin/pg_ctl" -D "$home/data" -l "$home/log" -w \
        -o "-c listen_addresses=127.0.0.1 -c unix_socket_directories='$home' -p $port" start > /dev/null && break
done
echo "postgres://colora@127.0.0.1:$port/postgres?sslmode=disable"
cat > /dev/null
