//! What the safe crate lacks: reading a partition's queue in batches, a topic's id, and offsets of many partitions at
//! once. The only module of the workspace that may be unsafe; everything that it shows is safe.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::{RDKafka, RDKafkaErrorCode};
use tokio::sync::Notify;
use uuid::Uuid;

/// Messages taken out of a queue at once.
const BATCH: usize = 1024;

/// Hands `take` what `client` has logged (level of syslog, facility, text) and nobody has taken yet. For a client that is
/// never polled: there it would wait for ever.
pub(super) fn logged<C: ClientContext>(client: &Client<C>, take: impl Fn(i32, &str, &str)) {
    // SAFETY: the client lives; queue and events are ours to destroy, and the strings of an event live as long as it does.
    unsafe {
        let queue = rd::rd_kafka_queue_get_main(client.native_ptr());
        loop {
            let event = rd::rd_kafka_queue_poll(queue, 0);
            if event.is_null() {
                break;
            }
            let (mut facility, mut text, mut level) = (std::ptr::null(), std::ptr::null(), 0);
            if rd::rd_kafka_event_type(event) == rd::RD_KAFKA_EVENT_LOG
                && rd::rd_kafka_event_log(event, &raw mut facility, &raw mut text, &raw mut level) == 0
            {
                let string = |text| CStr::from_ptr(text).to_string_lossy();
                take(level, &string(facility), &string(text));
            }
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
    }
}

/// The messages of one partition, apart from those of others. While it lives, its consumer does.
pub(super) struct PartitionQueue<C: ConsumerContext + 'static> {
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// What the callback of the queue points to.
    arrived: Arc<Notify>,
    buffer: Vec<*mut rd::rd_kafka_message_t>,
    _consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and the pointers in `buffer` are not read between two calls
// of `take`, which needs `&mut self`.
unsafe impl<C: ConsumerContext + 'static> Send for PartitionQueue<C> {}

impl<C: ConsumerContext + 'static> PartitionQueue<C> {
    /// Splits `partition` off `consumer`. To be called before the partition is assigned, so that no message goes into
    /// the consumer's common queue. `arrived` is told when messages come into an empty queue.
    pub(super) fn split(
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        partition: i32,
        arrived: Arc<Notify>,
    ) -> Option<Self> {
        unsafe extern "C" fn tell(_: *mut RDKafka, arrived: *mut c_void) {
            // SAFETY: the pointer is that of `PartitionQueue::arrived`, which lives until the callback is taken away;
            // librdkafka calls it, and takes it away, with the queue's lock held.
            let arrived = unsafe { &*arrived.cast::<Notify>() };
            arrived.notify_one();
        }

        let name = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: client and name are valid; the queue that is returned is ours to destroy.
        let queue = unsafe { rd::rd_kafka_queue_get_partition(client, name.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is valid; `arrived` is kept in `Self` until `drop` has taken the callback away.
        unsafe {
            rd::rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut());
            let opaque = Arc::as_ptr(&arrived).cast_mut().cast();
            rd::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(tell), opaque);
        }
        Some(Self {
            queue,
            arrived,
            buffer: vec![std::ptr::null_mut(); BATCH],
            _consumer: Arc::clone(consumer),
        })
    }

    /// Told when messages come into the empty queue.
    pub(super) fn arrived(&self) -> &Arc<Notify> {
        &self.arrived
    }

    /// Takes what is there, up to a bound, without waiting.
    pub(super) fn take(&mut self, into: &mut std::collections::VecDeque<Message>) {
        // SAFETY: the queue is valid, and the buffer has room for as many messages as are asked for.
        let count = unsafe {
            rd::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, self.buffer.as_mut_ptr(), self.buffer.len())
        };
        let count = usize::try_from(count).unwrap_or(0);
        into.extend(
            self.buffer[..count]
                .iter()
                .filter_map(|message| NonNull::new(*message))
                .map(Message),
        );
    }
}

impl<C: ConsumerContext + 'static> Drop for PartitionQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the queue is valid until it is destroyed here, and after the first call nothing points to `arrived`.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, std::ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// A message, or an event of its partition, as librdkafka gave it: it owns its bytes. It must not outlive its consumer.
pub(super) struct Message(NonNull<rd::rd_kafka_message_t>);

