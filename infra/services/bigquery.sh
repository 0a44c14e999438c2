#!/usr/bin/env bash
# BigQuery for tests (goccy/bigquery-emulator): REST on port, Storage API (gRPC) on port+1.
#   bigquery.sh {start|stop|status|fetch|built} [dir] [port]
# The project is "test", the dataset "warehouse"; no token is checked. Tables lie in dir/data. The first build takes
# six minutes and 6 GB of memory. It replaces no partition, expires nothing and takes a job's id for little: what a
# loader relies on there is tested against the answers that batch-layer/tests/it/warehouse/fake.rs gives.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=bigquery
dir=$(realpath -m "${2:-${TMPDIR:-/tmp}/bigquery-test}")
port=${3:-9050}
ports=("$port" $((port + 1)))
package=github.com/goccy/bigquery-emulator/cmd/bigquery-emulator
environment=(STORAGE_EMULATOR_HOST="${STORAGE_EMULATOR_HOST:-http://127.0.0.1:4443}")
server=(--host 127.0.0.1 --port "$port" --grpc-port $((port + 1)) --project test --dataset warehouse
        --database "$dir/data/bigquery.db")
ready() { curl -sf -o "$dir/health" "http://127.0.0.1:$port/bigquery/v2/projects/test/datasets/warehouse"; }

. "$here/lib.sh"
main "$@"
