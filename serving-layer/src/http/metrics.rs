//! What Prometheus scrapes: how questions were answered, and the status as gauges.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::views::{BROKEN, ViewInfo};
use crate::status::{Count, Status};

type Labels = Vec<(&'static str, String)>;
type Latency = Family<Labels, Histogram, fn() -> Histogram>;
type Counts = Family<Labels, Counter<f64, AtomicU64>>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Of the log's retention: beyond it somebody should look why the archive lags.
const RETENTION_ALARM: f64 = 0.5;

/// Where a question came in.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// `GET /v1/views/{view}`.
    View,
    /// `POST /v1/query`.
    Query,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Query => "query",
        }
    }
}

/// Counters of the questions answered.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    questions: Family<Labels, Counter>,
    seconds: Latency,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing answered yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("foldline");
        let questions = Family::default();
        // 0.5 ms to 65 s.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 18));
        let seconds = Family::new_with_constructor(histogram);
        registry.register("questions", "Questions answered, by way and outcome", questions.clone());
        registry.register("answer_seconds", "Time that answers took, by way", seconds.clone());
        Self {
            registry,
            questions,
            seconds,
        }
    }

    /// Counts a question.
    pub fn answered(&self, way: Way, answered: bool, elapsed: Duration) {
        let outcome = if answered { "answered" } else { "failed" };
        let labels = vec![("way", way.name().to_owned()), ("outcome", outcome.to_owned())];
        self.questions.get_or_create(&labels).inc();
        let seconds = self.seconds.get_or_create(&vec![("way", way.name().to_owned())]);
        seconds.observe(elapsed.as_secs_f64());
    }

    /// Everything, as text.
    pub(super) fn encode(&self, status: &Status, counts: Vec<Count>, views: &[ViewInfo]) -> String {
        let mut text = String::new();
        let mut shown = gauges(status, views);
        count(&mut shown, counts);
        // Writing into a String does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &shown);
        let _ = encode_eof(&mut text);
        text
    }
}

struct Shown {
    registry: Registry,
}

impl Shown {
    fn gauge(&mut self, name: &str, help: &str) -> Gauges {
        let gauges = Gauges::default();
        self.registry.register(name, help, gauges.clone());
        gauges
    }

    fn number(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.registry.register(name, help, gauge);
    }
}

fn gauges(status: &Status, views: &[ViewInfo]) -> Registry {
    let mut shown = Shown {
        registry: Registry::with_prefix("foldline"),
    };
    partitions(&mut shown, status);
    generations(&mut shown, status);
    let freshness = shown.gauge(
        "freshness_seconds",
        "Seconds up to which everything is in a view's answers",
    );
    let broken = shown.gauge(
        "view_broken",
        "1 where a view's seam is open or its state cannot be read",
    );
    for view in views {
        let labels = vec![("view", view.name.clone())];
        broken
            .get_or_create(&labels)
            .set(f64::from(u8::from(view.state == BROKEN)));
        if let Some(seconds) = view.coverage.as_ref().and_then(|coverage| coverage.freshness_seconds) {
            freshness.get_or_create(&labels).set(seconds);
        }
    }
    memory(&mut shown, status);
    batch(&mut shown, status);
    warehouse(&mut shown, status);
    let reasons = status.reasons().len() + views.iter().filter(|view| view.state == BROKEN).count();
    shown.number("problems", "Reasons for not being ready", reasons as f64);
    shown.registry
}

fn memory(shown: &mut Shown, status: &Status) {
    let held = shown.gauge("memory_bytes", "Bytes held, by holder");
    let bound = shown.gauge("memory_bytes_max", "Bytes that a holder may hold, where it has a bound");
    for holder in &status.memory {
        let labels = vec![("holder", holder.name.clone())];
        held.get_or_create(&labels).set(holder.bytes as f64);
        if let Some(bytes) = holder.bytes_max {
            bound.get_or_create(&labels).set(bytes as f64);
        }
    }
}

/// Only where batch runs are this process's: elsewhere nothing is known of them.
fn batch(shown: &mut Shown, status: &Status) {
    let batch = &status.batch;
    if batch.next_run.is_none() && batch.running.is_none() && batch.last_run.is_none() {
        return;
    }
    let flag = |on: bool| f64::from(u8::from(on));
    shown.number(
        "batch_running",
        "1 while a batch run is under way",
        flag(batch.running.is_some()),
    );
    shown.number(
        "batch_complaint",
        "1 where the last batch run failed or left a view out",
        flag(batch.last_error.is_some()),
    );
}

