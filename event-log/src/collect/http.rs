//! The HTTP collector.
//!
//! `POST /v1/streams/{stream}/events` takes NDJSON or a JSON array. One request is one append: its events are stored all
//! or not at all, each as the bytes that it is. What is not JSON is *rejected*: named in the answer by its line (or
//! its place in the array), and not stored. What is JSON but does not fit the stream is stored, and becomes a dead
//! letter when it is read. Lines end at `\n` alone; blank ones are skipped.
//!
//! With an `Idempotency-Key` a request happens once within 24 hours: a repeat gets the same answer, and another body
//! under the same key is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use foldline_sql::Stream;
use futures::StreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunk;
use super::import::producer;
use super::key::key_of;
use crate::{Appended, EventLog, LogError, NewRecord, ProducerSequence};

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// All requests together hold at most this many whole bodies.
const BODIES_AT_ONCE: usize = 8;
/// Events of one request.
const EVENTS_MAX: usize = 1_000_000;
/// An `Idempotency-Key` is at most this long.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Larger bodies are taken apart where that blocks no other request.
const INLINE_BYTES: usize = 64 * 1024;
/// The unit in which memory for bodies is counted.
const MEMORY_UNIT: usize = 4 * 1024;

/// What the collector works with.
#[derive(Debug, Clone)]
pub struct Collector {
    log: Arc<dyn EventLog>,
    streams: Arc<HashMap<String, Arc<Stream>>>,
    body_bytes_max: usize,
    record_bytes_max: usize,
    memory: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// What the collector counts, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectorCounters {
    /// Requests answered with 202.
    pub stored: u64,
    /// Of these, repeats of a request that was stored before.
    pub repeats: u64,
    /// Requests that the log could not take: the sender is to try again.
    pub busy: u64,
    /// Requests refused for what they are, or that failed.
    pub refused: u64,
    /// Events stored.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events that were not JSON, and so not stored.
    pub rejected: u64,
}

#[derive(Debug, Default)]
struct Counts {
    stored: AtomicU64,
    repeats: AtomicU64,
    busy: AtomicU64,
    refused: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    rejected: AtomicU64,
}

impl Counts {
    fn refused(&self, problem: &Problem) {
        let kind = match problem.status {
            StatusCode::SERVICE_UNAVAILABLE => &self.busy,
            _ => &self.refused,
        };
        kind.fetch_add(1, Ordering::Relaxed);
    }

