//! When to run: cron, a persisted ledger, catch-up, no overlap.
