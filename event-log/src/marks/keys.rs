//! The keys kept within a duplicate horizon: the newest in memory, the others in sorted runs on disk.
//!
//! Keys are hashes, spread evenly. Once so many are in memory that [`KeysOnDisk`] says they are too many, they become a
//! run: an unnamed file in which they stand sorted, and in memory a filter that says of most other keys that they are not
//! there (a split block Bloom filter: Putze, Sanders and Singler 2007, as the Parquet format has it) and the first hash of
//! each page. Of [`RUNS_OF_A_SIZE`] runs of about one size one is made, up to [`RUN_KEYS_MAX`] keys, so that keys are
//! written a few times and looked for in few runs. A run goes with its youngest key. Nothing here outlives the process: the
//! archive has the keys.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// A hashed key.
pub(super) type Key = u128;

/// Where keys lie that are too many for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOnDisk {
    /// Folder of files that have no name, and so go with the process.
    pub folder: PathBuf,
    /// Keys of one partition that stay in memory, 28 to 57 bytes each; of the others 2 bytes are there.
    pub keys_in_memory: usize,
}

/// So few keys in memory are not looked through for those that left the horizon.
const KEYS_MIN: usize = 1_024;
/// Of so many runs of about one size one larger run is made.
const RUNS_OF_A_SIZE: usize = 4;
/// Runs that hold as many keys stay as they are: making one of two such takes too long for who waits.
const RUN_KEYS_MAX: u64 = 1 << 20;
/// Bytes of a key and its time in a file.
const ENTRY: usize = 24;
/// Keys of a page, which is read at once.
const PAGE_KEYS: usize = 170;
/// Keys per block of a filter, of 256 bits: one of 300 strangers is taken for a key.
const BLOCK_KEYS: u64 = 21;

/// Keys, each with the record time at which it was kept last.
#[derive(Debug)]
pub(super) struct Keys {
    within_ms: i64,
    newest: HashMap<[u64; 2], i64, BuildHasherDefault<Hashed>>,
    /// Those that left the horizon are thrown out of memory beyond so many keys, and when everything that was there
    /// last time has left it.
    full: usize,
    thrown_out: i64,
    on_disk: Option<KeysOnDisk>,
    /// In the order in which their keys were kept.
    runs: Vec<Run>,
}

impl Keys {
    pub(super) fn new(within_ms: i64, on_disk: Option<KeysOnDisk>) -> Self {
        Self {
            within_ms,
            newest: HashMap::default(),
            full: on_disk.as_ref().map_or(KEYS_MIN, |on_disk| on_disk.keys_in_memory),
            thrown_out: i64::MIN,
            on_disk,
            runs: Vec::new(),
        }
    }

    /// Whether `key` was kept within the horizon before record time `now`; if not, it is kept now. `before`: what
    /// [`Keys::find`] said of it.
    pub(super) fn repeats(&mut self, now: i64, key: Key, before: Option<i64>) -> bool {
        // A horizon of nothing holds nothing.
        if self.within_ms <= 0 {
            return false;
        }
        let within = |kept: i64| now.saturating_sub(kept) < self.within_ms;
        if before.is_some_and(within) {
            return true;
        }
        let kept = self.newest.entry(parts(key)).or_insert(i64::MIN);
        if *kept != i64::MIN && within(*kept) {
            return true;
        }
        *kept = now;
        false
    }

    /// When each of `keys` was kept last, of those on disk; empty if none are there.
    pub(super) fn find(&mut self, keys: &[Key]) -> io::Result<Vec<Option<i64>>> {
        if self.runs.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = vec![None; keys.len()];
        let mut page = Vec::new();
        for run in &self.runs {
            for (key, found) in keys.iter().zip(&mut found) {
                if run.filter.may_hold(*key) {
                    *found = (*found).max(run.find(*key, &mut page)?);
                }
            }
        }
        Ok(found)
    }

