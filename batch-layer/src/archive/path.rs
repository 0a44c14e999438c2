//! Names of everything in the archive. Topic names are percent-encoded where a store could take them amiss.

use foldline_event_log::{Offset, Partition, TopicPartition};
use object_store::path::{Path, PathPart};
use uuid::Uuid;

const EXTENSION: &str = ".parquet";
/// Length of a UUID as text.
const UUID_LENGTH: usize = 36;

/// The folder of a topic, of whatever incarnation.
pub fn topic(topic: &str) -> Path {
    folder(["archive", topic])
}

/// The folder of a partition's commit records.
pub fn commits(partition: &TopicPartition) -> Path {
    folder([
        "archive",
        &partition.topic,
        "_commits",
        &partition.incarnation.to_string(),
        &partition.partition.to_string(),
    ])
}

/// The commit record of the range that begins at `first`.
pub fn commit(partition: &TopicPartition, first: Offset) -> Path {
    commits(partition).join(format!("{:020}.json", first.0))
}

/// The folder of what says where the partitions of a topic begin, by life.
pub fn origins(topic: &str) -> Path {
    folder(["archive", topic, "_origins"])
}

/// The record that says where a partition begins.
pub fn origin(partition: &TopicPartition) -> Path {
    folder([
        "archive",
        &partition.topic,
        "_origins",
        &partition.incarnation.to_string(),
        &format!("{}.json", partition.partition),
    ])
}

/// The name of a row file or dead-letter file: which commit may list it. A file is garbage only when the commit of
/// its range exists and does not list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileName {
    /// Which life of the topic.
    pub incarnation: Uuid,
    /// Partition.
    pub partition: Partition,
    /// First offset of the range whose commit may list the file.
    pub first: Offset,
    /// The attempt that wrote it.
    pub attempt: Uuid,
}

impl FileName {
    /// Reads the name of an archive file; `None` for anything else.
    pub fn parse(path: &Path) -> Option<Self> {
        let name = path.filename()?.strip_suffix(EXTENSION)?;
        let incarnation = name.get(..UUID_LENGTH)?;
        let attempt = name.get(name.len().checked_sub(UUID_LENGTH)?..)?;
        let middle = name.get(UUID_LENGTH..name.len() - UUID_LENGTH)?;
        let (partition, first) = middle.strip_prefix('-')?.strip_suffix('-')?.split_once('-')?;
        Some(Self {
            incarnation: incarnation.parse().ok()?,
            partition: Partition(partition.parse().ok()?),
            first: Offset(first.parse().ok()?),
            attempt: attempt.parse().ok()?,
        })
    }

    /// Path of the rows of one event date.
    pub fn rows(&self, topic_name: &str, date: chrono::NaiveDate) -> Path {
        topic(topic_name).join(format!("date={date}")).join(self.to_string())
    }

    /// Path of the malformed records.
    pub fn dead_letters(&self, topic_name: &str) -> Path {
        topic(topic_name).join("_dead_letters").join(self.to_string())
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{}-{}-{:020}-{}{EXTENSION}",
            self.incarnation, self.partition, self.first.0, self.attempt
        )
    }
}

fn folder<const N: usize>(parts: [&str; N]) -> Path {
    parts.into_iter().map(PathPart::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let name = FileName {
            incarnation: Uuid::from_u128(7),
            partition: Partition(12),
            first: Offset(1_000_000),
            attempt: Uuid::from_u128(9),
        };
        let date = chrono::NaiveDate::from_ymd_opt(2024, 5, 1).expect("a date");
        assert_eq!(FileName::parse(&name.rows("a/b", date)), Some(name));
        assert_eq!(FileName::parse(&name.dead_letters("..")), Some(name));
        for other in [
            "archive/t/_commits/x.json",
            "a.parquet",
            "archive/t/date=2024-05-01/ä.parquet",
        ] {
            assert_eq!(FileName::parse(&Path::from(other)), None, "{other}");
        }
    }

    #[test]
    fn dates_are_folders_of_the_topic() {
        let name = FileName {
            incarnation: Uuid::nil(),
            partition: Partition(0),
            first: Offset(0),
            attempt: Uuid::nil(),
        };
        let date = chrono::NaiveDate::from_ymd_opt(2024, 5, 1).expect("a date");
        assert_eq!(
            name.rows("clicks", date).as_ref(),
            format!(
                "archive/clicks/date=2024-05-01/{nil}-0-00000000000000000000-{nil}.parquet",
                nil = Uuid::nil()
            )
        );
    }
}
