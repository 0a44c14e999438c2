# What people and CI type. Everything runs with cargo alone.

.PHONY: demo test test-services test-kafka-tls test-ballista check-kubernetes lint bench bench-services soak soak-services grammar fuzz real-data corpus-duckdb

# The whole platform on generated events: builds, then serves the page until Ctrl-C. Without the clouds, which only a
# longer build has.
demo:
	cargo run --no-default-features --bin foldline -- demo

test:
	cargo test --workspace

# The tests of real servers, which this starts and ends by their pids: Apache Kafka and Apache Cassandra (a JDK 17 and Maven), an
# S3 server, one of Google Cloud Storage and a stand-in for BigQuery (Go). infra/services/fetch.sh gets what they are made of
# beforehand. The stand-in is built for six minutes once: FOLDLINE_WITHOUT_BIGQUERY=1 does without.
test-services:
	infra/services/with-kafka.sh infra/services/with-cassandra.sh infra/services/with-stores.sh \
		infra/services/with-bigquery.sh cargo test --workspace --test it -- kafka servers cassandra --nocapture
	infra/services/with-cassandra.sh \
		cargo test --workspace --test it -- cassandra_that_ --ignored --nocapture --test-threads=1

# Kafka by TLS: needs the OpenSSL of the system with its headers, and a build of its own.
test-kafka-tls:
	infra/services/with-kafka.sh cargo test --features kafka-tls --workspace --test it -- by_tls --nocapture

# Batch runs on Ballista, with a kill in the midst: a build of its own with many more crates. Ports 21000 to 21999 of 127.0.0.1.
test-ballista:
	cargo test -p foldline -p foldline-batch-layer --features foldline/ballista --lib --test it -- ballista --nocapture

# The manifests of infra/kubernetes as the API server would take them: decoded strictly, defaulted and validated by its own
# code, and held to the Pod Security Standard "restricted". Needs Go; the first build takes minutes.
check-kubernetes:
	cd infra/kubernetes/check && go vet . && go run . ../example

lint:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

# Figures, from a release build.
bench:
	cargo run --release --bin foldline -- bench

# Figures over Kafka: processor seconds per million events. Then of realtime views on Cassandra: the same, states written, and
# merged point reads.
bench-services:
	cargo build --release --bin foldline
	FOLDLINE__LOG__KIND=kafka infra/services/with-kafka.sh sh -c \
		'FOLDLINE__LOG__BROKERS=$$FOLDLINE_TEST_KAFKA target/release/foldline bench --kafka --events 1000000'
	FOLDLINE__REALTIME__REPLICATION=1 infra/services/with-cassandra.sh sh -c \
		'target/release/foldline bench --realtime $$FOLDLINE_TEST_CASSANDRA --events 3000000'

# Crashes and agreement for longer than a test run may take: FOLDLINE_SOAK raises the number of rounds.
soak:
	FOLDLINE_SOAK=1 cargo test --workspace -- --nocapture soak

# The same over Kafka, Cassandra, an S3 server and several processes: kills, rebalances for five minutes, a store that is away for ten.
soak-services:
	FOLDLINE_SOAK=1 infra/services/with-kafka.sh infra/services/with-cassandra.sh infra/services/with-stores.sh \
		cargo test --workspace --test it -- soak rebalances away_for_long --nocapture --test-threads=1

# Views made by chance against plain SQL. FOLDLINE_GRAMMAR_SEED makes others, FOLDLINE_GRAMMAR=0 goes on without end.
grammar:
	FOLDLINE_GRAMMAR=$${FOLDLINE_GRAMMAR:-2000} cargo test --workspace --test it generated_views -- --nocapture

# Mutated files of tests/agreement to the compiler, which must compile or refuse each. FOLDLINE_FUZZ_SEED makes others.
fuzz:
	FOLDLINE_FUZZ_SECONDS=$${FOLDLINE_FUZZ_SECONDS:-600} cargo test --workspace --test it mutated_files -- --ignored --nocapture

# Real data against DuckDB, with kills and rubbish: make real-data DATA=folder. Takes minutes; python3 makes itself a
# virtual environment below target, with duckdb from the package index.
real-data:
	@test -n "$(DATA)" || { echo "say where the data are: make real-data DATA=folder"; exit 2; }
	cargo build --release --bin foldline
	test -d target/real-data/venv || python3 -m venv target/real-data/venv
	target/real-data/venv/bin/pip install --quiet duckdb
	target/real-data/venv/bin/python tests/real-data/run.py --data "$(DATA)"

# The views of tests/agreement against DuckDB, as a second opinion on what their SQL says. FOLDLINE_CORPUS=part takes only
# files with that in their names.
corpus-duckdb:
	test -d target/corpus/venv || python3 -m venv target/corpus/venv
	target/corpus/venv/bin/pip install --quiet duckdb
	rm -rf target/corpus/answers
	FOLDLINE_CORPUS_OUT="$(CURDIR)/target/corpus/answers" cargo test --workspace --test it every_view_answers_as_plain_sql_does
	target/corpus/venv/bin/python tests/corpus/compare.py target/corpus/answers
