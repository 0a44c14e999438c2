# What people and CI type. Everything runs with cargo alone.

.PHONY: demo test lint bench soak

# The whole platform on generated events: builds, then serves the page until Ctrl-C.
demo:
	cargo run --bin foldline -- demo

test:
	cargo test --workspace

lint:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

# Figures, from a release build.
bench:
	cargo run --release --bin foldline -- bench

# Crashes and agreement for longer than a test run may take: FOLDLINE_SOAK raises the number of rounds.
soak:
	FOLDLINE_SOAK=1 cargo test --workspace -- --nocapture soak
