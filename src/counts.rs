//! What the layers count, as `/metrics` names it.

use foldline_batch_layer::ArchiverCounters;
use foldline_event_log::collect::http::CollectorCounters;
use foldline_serving_layer::Count;
use foldline_speed_layer::PartitionStatus;

use crate::batch_runs::Tally;
use crate::platform::Core;
use crate::warehouse;

/// What was counted since the start.
pub(crate) fn counts(core: &Core) -> Vec<Count> {
    let mut counts = Vec::new();
    if let Some(collector) = &core.collector {
        collect(&mut counts, collector.counters());
    }
    if let Some(archiver) = &core.archiver {
        archive(&mut counts, &archiver.counters());
    }
    for partition in core.speed.iter().flat_map(|speed| speed.status()) {
        speed(&mut counts, &partition);
    }
    batch(&mut counts, &core.runs.tally());
    if let Some(loads) = &core.warehouse {
        warehouse(&mut counts, &loads.tally());
    }
    counts
}

fn collect(counts: &mut Vec<Count>, counters: CollectorCounters) {
    for (outcome, requests) in [
        ("stored", counters.stored),
        ("busy", counters.busy),
        ("refused", counters.refused),
    ] {
        let labels = vec![("outcome", outcome.to_owned())];
        let help = "Requests with events, by outcome; busy ones are to be sent again";
        counts.push(count("collect_requests", help, labels, requests));
    }
    for (name, help, value) in [
        (
            "collect_repeats",
            "Requests that were stored before, and so not again",
            counters.repeats,
        ),
        ("collect_events", "Events stored", counters.events),
        ("collect_bytes", "Bytes of these events", counters.bytes),
        (
            "collect_rejected_events",
            "Events that were not JSON, and so not stored",
            counters.rejected,
        ),
    ] {
        counts.push(count(name, help, Vec::new(), value));
    }
}

fn warehouse(counts: &mut Vec<Count>, tally: &warehouse::Tally) {
    for (outcome, loads) in [("ended", tally.ended), ("failed", tally.failed)] {
        let labels = vec![("outcome", outcome.to_owned())];
        counts.push(count(
            "warehouse_loads",
            "Loads of the warehouse, by outcome",
            labels,
            loads,
        ));
    }
    let slices = "Days and undivided tables that loads replaced";
    counts.push(count("warehouse_slices", slices, Vec::new(), tally.slices));
    counts.push(count("warehouse_rows", "Rows that loads wrote", Vec::new(), tally.rows));
    counts.push(Count {
        name: "warehouse_load_seconds",
        help: "Seconds that loads took",
        labels: Vec::new(),
        value: tally.elapsed_ms as f64 / 1000.0,
    });
}

fn archive(counts: &mut Vec<Count>, counters: &ArchiverCounters) {
    for (name, help, value) in [
        ("archive_commits", "Commits of the archive", counters.commits),
        (
            "archive_files",
            "Files of the archive, dead letters' included",
            counters.files,
        ),
        ("archive_bytes", "Bytes of these files", counters.bytes),
        (
            "archive_raw_bytes",
            "Bytes of archived keys and values as they arrived",
            counters.raw_bytes,
        ),
        ("archive_rows", "Archived rows", counters.rows),
        ("archive_late_rows", "Archived rows that are late", counters.late),
        (
            "archive_duplicate_rows",
            "Archived rows that repeat a unique key",
            counters.duplicates,
        ),
        (
            "archive_lost_commits",
            "Commits that another archiver made first",
            counters.lost,
        ),
        (
            "archive_retries",
            "Tries of the archive that failed and are made again",
            counters.retries,
        ),
    ] {
        counts.push(count(name, help, Vec::new(), value));
    }
    for ((stream, reason), letters) in &counters.dead_letters {
        let labels = vec![("stream", stream.clone()), ("reason", reason.clone())];
        counts.push(count("dead_letters", "Malformed records, by reason", labels, *letters));
    }
    for ((stream, column), nulled) in &counters.nulled {
        let labels = vec![("stream", stream.clone()), ("column", column.clone())];
        let help = "Values that became NULL because they did not fit their column";
        counts.push(count("nulled_values", help, labels, *nulled));
    }
    for (reason, rolls) in &counters.rolls {
        let labels = vec![("reason", format!("{reason:?}").to_lowercase())];
        counts.push(count(
            "archive_rolls",
            "Commits of the archive, by what caused them",
            labels,
            *rolls,
        ));
    }
}

fn speed(counts: &mut Vec<Count>, status: &PartitionStatus) {
    let counters = &status.counters;
    for (name, help, value) in [
        (
            "speed_records",
            "Records folded, malformed ones included",
            counters.events,
        ),
        (
            "speed_replayed_records",
            "Records folded that were in the log at the start",
            counters.replayed,
        ),
        (
            "speed_raw_bytes",
            "Bytes of folded keys and values as they arrived",
            counters.raw_bytes,
        ),
        ("speed_batches", "Batches folded", counters.batches),
        ("speed_late_rows", "Folded rows that are late", counters.late),
        (
            "speed_duplicate_rows",
            "Folded rows that repeat a unique key",
            counters.duplicates,
        ),
        (
            "speed_dead_letters",
            "Malformed records that were passed over",
            counters.dead_letters,
        ),
        (
            "speed_nulled_values",
            "Folded values that became NULL because they did not fit their column",
            counters.nulled,
        ),
        ("speed_checkpoints", "Checkpoints written", counters.checkpoints),
    ] {
        let labels = vec![
            ("topic", status.partition.topic.clone()),
            ("partition", status.partition.partition.to_string()),
        ];
        counts.push(count(name, help, labels, value));
    }
}

fn batch(counts: &mut Vec<Count>, tally: &Tally) {
    for (outcome, runs) in [
        ("published", tally.published),
        ("nothing_new", tally.nothing_new),
        ("failed", tally.failed),
    ] {
        let labels = vec![("outcome", outcome.to_owned())];
        counts.push(count("batch_runs", "Batch runs, by outcome", labels, runs));
    }
    counts.push(count(
        "batch_rows",
        "Archived rows that batch runs folded",
        Vec::new(),
        tally.rows,
    ));
    let mut seconds = |name, help, labels, elapsed_ms: u64| {
        let value = elapsed_ms as f64 / 1000.0;
        counts.push(Count {
            name,
            help,
            labels,
            value,
        });
    };
    let help = "Seconds that batch runs took";
    seconds("batch_run_seconds", help, Vec::new(), tally.elapsed_ms);
    for (step, elapsed_ms) in [
        ("archive", tally.archive_ms),
        ("fold", tally.fold_ms),
        ("write", tally.write_ms),
    ] {
        let labels = vec![("step", step.to_owned())];
        let help =
            "Seconds that the steps of batch runs that did not fail took: waiting for the archive, folding, writing";
        seconds("batch_step_seconds", help, labels, elapsed_ms);
    }
}

fn count(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: u64) -> Count {
    Count {
        name,
        help,
        labels,
        value: value as f64,
    }
}