/// Only where this process loads it.
fn warehouse(shown: &mut Shown, status: &Status) {
    let Some(warehouse) = &status.warehouse else { return };
    if let Some(generation) = warehouse.generation {
        shown.number(
            "warehouse_generation",
            "Generation that the warehouse holds",
            generation as f64,
        );
    }
    let failed = f64::from(u8::from(warehouse.error.is_some()));
    shown.number(
        "warehouse_complaint",
        "1 where the last load of the warehouse failed",
        failed,
    );
}

fn count(registry: &mut Registry, counts: Vec<Count>) {
    let mut families: BTreeMap<&'static str, Counts> = BTreeMap::new();
    for count in counts {
        let family = families.entry(count.name).or_insert_with(|| {
            let family = Counts::default();
            registry.register(count.name, count.help, family.clone());
            family
        });
        family.get_or_create(&count.labels).inc_by(count.value);
    }
}

fn partitions(shown: &mut Shown, status: &Status) {
    let end = shown.gauge("log_end_offset", "Offset that the next record gets");
    let lag = shown.gauge("lag_records", "Records of the log that are not folded yet");
    let lag_seconds = shown.gauge("lag_seconds", "Seconds since the time up to which everything is folded");
    let folded = shown.gauge("speed_until_offset", "Next offset to fold");
    let archived = shown.gauge("archived_until_offset", "Next offset to archive");
    let cut = shown.gauge("cut_offset", "Next offset behind what the current generation covers");
    let events = shown.gauge("speed_events", "Events folded since the start");
    let bytes = shown.gauge("speed_bytes", "Bytes that the partials of a partition hold");
    let segments = shown.gauge("speed_segments", "Segments of a partition");
    let retention = shown.gauge(
        "retention_used",
        "Share of the log's retention that the oldest record that is not archived has spent in it",
    );
    let alarm = shown.gauge(
        "retention_alarm",
        "1 where the archive lags by more than half of the log's retention",
    );
    let stopped = shown.gauge("stopped", "1 where a layer stands still");
    for stream in &status.streams {
        for partition in &stream.partitions {
            let labels: Labels = vec![
                ("topic", stream.topic.clone()),
                ("partition", partition.partition.to_string()),
            ];
            let set = |gauges: &Gauges, value: Option<f64>| {
                if let Some(value) = value {
                    gauges.get_or_create(&labels).set(value);
                }
            };
            set(&end, Some(partition.end as f64));
            set(&lag, partition.lag.map(|lag| lag as f64));
            set(&lag_seconds, partition.lag_seconds);
            set(&folded, partition.speed_until.map(|until| until as f64));
            set(&archived, partition.archived_until.map(|until| until as f64));
            set(&cut, partition.cut.map(|cut| cut as f64));
            set(&events, partition.events.map(|events| events as f64));
            set(&bytes, partition.bytes.map(|bytes| bytes as f64));
            set(&retention, partition.retention_used);
            let near = partition.retention_used.map(|used| used > RETENTION_ALARM);
            set(&alarm, near.map(|near| f64::from(u8::from(near))));
            set(&segments, partition.segments.map(|segments| segments as f64));
            for (layer, reason) in [
                ("speed", &partition.speed_stopped),
                ("archive", &partition.archive_stopped),
                ("realtime", &partition.realtime_stale),
            ] {
                let mut labels = labels.clone();
                labels.push(("layer", layer.to_owned()));
                stopped
                    .get_or_create(&labels)
                    .set(f64::from(u8::from(reason.is_some())));
            }
        }
    }
}

fn generations(shown: &mut Shown, status: &Status) {
    let Some(current) = status.generations.iter().find(|generation| generation.current) else {
        return;
    };
    shown.number("generation", "Number of the current generation", current.number as f64);
    let published = current
        .published
        .as_deref()
        .and_then(|published| DateTime::parse_from_rfc3339(published).ok());
    if let Some(published) = published {
        let seconds = (Utc::now() - published.with_timezone(&Utc)).num_milliseconds() as f64 / 1000.0;
        shown.number(
            "generation_age_seconds",
            "Seconds since the current generation was published",
            seconds.max(0.0),
        );
    }
}
