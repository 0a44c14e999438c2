//! What each producer appended last.

use std::collections::HashMap;

use fjall::OwnedWriteBatch;

use super::store::{Store, failed};
use crate::{LogError, ProducerSequence};

/// Producers with this prefix are forgotten after [`FORGET_AFTER_MS`]: each stands for one request.
const FORGOTTEN_PREFIX: &str = "request/";
/// How long a request may be repeated.
const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;
/// Forgotten at once, at most.
const FORGET_AT_ONCE: usize = 10_000;
/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 4_096;

const BY_NAME: &[u8] = b"by-name/";
const BY_TIME: &[u8] = b"by-time/";

/// The last sequence stored for `producer`.
pub(super) fn last_sequence(store: &Store, producer: &str, now_ms: i64) -> Result<Option<u64>, LogError> {
    let Some((sequence, time_ms)) = stored(store, producer.as_bytes())? else {
        return Ok(None);
    };
    let forgotten = producer.starts_with(FORGOTTEN_PREFIX) && time_ms <= now_ms - FORGET_AFTER_MS;
    Ok((!forgotten).then_some(sequence))
}

/// Sequences of one commit on top of the stored ones.
#[derive(Debug, Default)]
pub(super) struct Sequences(HashMap<String, u64>);

impl Sequences {
    /// Whether `sequence` is new; remembers it if so. A request appends once: its sequence is a fingerprint, not a
    /// number, so any other one is another body under its name and no later append.
    pub(super) fn take(&mut self, store: &Store, sequence: &ProducerSequence, now_ms: i64) -> Result<bool, LogError> {
        let last = match self.0.get(&sequence.producer) {
            Some(last) => Some(*last),
            None => last_sequence(store, &sequence.producer, now_ms)?,
        };
        let request = sequence.producer.starts_with(FORGOTTEN_PREFIX);
        let new = last.is_none_or(|last| !request && sequence.sequence > last);
        if new {
            self.0.insert(sequence.producer.clone(), sequence.sequence);
        }
        Ok(new)
    }

    /// Writes them.
    pub(super) fn write(self, store: &Store, batch: &mut OwnedWriteBatch, now_ms: i64) {
        for (producer, sequence) in self.0 {
            let mut value = sequence.to_be_bytes().to_vec();
            value.extend_from_slice(&now_ms.to_be_bytes());
            batch.insert(&store.producers, joined(BY_NAME, producer.as_bytes()), value);
            if producer.starts_with(FORGOTTEN_PREFIX) {
                batch.insert(&store.producers, time_key(now_ms, producer.as_bytes()), "");
            }
        }
    }
}

/// How far requests are forgotten: behind the last key by time that was removed. Looking for more begins here: from the
/// front on, every commit would walk over what was removed and is not compacted yet. New keys always lie behind it.
#[derive(Debug)]
pub(super) struct Forgotten(Vec<u8>);

impl Default for Forgotten {
    fn default() -> Self {
        Self(BY_TIME.to_vec())
    }
}

/// Removes what may be forgotten.
pub(super) fn forget(
    store: &Store,
    batch: &mut OwnedWriteBatch,
    now_ms: i64,
    forgotten: &mut Forgotten,
) -> Result<(), LogError> {
    let until = time_key(now_ms - FORGET_AFTER_MS, b"");
    let range = forgotten.0.as_slice()..until.as_slice();
    for entry in store.producers.range(range).take(FORGET_AT_ONCE) {
        let key = entry
            .key()
            .map_err(|cause| failed("looking for old producers", cause))?;
        let time = &key[BY_TIME.len()..BY_TIME.len() + 8];
        let producer = &key[BY_TIME.len() + 8..];
        // The producer may have appended again since: then a younger entry by time will remove it.
        if let Some((_, stored_ms)) = stored(store, producer)?
            && stored_ms.to_be_bytes() == time
        {
            batch.remove(&store.producers, joined(BY_NAME, producer));
        }
        // The least key behind this one.
        forgotten.0 = joined(&key, &[0]);
        batch.remove(&store.producers, key);
    }
    Ok(())
}

fn stored(store: &Store, producer: &[u8]) -> Result<Option<(u64, i64)>, LogError> {
    let key = joined(BY_NAME, producer);
    let value = store
        .producers
        .get(&key)
        .map_err(|cause| failed("reading the last sequence of a producer", cause))?;
    let Some(value) = value else { return Ok(None) };
    let Ok(words) = <[u8; 16]>::try_from(&value[..]) else {
        return Err(LogError::Damaged {
            at: format!("producer \"{}\"", String::from_utf8_lossy(producer)),
            reason: format!("{} bytes where 16 are kept", value.len()),
        });
    };
    let both = u128::from_be_bytes(words);
    Ok(Some(((both >> 64) as u64, (both as u64).cast_signed())))
}

fn time_key(time_ms: i64, producer: &[u8]) -> Vec<u8> {
    joined(&joined(BY_TIME, &time_ms.max(0).to_be_bytes()), producer)
}

fn joined(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_goes_on_where_it_was_and_misses_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("opened");
        let mut forgotten = Forgotten::default();
        let forget = |now_ms: i64, forgotten: &mut Forgotten| {
            let mut batch = store.batch();
            forget(&store, &mut batch, now_ms, forgotten).expect("looked");
            batch.commit().expect("removed");
        };
        for time_ms in 0..40 {
            let mut batch = store.batch();
            for request in ["a", "b"] {
                let producer = format!("{FORGOTTEN_PREFIX}{request}/{time_ms}");
                Sequences(HashMap::from([(producer, 7)])).write(&store, &mut batch, time_ms);
            }
            batch.commit().expect("written");
            let before = forgotten.0.clone();
            forget(time_ms + FORGET_AFTER_MS - 10, &mut forgotten);
            assert_eq!(
                forgotten.0 > before,
                time_ms > 10,
                "behind what was removed at {time_ms}"
            );
        }
        assert_eq!(store.producers.prefix(BY_TIME).count(), 2 * 11);
        assert_eq!(store.producers.prefix(BY_NAME).count(), 2 * 11);
    }
}