    fn stored(&self, (events, bytes): (u64, u64), rejected: usize, outcome: Appended) {
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.rejected.fetch_add(rejected as u64, Ordering::Relaxed);
        match outcome {
            Appended::Already => {
                self.repeats.fetch_add(1, Ordering::Relaxed);
            }
            Appended::Stored => {
                self.events.fetch_add(events, Ordering::Relaxed);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Collector {
    /// A collector for `streams`, with bodies up to 32 MiB and events up to 16 MiB.
    pub fn new(log: Arc<dyn EventLog>, streams: impl IntoIterator<Item = Arc<Stream>>) -> Self {
        let streams = streams
            .into_iter()
            .map(|stream| (stream.name.clone(), stream))
            .collect();
        let collector = Self {
            log,
            streams: Arc::new(streams),
            body_bytes_max: BODY_BYTES_MAX,
            record_bytes_max: RECORD_BYTES_MAX,
            memory: Arc::new(Semaphore::new(0)),
            counts: Arc::default(),
        };
        collector.with_body_bytes_max(BODY_BYTES_MAX)
    }

    /// Takes bodies up to `bytes`; all requests together hold at most eight times that.
    pub fn with_body_bytes_max(self, bytes: usize) -> Self {
        let units = (bytes * BODIES_AT_ONCE).div_ceil(MEMORY_UNIT);
        Self {
            body_bytes_max: bytes,
            memory: Arc::new(Semaphore::new(units)),
            ..self
        }
    }

    /// Takes events up to `bytes`; not more than the log takes.
    pub fn with_record_bytes_max(self, bytes: usize) -> Self {
        Self {
            record_bytes_max: bytes,
            ..self
        }
    }

    /// What was counted since the start.
    pub fn counters(&self) -> CollectorCounters {
        let counts = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CollectorCounters {
            stored: read(&counts.stored),
            repeats: read(&counts.repeats),
            busy: read(&counts.busy),
            refused: read(&counts.refused),
            events: read(&counts.events),
            bytes: read(&counts.bytes),
            rejected: read(&counts.rejected),
        }
    }

    fn stream(&self, name: &str) -> Result<&Arc<Stream>, Problem> {
        self.streams.get(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.streams.keys().map(String::as_str).collect();
            names.sort_unstable();
            let detail = format!("there is no stream \"{name}\"; there are: {}", names.join(", "));
            Problem::new(StatusCode::NOT_FOUND, "unknown-stream", "unknown stream", detail)
        })
    }

    async fn append(
        &self,
        stream: &Stream,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, Problem> {
        if let Err(LogError::UnknownTopic(_)) = self.log.topic(&stream.topic).await {
            self.log.ensure_topic(&stream.topic, stream.partitions).await?;
        }
        Ok(self.log.append(&stream.topic, records, sequence).await?)
    }
}

/// The collector's routes.
pub fn router(collector: Collector) -> Router {
    Router::new()
        .route("/v1/streams/{stream}/events", post(take_events))
        .route("/v1/streams/{stream}/import/{file}", get(import_state))
        .route("/v1/streams/{stream}/import/{file}/{sequence}", post(import_chunk))
        .with_state(collector)
}

/// Answer to a request with events.
#[derive(Debug, Default, Serialize)]
struct Taken {
    accepted: usize,
    rejected: Vec<Rejected>,
}

/// An event that was not stored.
#[derive(Debug, Serialize)]
struct Rejected {
    /// From 1: its line, or its place in the array.
    line: usize,
    reason: String,
}

async fn take_events(
    State(collector): State<Collector>,
    Path(stream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let taken = take(&collector, &stream, &headers, body).await;
    let taken = taken.inspect_err(|problem| collector.counts.refused(problem))?;
    Ok((StatusCode::ACCEPTED, axum::Json(taken)).into_response())
}

async fn take(collector: &Collector, stream: &str, headers: &HeaderMap, body: Body) -> Result<Taken, Problem> {
    let stream = Arc::clone(collector.stream(stream)?);
    let idempotency_key = idempotency_key(headers)?;
    let (body, _memory) = read_body(collector, headers, body).await?;
    let sequence = match idempotency_key {
        None => None,
        Some(key) => {
            let sequence = request_sequence(&stream, &key, &body);
            refuse_another_body(collector, &sequence).await?;
            Some(sequence)
        }
    };
    let ndjson = headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-ndjson"));
    let (column, record_bytes_max) = (stream.key.clone(), collector.record_bytes_max);
    let take_apart = move || {
        let event = Event {
            column: column.as_deref(),
            record_bytes_max,
        };
        let array = !ndjson && body.trim_ascii_start().first() == Some(&b'[');
        if array {
            event.of_array(&body)
        } else {
            event.of_lines(&body)
        }
    };
    let (records, taken) = if body_is_small(headers) {
        take_apart()?
    } else {
        tokio::task::spawn_blocking(take_apart)
            .await
            .map_err(|_| Problem::internal())??
    };
    let mut outcome = Appended::Stored;
    let weight = weight(&records);
    if !records.is_empty() || sequence.is_some() {
        outcome = collector.append(&stream, records, sequence.clone()).await?;
        if let (Appended::Already, Some(sequence)) = (outcome, &sequence) {
            // Stored by then: perhaps another body, that came at the same moment.
            refuse_another_body(collector, sequence).await?;
        }
    }
    collector.counts.stored(weight, taken.rejected.len(), outcome);
    Ok(taken)
}

/// Events and their bytes.
fn weight(records: &[NewRecord]) -> (u64, u64) {
    let bytes = records.iter().map(|record| record.value.len() as u64);
    (records.len() as u64, bytes.sum())
}

fn body_is_small(headers: &HeaderMap) -> bool {
    announced_bytes(headers).is_some_and(|bytes| bytes <= INLINE_BYTES)
}

fn announced_bytes(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body within the bounds of one and of all.
async fn read_body(
    collector: &Collector,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let max = collector.body_bytes_max;
    let too_large = |bytes: usize| {
        let detail = format!("the body has {bytes} bytes or more, at most {max} are taken: send it in parts");
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "body too large",
            detail,
        )
    };
    let announced = announced_bytes(headers).unwrap_or(0);
    if announced > max {
        return Err(too_large(announced));
    }
    let busy = |_| Problem::busy("too many large requests at once", 1);
    let mut memory = Arc::clone(&collector.memory).try_acquire_many_owned(0).map_err(busy)?;
    let mut held = 0;
    let mut whole = BytesMut::new();
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|cause| {
            let detail = format!("the body ended early: {cause}");
            Problem::new(StatusCode::BAD_REQUEST, "body-cut-off", "body cut off", detail)
        })?;
        let bytes = whole.len() + part.len();
        if bytes > max {
            return Err(too_large(bytes));
        }
        if bytes > held {
            // As much again as there is, so that neither permits nor copies are many.
            let wanted = bytes.max(2 * held).max(announced).min(max).max(bytes);
            let units = (wanted - held).div_ceil(MEMORY_UNIT);
            memory.merge(
                Arc::clone(&collector.memory)
                    .try_acquire_many_owned(units as u32)
                    .map_err(busy)?,
            );
            held += units * MEMORY_UNIT;
            whole.reserve(wanted - whole.len());
        }
        whole.extend_from_slice(&part);
    }
    Ok((whole.freeze(), memory))
}

/// How an event becomes a record.
struct Event<'a> {
    column: Option<&'a str>,
    record_bytes_max: usize,
}

impl Event<'_> {
    fn of_lines(&self, body: &Bytes) -> Result<(Vec<NewRecord>, Taken), Problem> {
        let mut records = Vec::new();
        let mut taken = Taken::default();
        let mut rest = &body[..];
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = rest.iter().position(|byte| *byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            rest = end.map_or(&[], |end| &rest[end + 1..]);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.trim_ascii().is_empty() {
                self.take(number, body.slice_ref(line), &mut records, &mut taken)?;
            }
        }
        Ok((records, taken))
    }

    fn of_array(&self, body: &Bytes) -> Result<(Vec<NewRecord>, Taken), Problem> {
        let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|cause| {
            let detail = format!("the body starts as a JSON array but is none: {cause}");
            Problem::new(StatusCode::BAD_REQUEST, "not-json", "not JSON", detail)
        })?;
        let mut records = Vec::with_capacity(events.len().min(EVENTS_MAX));
        let mut taken = Taken::default();
        for (place, event) in events.into_iter().enumerate() {
            self.take(
                place + 1,
                body.slice_ref(event.get().as_bytes()),
                &mut records,
                &mut taken,
            )?;
        }
        Ok((records, taken))
    }

