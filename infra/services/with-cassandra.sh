#!/usr/bin/env bash
# Runs a command with an Apache Cassandra of its own: with-cassandra.sh COMMAND...
# The command finds its address in FOLDLINE_TEST_CASSANDRA, and in
# FOLDLINE_TEST_CASSANDRA_DIR the folder, to kill and start it. The jars stay where
# cassandra.sh keeps them; everything else goes when the command has ended.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CASSANDRA_LIB=$("$here/cassandra.sh" lib)
export CASSANDRA_LIB
dir=$(mktemp -d)
port=${CASSANDRA_PORT:-19542}

end() {
  "$here/cassandra.sh" stop "$dir" "$port" >&2 || true
  rm -rf "$dir"
}
trap end EXIT

echo 'auto_snapshot: false' >"$dir/extra.yaml"
"$here/cassandra.sh" start "$dir" "$port" >&2
export FOLDLINE_TEST_CASSANDRA=127.0.0.1:$port FOLDLINE_TEST_CASSANDRA_DIR=$dir
"$@"
