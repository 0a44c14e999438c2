//! The proof that every offset is archived exactly once: as a row, a dead letter, or in a hole that a commit names.

use std::ops::Range;

use foldline_event_log::{Offset, TopicPartition};
use serde::{Deserialize, Serialize};

use super::{Archive, ArchiveError, ArchivedFile, Commit};

/// Findings kept per partition; damage beyond is counted, not listed.
const FINDINGS_MAX: usize = 100;

/// What an audit of partitions found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditReport {
    /// By partition, in the order asked for.
    pub partitions: Vec<PartitionAudit>,
}

/// What an audit of one partition found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionAudit {
    /// Which.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// From the origin to the end of the last commit that could be read.
    pub offsets: Range<Offset>,
    /// Commits.
    pub commits: u64,
    /// Files, dead letters' included.
    pub files: u64,
    /// Rows in files.
    pub rows: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Offsets in holes.
    pub holes: u64,
    /// Offsets in gaps that were acknowledged.
    #[serde(default)]
    pub gaps: u64,
    /// What is wrong, the first hundred, in offset order. Empty: every offset is there exactly once.
    pub findings: Vec<AuditFinding>,
    /// How much is wrong in all.
    pub findings_in_all: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFinding {
    /// What, in words, with names and numbers.
    pub what: String,
    /// The offsets concerned.
    pub offsets: Option<Range<Offset>>,
    /// The file or record concerned.
    pub path: Option<String>,
}

impl AuditReport {
    /// Whether nothing is wrong anywhere.
    pub fn complete(&self) -> bool {
        self.partitions.iter().all(|partition| partition.findings_in_all == 0)
    }
}

impl PartitionAudit {
    fn find(&mut self, what: String, offsets: Option<Range<Offset>>, path: Option<&str>) {
        self.findings_in_all += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(AuditFinding {
                what,
                offsets,
                path: path.map(str::to_owned),
            });
        }
    }
}

impl Archive {
    /// Reads every file of `partitions`, checks it, and accounts for every offset from the origin to the end of the
    /// last commit. Trusts nothing that was read before. Fails only when the store does; whatever is wrong with the
    /// archive is in the report.
    pub async fn audit(&self, partitions: &[TopicPartition]) -> Result<AuditReport, ArchiveError> {
        let mut report = AuditReport::default();
        for partition in partitions {
            // Its own eyes: no cache of commits.
            let archive = Self::new(self.store.clone());
            report.partitions.push(archive.audit_partition(partition).await?);
        }
        Ok(report)
    }

    async fn audit_partition(&self, partition: &TopicPartition) -> Result<PartitionAudit, ArchiveError> {
        let mut audit = PartitionAudit {
            partition: partition.clone(),
            offsets: Offset(0)..Offset(0),
            commits: 0,
            files: 0,
            rows: 0,
            dead_letters: 0,
            holes: 0,
            gaps: 0,
            findings: Vec::new(),
            findings_in_all: 0,
        };
        let (origin, commits) = match self.chain(partition).await {
            Ok(chain) => chain,
            Err(error @ ArchiveError::Chain { ends, begins, .. }) => {
                let between = ends.min(begins)..ends.max(begins);
                audit.find(error.to_string(), Some(between), None);
                return Ok(audit);
            }
            Err(ArchiveError::Format { path, reason }) => {
                audit.find(reason, None, Some(&path));
                return Ok(audit);
            }
            Err(error) => return Err(error),
        };
        let start = origin.unwrap_or(Offset(0));
        audit.offsets = start..commits.last().map_or(start, |last| last.offsets.end);
        for commit in commits.iter() {
            self.audit_commit(commit, &mut audit).await?;
        }
        Ok(audit)
    }

    async fn audit_commit(&self, commit: &Commit, audit: &mut PartitionAudit) -> Result<(), ArchiveError> {
        audit.commits += 1;
        let mut accounted: Vec<Range<u64>> = Vec::new();
        for file in commit.files.iter().chain(&commit.dead_letters) {
            audit.files += 1;
            let offsets = match self.offsets_in(&commit.partition, file).await {
                Ok(offsets) => offsets,
                Err(ArchiveError::Damaged { path, reason, .. }) => {
                    audit.find(reason, Some(span(file)), Some(&path));
                    // What the file should hold is unknown offset by offset: only the damage is reported, once.
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let ends = (offsets.first().copied(), offsets.last().copied());
            let expected = (file.first_offset.0.cast_signed(), file.last_offset.0.cast_signed());
            if ends != (Some(expected.0), Some(expected.1)) {
                let what = format!("its offsets go from {:?} to {:?}", ends.0, ends.1);
                audit.find(what, Some(span(file)), Some(&file.path));
            }
            match file.date {
                Some(_) => audit.rows += offsets.len() as u64,
                None => audit.dead_letters += offsets.len() as u64,
            }
            accounted.extend(offsets.into_iter().map(|offset| {
                let offset = offset.cast_unsigned();
                offset..offset + 1
            }));
        }
        for hole in &commit.holes {
            let offsets = hole.end.0.saturating_sub(hole.start.0);
            match commit.gap {
                Some(_) => audit.gaps += offsets,
                None => audit.holes += offsets,
            }
            accounted.push(hole.start.0..hole.end.0);
        }
        account(commit, accounted, audit);
        Ok(())
    }
}

/// Whether `accounted` tiles the commit's range.
fn account(commit: &Commit, mut accounted: Vec<Range<u64>>, audit: &mut PartitionAudit) {
    let record = super::path::commit(&commit.partition, commit.offsets.start);
    accounted.sort_unstable_by_key(|range| (range.start, range.end));
    accounted.push(commit.offsets.end.0..commit.offsets.end.0);
    let mut next = commit.offsets.start.0;
    for range in accounted {
        if range.start > next {
            let missing = Offset(next)..Offset(range.start);
            let what = format!("offsets {}..{} are missing", missing.start, missing.end);
            audit.find(what, Some(missing), Some(record.as_ref()));
        }
        if range.start < next {
            let twice = Offset(range.start)..Offset(next.min(range.end).max(range.start + 1));
            let what = format!("offsets {}..{} are there twice", twice.start, twice.end);
            audit.find(what, Some(twice), Some(record.as_ref()));
        }
        next = next.max(range.end);
    }
}

fn span(file: &ArchivedFile) -> Range<Offset> {
    file.first_offset..Offset(file.last_offset.0 + 1)
}