// SAFETY: a message belongs to whoever took it, and nothing else points to it.
unsafe impl Send for Message {}

impl Message {
    fn raw(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: the message is valid until it is destroyed in `drop`.
        unsafe { self.0.as_ref() }
    }

    /// What it tells instead of a record.
    pub(super) fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let code = self.raw().err;
        if code == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the message is valid, and so is the text for as long.
        let text = unsafe { text_of(rd::rd_kafka_message_errstr(self.0.as_ptr())) };
        Some((code.into(), text))
    }

    /// Offset; of the end of a partition: where the next record will be.
    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Timestamp, milliseconds since 1970; -1 where the record has none.
    pub(super) fn timestamp_ms(&self) -> i64 {
        // SAFETY: the message is valid, and the kind of timestamp may go nowhere.
        unsafe { rd::rd_kafka_message_timestamp(self.0.as_ptr(), std::ptr::null_mut()) }
    }

    /// Value; `None` for a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka says that `payload` has `len` bytes, which live as long as the message.
        unsafe { bytes_of(raw.payload, raw.len) }
    }

    /// Key, if there is one.
    pub(super) fn key(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: as for the value.
        unsafe { bytes_of(raw.key, raw.key_len) }
    }

    /// Calls `each` with every header; the value is `None` where Kafka has none.
    pub(super) fn headers(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is valid; the headers belong to it.
        let found = unsafe { rd::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if found != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the headers are valid, and the three places take what is found.
            let found =
                unsafe { rd::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
            if found != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: name and value live as long as the message.
            unsafe { each(&text_of(name), bytes_of(value, size)) };
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the message is ours, and this is the last time that it is used.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Message")
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

/// A broker to ask where the brokers name a controller that is none of them, as librdkafka's mock cluster does. Blocks.
pub(super) fn without_controller<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Option<i32> {
    let metadata = client.fetch_metadata(None, timeout).ok()?;
    // SAFETY: the client is valid; without a time to wait the call gives what is known.
    let controller = unsafe { rd::rd_kafka_controllerid(client.native_ptr(), 0) };
    let brokers = metadata.brokers();
    let named = brokers.iter().any(|broker| broker.id() == controller);
    brokers.first().filter(|_| !named).map(|broker| broker.id())
}

/// The id and the number of partitions of `topic`, as the controller says, or `broker`. Blocks.
pub(super) fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    broker: Option<i32>,
    timeout: Duration,
) -> Result<(Uuid, u32), (RDKafkaErrorCode, String)> {
    let name = CString::new(topic).map_err(|_| (RDKafkaErrorCode::InvalidTopic, "a NUL in its name".to_owned()))?;
    let request = Request::new(
        client,
        rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        timeout,
    );
    if let Some(broker) = broker {
        request.ask_broker(broker);
    }
    let mut names = [name.as_ptr()];
    // SAFETY: client, options and queue are valid; the collection copies the name and is destroyed once asked.
    let event = unsafe {
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        rd::rd_kafka_DescribeTopics(client.native_ptr(), topics, request.options, request.queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
        request.answer(timeout)?
    };
    // SAFETY: the event is a result of DescribeTopics without an error; everything read lives as long as it.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if result.is_null() || topics.is_null() || count != 1 {
            return Err((RDKafkaErrorCode::BadMessage, format!("{count} topics described")));
        }
        let found = *topics;
        let error = rd::rd_kafka_TopicDescription_error(found);
        let code = rd::rd_kafka_error_code(error);
        if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err((code.into(), text_of(rd::rd_kafka_error_string(error))));
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(found);
        let high = rd::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = rd::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(found, &raw mut partitions);
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        Ok((Uuid::from_u64_pair(high, low), partitions))
    }
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// The first that can be read.
    Earliest,
    /// Behind the last record that every replica has: the high watermark.
    Latest,
    /// Where the first open transaction begins, or as `Latest`: the last stable offset.
    Stable,
}

/// An offset, or why there is none.
pub(super) type EdgeOffset = Result<i64, (RDKafkaErrorCode, String)>;

/// The offsets of many partitions, in the order of `partitions`. Blocks.
pub(super) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(String, i32)],
    edge: Edge,
    timeout: Duration,
) -> Result<Vec<EdgeOffset>, (RDKafkaErrorCode, String)> {
    let request = Request::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout);
    let spec = match edge {
        Edge::Earliest => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST,
        Edge::Latest | Edge::Stable => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST,
    };
    let isolation = match edge {
        Edge::Stable => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        Edge::Earliest | Edge::Latest => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
    };
    // SAFETY: client, options and queue are valid; the list is copied by the call and destroyed after it; names are
    // copied into the list.
    let event = unsafe {
        let error = rd::rd_kafka_AdminOptions_set_isolation_level(request.options, isolation);
        if !error.is_null() {
            rd::rd_kafka_error_destroy(error);
        }
        let size = c_int::try_from(partitions.len()).unwrap_or(c_int::MAX);
        let list = rd::rd_kafka_topic_partition_list_new(size);
        for (topic, partition) in partitions {
            let name = CString::new(topic.as_str()).unwrap_or_default();
            let place = rd::rd_kafka_topic_partition_list_add(list, name.as_ptr(), *partition);
            (*place).offset = spec as i64;
        }
        rd::rd_kafka_ListOffsets(client.native_ptr(), list, request.options, request.queue);
        rd::rd_kafka_topic_partition_list_destroy(list);
        request.answer(timeout)?
    };
    let mut found = std::collections::HashMap::new();
    // SAFETY: the event is a result of ListOffsets without an error; everything read lives as long as it.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(event.0);
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        for index in 0..count {
            let place = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let offset = if place.err == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                Ok(place.offset)
            } else {
                Err((place.err.into(), text_of(rd::rd_kafka_err2str(place.err))))
            };
            found.insert((text_of(place.topic), place.partition), offset);
        }
    }
    let missing = || Err((RDKafkaErrorCode::BadMessage, "it was not in the answer".to_owned()));
    Ok(partitions
        .iter()
        .map(|place| found.remove(place).unwrap_or_else(missing))
        .collect())
}

