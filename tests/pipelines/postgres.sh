#!/usr/bin/env bash
# The deployment tests with the Prefect server's history in PostgreSQL instead of SQLite.
#
#   apt-get install postgresql        # Debian's package; its own cluster need not run
#   make test-postgres
#
# A cluster of its own, on loopback, in a temporary directory, gone at the end. PostgreSQL refuses
# to run as root: then the user `postgres` of the package runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
if [ -z "$bin" ]; then
    echo "PostgreSQL's server is not installed: apt-get install postgresql" >&2
    exit 2
fi
directory=$(mktemp -d)
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
stop() {
    (cd / && as "$bin/pg_ctl" --pgdata "$directory/data" --silent --mode fast stop) || true
    rm -rf "$directory"
}
trap stop EXIT
if [ "$(id -u)" = 0 ]; then chown postgres "$directory"; fi

port=$(.venv/bin/python -c '
import socket
free = socket.socket()
free.bind(("127.0.0.1", 0))
print(free.getsockname()[1])')
as "$bin/initdb" --pgdata "$directory/data" --username prefect --auth trust >/dev/null
as "$bin/pg_ctl" --pgdata "$directory/data" --silent --wait --log "$directory/log" \
    --options "-c listen_addresses=127.0.0.1 -p $port -k $directory" start
as "$bin/createdb" --host 127.0.0.1 --port "$port" --username prefect prefect

export GMM_DASK_TEST_DATABASE="postgresql+asyncpg://prefect@127.0.0.1:$port/prefect"
.venv/bin/python -m pytest tests/pipelines/test_deployments.py "$@"
runs=$(as "$bin/psql" --host 127.0.0.1 --port "$port" --username prefect --tuples-only \
    --no-align --command "select count(*) from flow_run where state_type = 'COMPLETED'" prefect)
echo "$runs completed flow runs in PostgreSQL"
test "$runs" -gt 0