    /// Throws out what is not within the horizon at record time `now`, and puts on disk what is too much for memory. What
    /// fails changes nothing.
    pub(super) fn make_room(&mut self, now: i64) -> io::Result<()> {
        let within_ms = self.within_ms;
        let within = |kept: i64| now.saturating_sub(kept) < within_ms;
        self.runs.retain(|run| within(run.youngest));
        if self.newest.len() < self.full && within(self.thrown_out) {
            return Ok(());
        }
        self.newest.retain(|_, kept| within(*kept));
        self.thrown_out = now;
        if let Some(on_disk) = &self.on_disk {
            // Not for a few: those that leave by themselves do so without a file.
            if self.newest.len() > on_disk.keys_in_memory / 2 {
                self.runs.push(Run::of(&self.newest, on_disk)?);
                self.newest.clear();
                self.newest.shrink_to(self.full);
                self.unite(within)?;
            }
        } else {
            self.full = KEYS_MIN.max(2 * self.newest.len());
            self.newest.shrink_to(2 * self.newest.len());
        }
        Ok(())
    }

    /// Makes one run of the last ones while they are of one size.
    fn unite(&mut self, within: impl Fn(i64) -> bool) -> io::Result<()> {
        let Some(on_disk) = &self.on_disk else { return Ok(()) };
        while let Some(first) = self.runs.len().checked_sub(RUNS_OF_A_SIZE) {
            let (last, like) = (self.runs[self.runs.len() - 1].keys, &self.runs[first]);
            if like.keys > last * RUNS_OF_A_SIZE as u64 / 2 || like.keys >= RUN_KEYS_MAX {
                break;
            }
            let united = Run::united(&self.runs[first..], on_disk, &within)?;
            self.runs.truncate(first);
            self.runs.extend(united);
        }
        Ok(())
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        // A hash table keeps a byte beside each entry and at most 7/8 of its places filled.
        let newest = self.newest.capacity() * 8 / 7 * (ENTRY + 1);
        let runs = self
            .runs
            .iter()
            .map(|run| run.filter.blocks.len() * 32 + run.pages.len() * 16);
        newest + runs.sum::<usize>()
    }
}

fn parts(key: Key) -> [u64; 2] {
    [(key >> 64) as u64, key as u64]
}

/// Sorted keys in a file.
#[derive(Debug)]
struct Run {
    file: File,
    keys: u64,
    /// The first key of each page.
    pages: Vec<Key>,
    filter: Filter,
    /// The largest record time.
    youngest: i64,
}

impl Run {
    fn of<H>(keys: &HashMap<[u64; 2], i64, H>, on_disk: &KeysOnDisk) -> io::Result<Self> {
        let joined = |(parts, kept): (&[u64; 2], &i64)| (Key::from(parts[0]) << 64 | Key::from(parts[1]), *kept);
        let mut sorted: Vec<(Key, i64)> = keys.iter().map(joined).collect();
        sorted.sort_unstable();
        let mut writing = Writing::new(sorted.len() as u64, on_disk)?;
        for (key, kept) in sorted {
            writing.push(key, kept)?;
        }
        writing.finish()
    }

    /// The keys of `runs` that are still `within` the horizon, each with its latest time; none if none is.
    fn united(runs: &[Self], on_disk: &KeysOnDisk, within: impl Fn(i64) -> bool) -> io::Result<Option<Self>> {
        let mut entries = runs.iter().map(Entries::of).collect::<io::Result<Vec<_>>>()?;
        let mut writing = Writing::new(runs.iter().map(|run| run.keys).sum(), on_disk)?;
        while let Some(key) = entries
            .iter()
            .filter_map(|entries| entries.next.map(|(key, _)| key))
            .min()
        {
            let mut latest = i64::MIN;
            for entries in &mut entries {
                if let Some((_, kept)) = entries.next.filter(|(next, _)| *next == key) {
                    latest = latest.max(kept);
                    entries.advance()?;
                }
            }
            if within(latest) {
                writing.push(key, latest)?;
            }
        }
        match writing.keys {
            0 => Ok(None),
            _ => writing.finish().map(Some),
        }
    }

