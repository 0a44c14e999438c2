#!/usr/bin/env bash
# One Cassandra node for tests, from Maven artifacts.
#   cassandra.sh {start|stop|status|fetch|lib} [dir] [port]
# The storage port is port+1. dir/extra.yaml, where it exists, is added to
# cassandra.yaml. CASSANDRA_HEAP sets the heap (512m), CASSANDRA_LIB the folder
# of the jars, which all dirs share (default: in the user's cache folder, one
# for each state of cassandra/pom.xml), CASSANDRA_SYNC how the commit log is
# synced: group (an acknowledged write is on disk) or periodic. fetch only gets
# the jars, and lib prints where they are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command=${1:-}
dir=$(realpath -m "${2:-${TMPDIR:-/tmp}/cassandra-test}")
port=${3:-9042}
heap=${CASSANDRA_HEAP:-512m}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/foldline/services
lib=${CASSANDRA_LIB:-$cache/cassandra-$(sha256sum <"$here/cassandra/pom.xml" | cut -c1-12)}
wait_s=${CASSANDRA_WAIT:-120}
case ${CASSANDRA_SYNC:-group} in   # group: acknowledged means synced; periodic: up to 10 s may be lost
  group) sync=$'commitlog_sync: group\ncommitlog_sync_group_window: 5ms\nconcurrent_writes: 256' ;;
  periodic) sync=$'commitlog_sync: periodic\ncommitlog_sync_period: 10s' ;;
  *) echo "cassandra: CASSANDRA_SYNC is group or periodic" >&2; exit 2 ;;
esac

die() { echo "cassandra: $*" >&2; exit 1; }

# The pid file counts only while that pid is still our JVM.
running() {
  [[ -s $dir/pid ]] || return 1
  { tr '\0' ' ' <"/proc/$(cat "$dir/pid")/cmdline"; } 2>/dev/null | grep -qF "$dir/cassandra.yaml"
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The pom beside the jars says that they are all there.
fetched() { cmp -s "$here/cassandra/pom.xml" "$lib/pom.xml"; }

fetch() {
  command -v java >/dev/null || die "needs java: install a JDK 17"
  if fetched; then return; fi
  command -v mvn >/dev/null || die "needs mvn: install Maven"
  mkdir -p "$lib"
  (
    flock 8   # of two at once, the second waits
    if fetched; then exit; fi
    echo "cassandra: fetching the jars, once" >&2
    rm -f "$lib"/*.jar
    mvn -q -B -f "$here/cassandra/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$(realpath -m "$lib")" >"$lib/maven.log" 2>&1 ||
      { tail -n 20 "$lib/maven.log" >&2; die "Maven could not fetch the jars, see $lib/maven.log"; }
    cp "$here/cassandra/pom.xml" "$lib/pom.xml"
  ) 8>"$lib/lock"
}

configure() {
  cat >"$dir/cassandra.yaml" <<EOF
cluster_name: test
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
num_tokens: 1
auto_bootstrap: false
listen_address: 127.0.0.1
storage_port: $((port + 1))
rpc_address: 127.0.0.1
native_transport_port: $port
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:$((port + 1))"
data_file_directories: ["$dir/data"]
commitlog_directory: $dir/commitlog
hints_directory: $dir/hints
saved_caches_directory: $dir/saved_caches
$sync
commitlog_segment_size: 16MiB
file_cache_size: 64MiB
concurrent_compactors: 1
EOF
  [[ ! -f $dir/extra.yaml ]] || cat "$dir/extra.yaml" >>"$dir/cassandra.yaml"
}

java_opts=(@"$here/cassandra/jvm17.options" -javaagent:"$lib/jamm-0.4.0.jar"
           -Djava.io.tmpdir="$dir/tmp" -Djna.tmpdir="$dir/tmp"
           -Dlogback.configurationFile="$here/cassandra/logback.xml"
           -Dcassandra-foreground=yes -Dcassandra.storagedir="$dir"
           -Dcassandra.config="file://$dir/cassandra.yaml"
           -Dcassandra.skip_wait_for_gossip_to_settle=0
           -Dcassandra.ring_delay_ms=0
           -cp "$lib/*")

start() {
  mkdir -p "$dir/tmp"
  exec 9>"$dir/lock" && flock 9   # of two starts at once, the second waits
  if running; then echo "cassandra: already running, pid $(cat "$dir/pid")"; return; fi
  for p in "$port" $((port + 1)); do
    ! listening "$p" || die "port $p is taken by another process"
  done
  fetch
  configure
  : >"$dir/server.log"
  nohup setsid java -Xms"$heap" -Xmx"$heap" "${java_opts[@]}" \
    org.apache.cassandra.service.CassandraDaemon >"$dir/server.log" 2>&1 </dev/null 9>&- &
  echo $! >"$dir/pid"
  for ((i = 0; i < wait_s * 10; i++)); do
    if listening "$port"; then
      echo "cassandra: ready on 127.0.0.1:$port, pid $(cat "$dir/pid")"
      return
    fi
    running || [[ $i -lt 5 ]] || { tail -n 20 "$dir/server.log" >&2; die "ended while starting, see $dir/server.log"; }
    sleep 0.1
  done
  tail -n 20 "$dir/server.log" >&2
  stop
  die "not ready after $wait_s s, see $dir/server.log"
}

stop() {
  if ! running; then rm -f "$dir/pid"; echo "cassandra: not running"; return; fi
  local pid; pid=$(cat "$dir/pid")
  kill "$pid"
  for ((i = 0; i < 300; i++)); do
    running || { rm -f "$dir/pid"; echo "cassandra: stopped"; return; }
    sleep 0.1
  done
  kill -9 "$pid"; rm -f "$dir/pid"
  echo "cassandra: killed after 30 s"
}

status() {
  running || { echo "cassandra: not running"; exit 1; }
  echo "cassandra: running, pid $(cat "$dir/pid"), $(awk '/VmRSS/ {print int($2 / 1024) " MiB"}' "/proc/$(cat "$dir/pid")/status")"
}

case $command in
  start | stop | status | fetch) "$command" ;;
  lib) echo "$lib" ;;
  *) die "usage: $0 {start|stop|status|fetch|lib} [dir] [port]" ;;
esac
