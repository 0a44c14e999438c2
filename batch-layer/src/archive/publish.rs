//! Files first, then the commit record that lists them.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldline_event_log::{EventBatch, MarkState, Offset, RecordTime, Tick, TopicPartition};
use foldline_sql::Stream;
use futures::{StreamExt, TryStreamExt};
use parquet::errors::ParquetError;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::encode::{EncodedFile, encode};
use super::{Archive, ArchiveError, ArchivedFile, Commit, follows, path};
use crate::store::{self, Created, Record};

/// Encoded files that wait for a place among those being stored.
const ENCODED_FILES_MAX: usize = 2;
/// Files of one commit being stored at the same time.
const PUTS: usize = 8;

impl Archive {
    /// Archives `batches`, which follow each other in one partition and touch the end of its archive, as one commit.
    /// `attempt` is new with every call. When another writer committed first, the answer is `Lost` and nothing is
    /// changed; the files of the loser are garbage.
    ///
    /// # Panics
    ///
    /// When `batches` is empty.
    pub async fn append(
        &self,
        stream: &Arc<Stream>,
        batches: Arc<Vec<EventBatch>>,
        attempt: Uuid,
    ) -> Result<Arc<Commit>, ArchiveError> {
        assert!(!batches.is_empty(), "a commit of no batches");
        let partition = batches[0].partition.clone();
        self.judged_alike(stream, &partition).await?;
        let (encoded, to_store) = mpsc::channel(ENCODED_FILES_MAX);
        let stream = Arc::clone(stream);
        let encoding = tokio::task::spawn_blocking(move || {
            encode(&stream, &batches, attempt, |file| encoded.blocking_send(file).is_ok())
        });
        let files = self.store_files(to_store).await?;
        let mut commit = encoding.await.map_err(|failure| ArchiveError::Encode {
            partition: partition.clone(),
            source: ParquetError::External(Box::new(failure)),
        })??;
        (commit.files, commit.dead_letters) = in_order(files);
        self.publish(commit).await
    }

    /// Records that the offsets from the end of the archive to `until` are gone, and why, so that archiving goes on
    /// behind them. What they held is in no answer from the next cut on. Nothing is done where the archive has reached
    /// `until`.
    pub async fn accept_gap(
        &self,
        stream: &Stream,
        partition: &TopicPartition,
        until: Offset,
        reason: String,
    ) -> Result<Option<Arc<Commit>>, ArchiveError> {
        self.judged_alike(stream, partition).await?;
        let Some(resume) = self.resume(partition).await?.filter(|resume| resume.next < until) else {
            return Ok(None);
        };
        // Before any record: the time before all records.
        let record_time = resume.marks.record_time.unwrap_or(RecordTime(0));
        let gap = resume.next..until;
        let commit = Commit {
            version: Commit::VERSION,
            attempt: Uuid::new_v4(),
            partition: partition.clone(),
            offsets: gap.clone(),
            first_tick: Tick(record_time.0),
            judged_by: stream.judging_id(),
            files: Vec::new(),
            dead_letters: None,
            holes: vec![gap],
            boundaries: Vec::new(),
            marks: MarkState {
                record_time: Some(record_time),
                ..resume.marks
            },
            late: 0,
            duplicates: 0,
            nulled: BTreeMap::new(),
            gap: Some(reason),
        };
        self.publish(commit).await.map(Some)
    }

    /// Fails when the archive of `partition` was judged under another declaration than that of `stream`.
    pub async fn judged_alike(&self, stream: &Stream, partition: &TopicPartition) -> Result<(), ArchiveError> {
        match self.commits(partition).await?.last() {
            Some(last) if last.judged_by != stream.judging_id() => Err(ArchiveError::Rejudged {
                stream: stream.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    async fn store_files(&self, to_store: mpsc::Receiver<EncodedFile>) -> Result<Vec<ArchivedFile>, ArchiveError> {
        let puts = futures::stream::unfold(to_store, |mut to_store| async {
            to_store.recv().await.map(|file| (file, to_store))
        });
        puts.map(|EncodedFile { path, file, bytes }| async move {
            store::put_own(&*self.store, &path, bytes).await?;
            Ok(file)
        })
        .buffer_unordered(PUTS)
        .try_collect()
        .await
    }

    pub(super) async fn publish(&self, commit: Commit) -> Result<Arc<Commit>, ArchiveError> {
        let known = self.known(&commit.partition);
        let mut known = known.lock().await;
        self.read_on(&commit.partition, &mut known).await?;
        let lost = |winner: Uuid| ArchiveError::Lost {
            partition: commit.partition.clone(),
            first: commit.offsets.start,
            winner,
        };
        let start = commit.offsets.start;
        if let Ok(index) = known.commits.binary_search_by_key(&start, |known| known.offsets.start) {
            return Err(lost(known.commits[index].attempt));
        }
        let end = match known.commits.last() {
            Some(last) => last.offsets.end,
            None => self
                .read_origin(&commit.partition, &mut known)
                .await?
                .ok_or_else(|| ArchiveError::Format {
                    path: path::origin(&commit.partition).to_string(),
                    reason: "it is missing: a partition begins with its origin".to_owned(),
                })?,
        };
        follows(&commit.partition, end, start)?;
        match store::create_only(&*self.store, &path::commit(&commit.partition, start), &commit).await? {
            Created::Theirs(theirs) => Err(lost(theirs.attempt)),
            Created::Mine => {
                let commit = Arc::new(commit);
                Arc::make_mut(&mut known.commits).push(Arc::clone(&commit));
                Ok(commit)
            }
        }
    }
}

/// Row files by date, and the dead letters' file.
fn in_order(files: Vec<ArchivedFile>) -> (Vec<ArchivedFile>, Option<ArchivedFile>) {
    let (mut rows, dead_letters): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.date.is_some());
    rows.sort_unstable_by_key(|file| file.date);
    (rows, dead_letters.into_iter().next())
}