    /// When `key` was kept, if it is here. `page` is room for one.
    fn find(&self, key: Key, page: &mut Vec<u8>) -> io::Result<Option<i64>> {
        let Some(at) = self.pages.partition_point(|first| *first <= key).checked_sub(1) else {
            return Ok(None);
        };
        let first = (at * PAGE_KEYS) as u64;
        let count = (self.keys - first).min(PAGE_KEYS as u64) as usize;
        page.resize(count * ENTRY, 0);
        read_at(&self.file, page, first * ENTRY as u64)?;
        let (entries, _) = page.as_chunks::<ENTRY>();
        let at = entries.binary_search_by_key(&key, |bytes| entry(bytes).0);
        Ok(at.ok().map(|at| entry(&entries[at]).1))
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

fn entry(bytes: &[u8]) -> (Key, i64) {
    let (key, kept) = bytes[..ENTRY].split_at(16);
    let key = Key::from_be_bytes(key.try_into().expect("16 bytes"));
    (key, i64::from_be_bytes(kept.try_into().expect("8 bytes")))
}

/// A run under way: its keys in order.
struct Writing {
    file: BufWriter<File>,
    keys: u64,
    pages: Vec<Key>,
    filter: Filter,
    youngest: i64,
}

impl Writing {
    fn new(keys: u64, on_disk: &KeysOnDisk) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(64 << 10, tempfile::tempfile_in(&on_disk.folder)?),
            keys: 0,
            pages: Vec::with_capacity(keys as usize / PAGE_KEYS + 1),
            filter: Filter::for_keys(keys),
            youngest: i64::MIN,
        })
    }

    fn push(&mut self, key: Key, kept: i64) -> io::Result<()> {
        if self.keys.is_multiple_of(PAGE_KEYS as u64) {
            self.pages.push(key);
        }
        self.file.write_all(&key.to_be_bytes())?;
        self.file.write_all(&kept.to_be_bytes())?;
        self.filter.take(key);
        self.youngest = self.youngest.max(kept);
        self.keys += 1;
        Ok(())
    }

    fn finish(self) -> io::Result<Run> {
        Ok(Run {
            file: self.file.into_inner().map_err(io::IntoInnerError::into_error)?,
            keys: self.keys,
            pages: self.pages,
            filter: self.filter,
            youngest: self.youngest,
        })
    }
}

/// The keys of a run, one after the other.
struct Entries {
    file: BufReader<File>,
    left: u64,
    next: Option<(Key, i64)>,
}

impl Entries {
    fn of(run: &Run) -> io::Result<Self> {
        let mut file = run.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let mut entries = Self {
            file: BufReader::with_capacity(64 << 10, file),
            left: run.keys,
            next: None,
        };
        entries.advance()?;
        Ok(entries)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.next = None;
        if self.left > 0 {
            let mut bytes = [0; ENTRY];
            self.file.read_exact(&mut bytes)?;
            self.left -= 1;
            self.next = Some(entry(&bytes));
        }
        Ok(())
    }
}

/// A split block Bloom filter: of each key one bit in each of the eight words of one block.
#[derive(Debug)]
struct Filter {
    blocks: Vec<[u32; 8]>,
}

impl Filter {
    fn for_keys(keys: u64) -> Self {
        Self {
            blocks: vec![[0; 8]; keys.div_ceil(BLOCK_KEYS).max(1) as usize],
        }
    }

    /// Which block, and which bit of each of its words.
    fn place(&self, key: Key) -> (usize, [u32; 8]) {
        // Odd numbers of the Parquet format.
        const SALT: [u32; 8] = [
            0x47b6_137b,
            0x4497_4d91,
            0x8824_ad5b,
            0xa2b7_289d,
            0x7054_95c7,
            0x2df1_424b,
            0x9efc_4947,
            0x5c6b_fb31,
        ];
        let [high, low] = parts(key);
        let block = (u128::from(high) * self.blocks.len() as u128) >> 64;
        (
            block as usize,
            SALT.map(|salt| 1 << ((low as u32).wrapping_mul(salt) >> 27)),
        )
    }

    fn take(&mut self, key: Key) {
        let (block, bits) = self.place(key);
        for (word, bit) in self.blocks[block].iter_mut().zip(bits) {
            *word |= bit;
        }
    }

    fn may_hold(&self, key: Key) -> bool {
        let (block, bits) = self.place(key);
        self.blocks[block].iter().zip(bits).all(|(word, bit)| word & bit != 0)
    }
}

