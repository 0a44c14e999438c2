#!/usr/bin/env bash
# Runs a command with a stand-in for BigQuery: with-bigquery.sh COMMAND...
# The command finds its address in FOLDLINE_TEST_BIGQUERY. Needs Go and curl; port of 127.0.0.1: BIGQUERY_PORT (19050, and
# the next one). With FOLDLINE_WITHOUT_BIGQUERY=1 the command runs without, and this says so.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${FOLDLINE_WITHOUT_BIGQUERY:-} ]]; then
  echo "*** NOT TESTED: the stand-in for BigQuery. infra/services/fetch.sh bigquery builds it, in six minutes. ***" >&2
  exec "$@"
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/foldline-services.XXXXXX")
port=${BIGQUERY_PORT:-19050}

end() {
  "$here/bigquery.sh" stop "$dir" "$port" >&2 || true
  rm -rf "$dir"
}
trap end EXIT

"$here/bigquery.sh" start "$dir" "$port" >&2
export FOLDLINE_TEST_BIGQUERY=http://127.0.0.1:$port
"$@"
