#!/usr/bin/env bash
# Runs a command with an Apache Kafka of its own: with-kafka.sh COMMAND...
# The command finds its address in FOLDLINE_TEST_KAFKA, and in FOLDLINE_TEST_KAFKA_LIB the jars, to start more. The
# jars stay where kafka.sh keeps them; everything else goes when the command has ended.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KAFKA_LIB=$("$here/kafka.sh" lib)
export KAFKA_LIB
dir=$(mktemp -d)
port=${KAFKA_PORT:-19392}

end() {
  "$here/kafka.sh" stop "$dir" "$port" >&2 || true
  rm -rf "$dir"
}
trap end EXIT

"$here/kafka.sh" start "$dir" "$port" >&2
export FOLDLINE_TEST_KAFKA=127.0.0.1:$port FOLDLINE_TEST_KAFKA_LIB=$KAFKA_LIB
"$@"