/// The hash of what is a hash already.
#[derive(Debug, Default, Clone, Copy)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut part = [0; 8];
            part[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(part);
        }
    }

    fn write_u64(&mut self, part: u64) {
        self.0 ^= part;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The same answers as of a map that forgets nothing.
    fn agrees(keys_in_memory: Option<usize>, rows: usize, different: u128, within_ms: i64) -> Keys {
        let folder = tempfile::tempdir().unwrap();
        let on_disk = keys_in_memory.map(|keys_in_memory| KeysOnDisk {
            folder: folder.path().to_owned(),
            keys_in_memory,
        });
        let mut keys = Keys::new(within_ms, on_disk);
        let mut kept: HashMap<Key, i64> = HashMap::new();
        let (mut random, mut now) = (StdRng::seed_from_u64(7), 0);
        let mut duplicates = 0;
        for _ in 0..rows / 50 {
            let batch: Vec<Key> = (0..50)
                .map(|_| {
                    random
                        .random_range(0..different)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                })
                .collect();
            keys.make_room(now).unwrap();
            let before = keys.find(&batch).unwrap();
            for (row, key) in batch.iter().enumerate() {
                now += random.random_range(0..3);
                let repeats = kept.get(key).is_some_and(|kept| now - kept < within_ms);
                if !repeats {
                    kept.insert(*key, now);
                }
                duplicates += usize::from(repeats);
                assert_eq!(keys.repeats(now, *key, before.get(row).copied().flatten()), repeats);
            }
        }
        assert!(duplicates > rows / 100 && duplicates < rows, "{duplicates}");
        keys
    }

    #[test]
    fn keys_on_disk_are_as_good_as_those_in_memory() {
        for within_ms in [1, 500, 20_000, i64::MAX] {
            let different = if within_ms == 1 { 3 } else { 30_000 };
            let keys = agrees(None, 60_000, different, within_ms);
            assert!(keys.runs.is_empty());
            agrees(Some(16), 60_000, different, within_ms);
            agrees(Some(1_000), 60_000, different, within_ms);
        }
    }

    #[test]
    fn runs_are_few_and_memory_is_small() {
        let keys = agrees(Some(1_000), 400_000, 200_000, i64::MAX);
        let on_disk: u64 = keys.runs.iter().map(|run| run.keys).sum();
        assert!(on_disk > 150_000, "{on_disk}");
        assert!(keys.runs.len() < 5 * RUNS_OF_A_SIZE, "{} runs", keys.runs.len());
        assert!(keys.bytes() < 3 * on_disk as usize + 100_000, "{} bytes", keys.bytes());
        let strangers = (1..100_000_u128).map(|one| one.wrapping_mul(0xda94_2042_e4dd_58b5_2127_599b_f432_5c37));
        let largest = keys.runs.iter().max_by_key(|run| run.keys).unwrap();
        let mistaken = strangers.filter(|stranger| largest.filter.may_hold(*stranger)).count();
        assert!(mistaken < 1_000, "{mistaken}");
    }

    #[test]
    fn a_burst_does_not_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let on_disk = KeysOnDisk {
            folder: folder.path().to_owned(),
            keys_in_memory: 1_000,
        };
        let mut keys = Keys::new(i64::MAX, Some(on_disk));
        for key in 0..100_000_u128 {
            keys.repeats(0, key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), None);
        }
        keys.make_room(0).unwrap();
        assert!(keys.bytes() < 300_000, "{} bytes", keys.bytes());
    }

    #[test]
    fn what_left_the_horizon_leaves_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let on_disk = KeysOnDisk {
            folder: folder.path().to_owned(),
            keys_in_memory: 10,
        };
        let mut keys = Keys::new(100, Some(on_disk));
        for now in 0..1_000 {
            keys.make_room(now).unwrap();
            assert!(!keys.repeats(now, (now as u128) << 64, None));
            let held: u64 = keys.runs.iter().map(|run| run.keys).sum();
            assert!(held < 250, "{held} keys at {now}");
        }
        keys.make_room(2_000).unwrap();
        assert!(keys.runs.is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there_loses_no_key() {
        let on_disk = KeysOnDisk {
            folder: "/there/is/no/such/folder".into(),
            keys_in_memory: 2,
        };
        let mut keys = Keys::new(100, Some(on_disk));
        for key in 0..2 {
            keys.make_room(0).unwrap();
            assert!(!keys.repeats(0, key, None));
        }
        assert!(keys.make_room(0).is_err());
        assert!(keys.repeats(0, 1, None));
    }
}
