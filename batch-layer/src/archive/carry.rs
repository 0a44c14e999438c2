//! An archive to another store, for another life of its topics with the same offsets.

use foldline_event_log::TopicPartition;
use object_store::path::Path;

use super::path::FileName;
use super::rows::damaged;
use super::{Archive, ArchiveError, ArchivedFile, Commit};
use crate::store;

impl Archive {
    /// Copies what `from` holds of `partition` into this archive as what it holds of `to`, commit by commit and file by
    /// file, each checked on its way; goes on where an earlier call was stopped. `progress` is told how many rows were
    /// copied.
    ///
    /// Fails with [`ArchiveError::Lost`] where something else is archived here already.
    pub async fn carry(
        &self,
        from: &Self,
        partition: &TopicPartition,
        to: &TopicPartition,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ArchiveError> {
        let (origin, commits) = from.chain(partition).await?;
        let Some(origin) = origin else { return Ok(()) };
        let begins = self.origin(to, origin).await?;
        if begins != origin {
            return Err(ArchiveError::Chain {
                partition: to.clone(),
                what: "start of its own",
                ends: begins,
                begins: origin,
            });
        }
        let carried = self.commits(to).await?;
        for (index, commit) in commits.iter().enumerate() {
            if let Some(there) = carried.get(index) {
                if there.attempt != commit.attempt {
                    return Err(ArchiveError::Lost {
                        partition: to.clone(),
                        first: there.offsets.start,
                        winner: there.attempt,
                    });
                }
                continue;
            }
            let mut copy = Commit::clone(commit);
            copy.partition = to.clone();
            for file in copy.files.iter_mut().chain(&mut copy.dead_letters) {
                let bytes = from.verified(partition, file).await?;
                let path = renamed(file, partition, to)?;
                store::put_own(&*self.store, &path, bytes).await?;
                file.path = path.to_string();
                progress(file.rows);
            }
            self.publish(copy).await?;
        }
        Ok(())
    }
}

/// The path of `file` for another life of its topic.
fn renamed(file: &ArchivedFile, partition: &TopicPartition, to: &TopicPartition) -> Result<Path, ArchiveError> {
    let name = FileName::parse(&Path::from(file.path.as_str()));
    let name = name.ok_or_else(|| damaged(partition, file, "its name is none of an archive's".to_owned()))?;
    let name = FileName {
        incarnation: to.incarnation,
        ..name
    };
    Ok(match file.date {
        Some(date) => name.rows(&to.topic, date),
        None => name.dead_letters(&to.topic),
    })
}