/// A question to the brokers.
struct Request {
    options: *mut rd::rd_kafka_AdminOptions_t,
    queue: *mut rd::rd_kafka_queue_t,
}

impl Request {
    fn new<C: ClientContext>(client: &Client<C>, kind: rd::rd_kafka_admin_op_t, timeout: Duration) -> Self {
        let mut complaint = [0 as c_char; 256];
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the client is valid; both objects are ours until `drop`; a time-out that is refused leaves the
        // default one.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client.native_ptr(), kind);
            rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, complaint.as_mut_ptr(), complaint.len());
            let queue = rd::rd_kafka_queue_new(client.native_ptr());
            Self { options, queue }
        }
    }

    /// Asks this broker.
    fn ask_broker(&self, broker: i32) {
        let mut complaint = [0 as c_char; 256];
        // SAFETY: the options are valid; a broker that is refused leaves the controller.
        unsafe {
            rd::rd_kafka_AdminOptions_set_broker(self.options, broker, complaint.as_mut_ptr(), complaint.len());
        }
    }

    /// Waits for the answer.
    fn answer(&self, timeout: Duration) -> Result<Event, (RDKafkaErrorCode, String)> {
        // librdkafka answers every request, with an error after its time-out at the latest.
        let wait = c_int::try_from(timeout.as_millis().saturating_add(5_000)).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid, and its only event is the answer.
        let event = Event(unsafe { rd::rd_kafka_queue_poll(self.queue, wait) });
        if event.0.is_null() {
            return Err((RDKafkaErrorCode::OperationTimedOut, "no answer".to_owned()));
        }
        // SAFETY: the event is valid.
        unsafe {
            let code = rd::rd_kafka_event_error(event.0);
            if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err((code.into(), text_of(rd::rd_kafka_event_error_string(event.0))));
            }
        }
        Ok(event)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: both are ours, and this is the last time that they are used.
        unsafe {
            rd::rd_kafka_queue_destroy(self.queue);
            rd::rd_kafka_AdminOptions_destroy(self.options);
        }
    }
}

struct Event(*mut rd::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the event is ours, and this is the last time that it is used.
            unsafe { rd::rd_kafka_event_destroy(self.0) }
        }
    }
}

/// # Safety
/// `text` is NULL or a text that ends with NUL.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `bytes` is NULL or has `length` bytes, which live for `'a`.
unsafe fn bytes_of<'a>(bytes: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast(), length) })
}