    fn take(&self, line: usize, event: Bytes, records: &mut Vec<NewRecord>, taken: &mut Taken) -> Result<(), Problem> {
        if records.len() + taken.rejected.len() >= EVENTS_MAX {
            let detail = format!("at most {EVENTS_MAX} events are taken at once: send them in parts");
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-events",
                "too many events",
                detail,
            ));
        }
        match self.record(event) {
            Ok(record) => {
                taken.accepted += 1;
                records.push(record);
            }
            Err(reason) => taken.rejected.push(Rejected { line, reason }),
        }
        Ok(())
    }

    fn record(&self, event: Bytes) -> Result<NewRecord, String> {
        let key = key_of(&event, self.column)?;
        let bytes = event.len() + key.as_ref().map_or(0, Bytes::len);
        if bytes > self.record_bytes_max {
            return Err(format!(
                "{bytes} bytes with its key, at most {} are taken",
                self.record_bytes_max
            ));
        }
        Ok(NewRecord {
            key,
            value: event,
            headers: Vec::new(),
        })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "bad-idempotency-key",
                "bad Idempotency-Key",
                detail,
            ))
        }
    }
}

/// The sequence of a request that happens once: a fingerprint of its body, so that another body is noticed.
fn request_sequence(stream: &Stream, key: &str, body: &[u8]) -> ProducerSequence {
    let digest = Sha256::digest(body);
    ProducerSequence {
        producer: format!("request/{}/{key}", stream.name),
        sequence: u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes")),
    }
}

