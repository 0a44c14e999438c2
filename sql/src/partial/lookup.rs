//! The keys that a point read asks every partial for. Most partials do not hold them: a Bloom filter over the first key
//! column says so after one cache line, where a binary search would miss the cache at each of its steps.
//!
//! The filter is that of Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters" (2007), with
//! blocks of eight words and one bit in each, as Parquet's specification has it. It lives in memory alone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use datafusion::common::hash_utils::{QualityRandomState, create_hashes};
use datafusion::error::DataFusionError;

use crate::FoldError;

/// Partials with fewer keys are searched at once.
const FILTERED_KEYS_MIN: usize = 64;
/// Bytes of the filter for one key: about one false answer in a thousand.
pub(super) const FILTER_BYTES_PER_KEY: usize = 2;
const WORDS: usize = 8;
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// A range of one key column, as wide as needed or wider: both bounds belong to it, each an array of one value.
#[derive(Debug, Clone)]
pub struct KeyRange {
    /// Position in the key.
    pub position: usize,
    /// Smallest value, if it is bounded; NULL is smaller than any.
    pub lower: Option<ArrayRef>,
    /// Largest value, if it is bounded.
    pub upper: Option<ArrayRef>,
}

/// Values of some key columns, to look up in many partials; without any, every key is meant.
#[derive(Debug, Clone, Default)]
pub struct KeyLookup {
    /// Positions in the key, ascending, each with an array of one value.
    pub(super) columns: Vec<(usize, ArrayRef)>,
    /// Bounds of the key column behind `columns`, which are then a prefix of the key.
    pub(super) range: Option<KeyRange>,
    /// Hash of the value of the first key column, if that is among them.
    hash: Option<u64>,
}

impl KeyLookup {
    /// The keys that have the value of each of `columns`: pairs of key position and an array of one value of that key
    /// column's type. Equal is what has equal bytes; NULL equals NULL.
    pub fn new(mut columns: Vec<(usize, ArrayRef)>) -> Result<Self, FoldError> {
        columns.sort_by_key(|(position, _)| *position);
        let hash = match columns.first() {
            Some((0, value)) => hashes(value)?.first().copied(),
            _ => None,
        };
        Ok(Self {
            columns,
            range: None,
            hash,
        })
    }

    /// The same, bounded by the one of `ranges` that keys in order can be searched by: that of the column behind those
    /// that are fixed, which must be a prefix of the key. The others bound nothing.
    pub fn within(mut self, ranges: &[KeyRange]) -> Self {
        if self.is_prefix() {
            self.range = ranges
                .iter()
                .find(|range| range.position == self.columns.len())
                .cloned();
        }
        self
    }

    pub(super) fn is_prefix(&self) -> bool {
        (0..)
            .zip(&self.columns)
            .all(|(index, (position, _))| index == *position)
    }

    /// Whether every key is meant.
    pub fn is_everything(&self) -> bool {
        self.columns.is_empty() && self.range.is_none()
    }

    /// Whether a partial with `filter` may hold such keys.
    pub(super) fn may_be_in(&self, filter: &KeyFilter) -> bool {
        self.hash.is_none_or(|hash| filter.may_hold(hash))
    }
}

/// Which values of the first key column a partial may hold.
#[derive(Debug)]
pub(super) struct KeyFilter {
    blocks: Vec<[u32; WORDS]>,
}

impl KeyFilter {
    /// The filter of `keys`; without blocks, which says yes to everything, where it would not pay.
    pub(super) fn over(keys: Option<&ArrayRef>) -> Result<Self, FoldError> {
        let Some(keys) = keys.filter(|keys| keys.len() >= FILTERED_KEYS_MIN) else {
            return Ok(Self { blocks: Vec::new() });
        };
        let blocks = (keys.len() * FILTER_BYTES_PER_KEY).div_ceil(size_of::<[u32; WORDS]>());
        let mut filter = Self {
            blocks: vec![[0; WORDS]; blocks],
        };
        for hash in hashes(keys)? {
            let block = filter.block_of(hash);
            for (word, bit) in filter.blocks[block].iter_mut().zip(bits(hash)) {
                *word |= bit;
            }
        }
        Ok(filter)
    }

    fn block_of(&self, hash: u64) -> usize {
        // The upper half of the hash, scaled to the number of blocks.
        usize::try_from(((hash >> 32) * self.blocks.len() as u64) >> 32).expect("less than the number of blocks")
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.blocks.is_empty() || {
            let block = &self.blocks[self.block_of(hash)];
            block.iter().zip(bits(hash)).all(|(word, bit)| word & bit != 0)
        }
    }
}

/// One bit for each word of a block.
fn bits(hash: u64) -> [u32; WORDS] {
    let lower = hash as u32;
    SALTS.map(|salt| 1 << (lower.wrapping_mul(salt) >> 27))
}

fn hashes(values: &ArrayRef) -> Result<Vec<u64>, FoldError> {
    let mut hashes = vec![0; values.len()];
    let state = QualityRandomState::with_seed(0);
    let hashed = create_hashes([Arc::clone(values)], &state, &mut hashes).map(|_| ());
    hashed.map_err(|error: DataFusionError| FoldError::Columns { source: error.into() })?;
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn the_filter_holds_every_key_and_hardly_any_other() {
        let array = |values: std::ops::Range<i64>| Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
        let filter = KeyFilter::over(Some(&array(0..20_000))).expect("integers hash");
        let held = |values| {
            let hashes = hashes(&array(values)).expect("integers hash");
            hashes.into_iter().filter(|hash| filter.may_hold(*hash)).count()
        };
        assert_eq!(held(0..20_000), 20_000);
        let others = held(20_000..120_000);
        assert!(others < 1_000, "{others} of 100000 others seem to be held");
    }
}
