//! The log: where events are, in which order, and what each of them is judged to be.
//!
//! In the order of an event's way: [`collect`] takes events over HTTP and from files, [`log`] is the contract of a log
//! (`embedded` keeps it on this machine, `kafka` on brokers), [`decode`] turns bytes into columns, [`marks`] judges late and duplicate
//! rows, and [`reader`] hands all of that on as [`EventBatch`]es that never cross a tick. [`position`] has the words
//! for places in a log. The crate knows nothing of archives, generations or answers.

pub mod clock;
pub mod collect;
pub mod contract;
pub mod decode;
pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod log;
pub mod marks;
pub mod position;
pub mod reader;

pub use clock::{Clock, ManualClock, SystemClock};
pub use embedded::{EmbeddedLog, EmbeddedSettings};
#[cfg(feature = "kafka")]
pub use kafka::{KafkaLog, KafkaSettings, Member};
pub use log::{Appended, EventLog, LogError, NewRecord, ProducerSequence, Records, Span, Topic};
pub use marks::{Horizon, HorizonError, KeysOnDisk, MarkState, NoHorizon, TakeKept};
pub use position::{Coverage, Cut, Offset, Partition, PartitionCut, RecordTime, Tick, TopicPartition, keeps_boundary};
pub use reader::{DeadLetter, EventBatch, Progress, ReadError, ReaderStart, StreamReader};

/// The message of `error` with those of its causes, each once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