/// Refuses a request whose key stands for a stored request with another body.
async fn refuse_another_body(collector: &Collector, request: &ProducerSequence) -> Result<(), Problem> {
    match collector.log.last_sequence(&request.producer).await? {
        Some(other) if other != request.sequence => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Idempotency-Key reused",
            "another body was sent with this Idempotency-Key, and nothing of this one is stored: choose a new key"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

async fn import_state(
    State(collector): State<Collector>,
    Path((stream, file)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let stream = collector.stream(&stream)?;
    let producer = import_producer(&file, stream)?;
    let last = collector.log.last_sequence(&producer).await?;
    Ok(axum::Json(serde_json::json!({ "last_sequence": last })).into_response())
}

async fn import_chunk(
    State(collector): State<Collector>,
    Path((stream, file, sequence)): Path<(String, String, u64)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let outcome = take_chunk(&collector, &stream, &file, sequence, &headers, body).await;
    let outcome = match outcome.inspect_err(|problem| collector.counts.refused(problem))? {
        Appended::Stored => "stored",
        Appended::Already => "already",
    };
    Ok(axum::Json(serde_json::json!({ "outcome": outcome })).into_response())
}

async fn take_chunk(
    collector: &Collector,
    stream: &str,
    file: &str,
    sequence: u64,
    headers: &HeaderMap,
    body: Body,
) -> Result<Appended, Problem> {
    let stream = Arc::clone(collector.stream(stream)?);
    let producer = import_producer(file, &stream)?;
    let (body, _memory) = read_body(collector, headers, body).await?;
    let records = chunk::decode(body)
        .map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, "not-records", "not records", detail))?;
    let weight = weight(&records);
    let sequence = ProducerSequence { producer, sequence };
    let outcome = collector.append(&stream, records, Some(sequence)).await?;
    collector.counts.stored(weight, 0, outcome);
    Ok(outcome)
}

fn import_producer(file: &str, stream: &Stream) -> Result<String, Problem> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=128).contains(&file.len()) && file.bytes().all(legal) {
        return Ok(producer(file, &stream.name));
    }
    let detail = "a file is named by the hash of its content".to_owned();
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "bad-file-name",
        "bad file name",
        detail,
    ))
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    detail: String,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: String) -> Self {
        let kind = format!("https://foldline.dev/problems/{kind}");
        Self {
            kind,
            title,
            status,
            detail,
            retry_after_seconds: None,
        }
    }

    fn busy(detail: &str, retry_after_seconds: u32) -> Self {
        let problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "log-is-full",
            "cannot take more now",
            detail.to_owned(),
        );
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..problem
        }
    }

    fn internal() -> Self {
        let detail = "the events may or may not be stored; an Idempotency-Key makes it safe to send them again";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "log-failed",
            "the log failed",
            detail.to_owned(),
        )
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match &error {
            LogError::Full(_) => Self::busy(&error.to_string(), 1),
            LogError::Closed(_) => Self::busy(&error.to_string(), 10),
            LogError::TooLarge { .. } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "event-too-large",
                "event too large",
                error.to_string(),
            ),
            LogError::UnknownTopic(_)
            | LogError::TopicMismatch { .. }
            | LogError::OutOfRange { .. }
            | LogError::Locked(_)
            | LogError::Damaged { .. }
            | LogError::Storage { .. } => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the log failed under the collector"
                );
                Self::internal()
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a problem is plain JSON");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
