#!/usr/bin/env bash
# Starts one scheduler and executors of foldline's Ballista, runs a command, and ends them again.
#   with-ballista.sh COMMAND...    the command finds the scheduler in its environment
# FOLDLINE is the binary, built with --features ballista (target/debug/foldline). Executors use the store of the settings in
# the environment or the folder where this runs. EXECUTORS (2) of them, TASKS (1) at the same time in each. Ports of 127.0.0.1:
# BALLISTA_PORT (50050) for the scheduler, two each for executors behind it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
foldline=${FOLDLINE:-$root/target/debug/foldline}
port=${BALLISTA_PORT:-50050}
executors=${EXECUTORS:-2}
dir=$(mktemp -d "${TMPDIR:-/tmp}/foldline-ballista.XXXXXX")
pids=()

end() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT

"$foldline" ballista scheduler --address "127.0.0.1:$port" 2>"$dir/scheduler.log" &
pids+=($!)
for ((i = 0; i < executors; i++)); do
  "$foldline" ballista executor --scheduler "127.0.0.1:$port" --address "127.0.0.1:$((port + 2 * i + 2))" \
    --folder "$dir/executor-$i" --tasks "${TASKS:-1}" 2>"$dir/executor-$i.log" &
  pids+=($!)
done
ready() { curl -sf "http://127.0.0.1:$port/readyz" 2>/dev/null | grep -q "ready: $executors executors"; }
for ((i = 0; ; i++)); do
  if ready; then break; fi
  if ((i == 600)); then
    tail -n 5 "$dir"/*.log >&2
    echo "ballista: no scheduler with $executors executors on 127.0.0.1:$port" >&2
    exit 1
  fi
  sleep 0.05
done
export FOLDLINE__BATCH__ENGINE=ballista FOLDLINE__BATCH__BALLISTA=127.0.0.1:$port
"$@"
