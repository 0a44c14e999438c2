#!/usr/bin/env bash
# Starts an S3 server and one of Google Cloud Storage, runs a command, and ends the servers again.
#   with-stores.sh COMMAND...    the command finds where they are in its environment
# Needs Go and curl. Ports of 127.0.0.1: S3_PORT (19000) and GCS_PORT (14443).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/foldline-services.XXXXXX")
s3=${S3_PORT:-19000}
gcs=${GCS_PORT:-14443}

end() {
  "$here/s3.sh" stop "$dir/s3" "$s3" || true
  "$here/gcs.sh" stop "$dir/gcs" "$gcs" || true
  rm -rf "$dir"
}
trap end EXIT

"$here/s3.sh" start "$dir/s3" "$s3"
"$here/gcs.sh" start "$dir/gcs" "$gcs"
export AWS_ENDPOINT=http://127.0.0.1:$s3 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=testtest
export GOOGLE_SERVICE_ACCOUNT_KEY="{\"gcs_base_url\": \"http://127.0.0.1:$gcs\", \"disable_oauth\": true,
  \"client_email\": \"\", \"private_key\": \"\", \"private_key_id\": \"\"}"
export FOLDLINE_TEST_STORES="s3://test gs://test"
"$@"
