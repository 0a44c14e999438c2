#!/usr/bin/env bash
# Gets what the servers for tests are made of, and starts none: the jars of Kafka and Cassandra from Maven, the servers of
# S3, of Google Cloud Storage and of BigQuery built from Go modules. What is there is not asked for again.
#   fetch.sh [kafka] [cassandra] [s3] [gcs] [bigquery]     (default: all but bigquery, whose build takes six minutes and 6 GB)
# Ends with 1, and a sentence for each that is not there, after FETCH_WITHIN_S seconds (300) at the latest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
within=${FETCH_WITHIN_S:-300}
[[ $# -gt 0 ]] || set -- kafka cassandra s3 gcs

missing=0
SECONDS=0
for name; do
  left=$((within - SECONDS))
  code=0
  # A moment for each, however long another one took: it may be there already.
  timeout -k 5 $((left > 3 ? left : 3)) "$here/$name.sh" fetch >&2 || code=$?
  case $code in
    0) echo "$name: there" ; continue ;;
    124 | 137) echo "$name: could not be had within $within s" >&2 ;;
    *) echo "$name: could not be had; the reason stands above" >&2 ;;
  esac
  missing=1
done
exit $missing
