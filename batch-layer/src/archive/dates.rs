//! What the archive holds by event date, out of its commits alone: no row is read to learn that a date is as it was.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDate;
use foldline_event_log::{Offset, TopicPartition};

use super::{Archive, ArchiveError};

/// The rows of one event date of a partition below an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateRows {
    /// Where they lie: no row of the date is below it, or above it and below the asked offset.
    pub offsets: Range<Offset>,
    /// How many they are.
    pub rows: u64,
    /// Their files, each with its CRC-32 and how many of its first rows they are: where these are the same, so are the rows.
    pub files: Vec<(String, u32, u64)>,
}

impl Archive {
    /// The rows of `partition` from its origin to `until`, by event date. Fails unless the commits reach `until`. Of a file
    /// that goes on behind `until`, the offsets are read; there is one commit at most with such files.
    pub async fn dates_below(
        &self,
        partition: &TopicPartition,
        until: Offset,
    ) -> Result<BTreeMap<NaiveDate, DateRows>, ArchiveError> {
        let mut dates: BTreeMap<NaiveDate, DateRows> = BTreeMap::new();
        let Some(origin) = self.known_origin(partition).await?.filter(|origin| *origin < until) else {
            return Ok(dates);
        };
        for commit in self.covering(partition, &(origin..until)).await? {
            for file in &commit.files {
                let Some(date) = file.date else { continue };
                let rows = match file.last_offset < until {
                    true => file.rows,
                    false if file.first_offset >= until => 0,
                    false => {
                        let offsets = self.offsets_in(partition, file).await?;
                        let below = offsets.iter().filter(|offset| offset.cast_unsigned() < until.0);
                        below.count() as u64
                    }
                };
                if rows == 0 {
                    continue;
                }
                let end = until.min(Offset(file.last_offset.0 + 1));
                let of_date = dates.entry(date).or_insert_with(|| DateRows {
                    offsets: file.first_offset..end,
                    rows: 0,
                    files: Vec::new(),
                });
                of_date.offsets.end = of_date.offsets.end.max(end);
                of_date.rows += rows;
                of_date.files.push((file.path.clone(), file.crc32, rows));
            }
        }
        Ok(dates)
    }
}
