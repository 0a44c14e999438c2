//! Checkpoints: a partition's segments on disk, so that a restart replays seconds and not everything since the cut.
//!
//! A folder per partition holds packs and one manifest. A pack holds the encoded parts that were new at one checkpoint,
//! one after the other, and is never changed. The manifest names every segment and where its parts lie; it is replaced
//! in one step (temporary name, fsync, rename, fsync of the folder) after its packs are synced, so a crash leaves the
//! old one or the new one. Packs that are mostly dead, or small, are written anew, so the folder holds a short list of
//! packs and at most about twice what the partials weigh; what no manifest names is removed.
//!
//! A checkpoint is never precious: whatever does not fit (format, view set, declaration, checksum, cut) is logged and
//! replaced by a replay from the cut. Checksums lie over every part and over the manifest, so damage gives no numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use foldline_event_log::{MarkState, Offset, Tick, TopicPartition};
use foldline_sql::{FoldError, Partial};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::accumulate::{Accumulator, Folds, Part, Piece, Start};

/// Format of manifest and packs.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const MANIFEST_NEW: &str = "manifest.json.new";

/// What writing a checkpoint can run into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error("cannot write checkpoint {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot encode a partial for checkpoint {path}")]
    Encode { path: PathBuf, source: Box<FoldError> },
    #[error("cannot write checkpoint {path} as JSON")]
    Json { path: PathBuf, source: serde_json::Error },
}

/// Why a checkpoint is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("{path} cannot be read")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("part of view \"{view}\" in {path} cannot be decoded")]
    Decode {
        path: PathBuf,
        view: String,
        source: Box<FoldError>,
    },
    #[error("{path} is of {what} {found}, not {expected}")]
    Other {
        path: PathBuf,
        what: &'static str,
        found: String,
        expected: String,
    },
}

/// Where a part is stored, shared by all clones of the part.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredPlace(Arc<Mutex<Option<Place>>>);

impl StoredPlace {
    fn at(place: Place) -> Self {
        Self(Arc::new(Mutex::new(Some(place))))
    }

    fn get(&self) -> Option<Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, place: Place) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }
}

/// A part's bytes within a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    pack: String,
    /// Bytes of the whole pack.
    pack_bytes: u64,
    start: u64,
    bytes: u64,
    crc32: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<'a> {
    version: u32,
    /// Of the text of `manifest`.
    crc32: u32,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    partition: TopicPartition,
    judged_by: String,
    cut_every_ms: i64,
    /// Ids of the views that every segment holds, or says why not.
    views: BTreeSet<String>,
    start: Offset,
    start_marks: MarkState,
    newest: Option<Tick>,
    segments: Vec<StoredSegment>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSegment {
    offsets: Range<Offset>,
    ticks: (Tick, Tick),
    marks: MarkState,
    views: BTreeMap<String, Vec<Place>>,
    /// Views that are left out, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failed: BTreeMap<String, String>,
}

/// The checkpoints of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    partition: TopicPartition,
    judged_by: String,
    cut_every_ms: i64,
}

/// A partition's state at one moment, to be written while folding goes on.
#[derive(Debug)]
pub(crate) struct Image {
    start: Start,
    newest: Option<Tick>,
    views: BTreeSet<String>,
    pieces: Vec<Piece>,
}

impl Image {
    /// Shares everything with `state`.
    pub(crate) fn of(state: &Accumulator) -> Self {
        Self {
            start: state.start(),
            newest: state.newest(),
            views: state.folds().iter().map(|(view, _)| view.id.clone()).collect(),
            pieces: state.pieces().to_vec(),
        }
    }
}

impl Checkpoints {
    /// Those of `partition` under `folder`.
    pub(crate) fn new(folder: &Path, partition: &TopicPartition, judged_by: String, cut_every_ms: i64) -> Self {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let topic = partition.topic.replace(|letter| !plain(letter), "_");
        let name = format!("{topic}-{}-{}", partition.incarnation, partition.partition);
        Self {
            folder: folder.join(name),
            partition: partition.clone(),
            judged_by,
            cut_every_ms,
        }
    }

    /// Writes `image` as the newest checkpoint. Blocks.
    pub(crate) fn save(&self, image: &Image) -> Result<(), SaveError> {
        fs::create_dir_all(&self.folder).map_err(|source| self.io(&self.folder, source))?;
        self.save_parts(image)?;
        let (manifest, packs) = self.manifest(image);
        self.replace_manifest(&manifest)?;
        self.remove_all_but(&packs)
    }

    /// Writes the parts that no pack worth keeping holds into a new pack.
    fn save_parts(&self, image: &Image) -> Result<(), SaveError> {
        let parts = || image.pieces.iter().flat_map(|piece| piece.views.values().flatten());
        let keep = packs_to_keep(parts());
        let lies_well = |part: &&Part| part.stored.get().is_some_and(|place| keep.contains(&place.pack));
        let new: Vec<&Part> = parts().filter(|part| !lies_well(part)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let pack = format!("{}.pack", Uuid::new_v4());
        let path = self.folder.join(&pack);
        let mut file = BufWriter::new(File::create_new(&path).map_err(|source| self.io(&path, source))?);
        let mut places = Vec::with_capacity(new.len());
        let mut start = 0;
        for part in &new {
            let encoded = part.partial.encode().map_err(|source| SaveError::Encode {
                path: path.clone(),
                source: Box::new(source),
            })?;
            file.write_all(&encoded).map_err(|source| self.io(&path, source))?;
            places.push((start, encoded.len() as u64, crc32fast::hash(&encoded)));
            start += encoded.len() as u64;
        }
        let file = file
            .into_inner()
            .map_err(|failed| self.io(&path, failed.into_error()))?;
        file.sync_all().map_err(|source| self.io(&path, source))?;
        self.sync_folder()?;
        for (part, (place_start, bytes, crc32)) in new.into_iter().zip(places) {
            part.stored.set(Place {
                pack: pack.clone(),
                pack_bytes: start,
                start: place_start,
                bytes,
                crc32,
            });
        }
        Ok(())
    }

    fn manifest(&self, image: &Image) -> (Manifest, BTreeSet<String>) {
        let mut packs = BTreeSet::new();
        let mut segments = Vec::with_capacity(image.pieces.len());
        for piece in &image.pieces {
            let mut views = BTreeMap::new();
            for (view, parts) in &piece.views {
                let places = parts
                    .iter()
                    .map(|part| part.stored.get().expect("every part was just stored"));
                let places: Vec<Place> = places.collect();
                packs.extend(places.iter().map(|place| place.pack.clone()));
                views.insert(view.clone(), places);
            }
            segments.push(StoredSegment {
                offsets: piece.offsets.clone(),
                ticks: piece.ticks,
                marks: piece.marks,
                views,
                failed: piece.failed.clone(),
            });
        }
        let manifest = Manifest {
            partition: self.partition.clone(),
            judged_by: self.judged_by.clone(),
            cut_every_ms: self.cut_every_ms,
            views: image.views.clone(),
            start: image.start.next,
            start_marks: image.start.marks,
            newest: image.newest,
            segments,
        };
        (manifest, packs)
    }

    fn replace_manifest(&self, manifest: &Manifest) -> Result<(), SaveError> {
        let path = self.folder.join(MANIFEST_NEW);
        let json = |source| SaveError::Json {
            path: path.clone(),
            source,
        };
        let manifest = serde_json::value::to_raw_value(manifest).map_err(json)?;
        let envelope = Envelope {
            version: VERSION,
            crc32: crc32fast::hash(manifest.get().as_bytes()),
            manifest: &manifest,
        };
        let text = serde_json::to_vec(&envelope).map_err(json)?;
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&path, self.folder.join(MANIFEST))
        };
        write().map_err(|source| self.io(&path, source))?;
        self.sync_folder()
    }

    fn remove_all_but(&self, packs: &BTreeSet<String>) -> Result<(), SaveError> {
        let remove = || {
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".pack") && !packs.contains(&name) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|source| self.io(&self.folder, source))
    }

    fn sync_folder(&self) -> Result<(), SaveError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| self.io(&self.folder, source))
    }

    fn io(&self, path: &Path, source: io::Error) -> SaveError {
        SaveError::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    /// The newest checkpoint, whole and checked, if there is one. Blocks.
    pub(crate) fn load(&self, folds: &Folds) -> Result<Option<Accumulator>, Misfit> {
        let path = self.folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Misfit::Io { path, source }),
        };
        let manifest = self.parse(&path, &text)?;
        self.check(&path, &manifest, folds)?;
        let mut packs = Packs {
            folder: &self.folder,
            read: HashMap::new(),
        };
        let mut pieces = Vec::with_capacity(manifest.segments.len());
        for segment in &manifest.segments {
            let mut views = BTreeMap::new();
            for (view, fold) in folds.iter().filter(|(view, _)| !segment.failed.contains_key(&view.id)) {
                let places = segment.views.get(&view.id).ok_or_else(|| Misfit::Damaged {
                    path: path.clone(),
                    reason: format!(
                        "segment {}..{} lacks view \"{}\"",
                        segment.offsets.start, segment.offsets.end, view.name
                    ),
                })?;
                let mut parts = Vec::with_capacity(places.len());
                for place in places {
                    let partial = Partial::decode(packs.bytes(place)?, fold).map_err(|source| Misfit::Decode {
                        path: self.folder.join(&place.pack),
                        view: view.name.clone(),
                        source: Box::new(source),
                    })?;
                    let stored = StoredPlace::at(place.clone());
                    parts.push(Part {
                        stored,
                        ..Part::new(partial)
                    });
                }
                views.insert(view.id.clone(), parts);
            }
            let failed = segment.failed.clone();
            pieces.push(Piece::new(
                segment.offsets.clone(),
                segment.ticks,
                segment.marks,
                views,
                failed,
            ));
        }
        let start = Start {
            next: manifest.start,
            marks: manifest.start_marks,
        };
        let folds = Arc::clone(folds);
        Ok(Some(Accumulator::restored(
            self.partition.clone(),
            folds,
            start,
            pieces,
            manifest.newest,
        )))
    }

    fn parse(&self, path: &Path, text: &[u8]) -> Result<Manifest, Misfit> {
        let damaged = |reason: String| Misfit::Damaged {
            path: path.to_path_buf(),
            reason,
        };
        let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(|source| damaged(source.to_string()))?;
        if envelope.version != VERSION {
            return Err(self.other("version", envelope.version, VERSION));
        }
        let crc32 = crc32fast::hash(envelope.manifest.get().as_bytes());
        if crc32 != envelope.crc32 {
            return Err(damaged(format!(
                "its checksum is {crc32}, {} is written",
                envelope.crc32
            )));
        }
        serde_json::from_str(envelope.manifest.get()).map_err(|source| damaged(source.to_string()))
    }

    fn check(&self, path: &Path, manifest: &Manifest, folds: &Folds) -> Result<(), Misfit> {
        if manifest.partition != self.partition {
            let name = |at: &TopicPartition| format!("{at} ({})", at.incarnation);
            return Err(self.other("partition", name(&manifest.partition), name(&self.partition)));
        }
        if manifest.judged_by != self.judged_by {
            return Err(self.other("declaration", &manifest.judged_by, &self.judged_by));
        }
        if manifest.cut_every_ms != self.cut_every_ms {
            return Err(self.other("tick length", manifest.cut_every_ms, self.cut_every_ms));
        }
        if let Some((view, _)) = folds.iter().find(|(view, _)| !manifest.views.contains(&view.id)) {
            let expected = format!("one with view \"{}\" ({})", view.name, view.id);
            return Err(self.other("view set", format!("{:?}", manifest.views), expected));
        }
        let mut until = manifest.start;
        let mut newest = None;
        for segment in &manifest.segments {
            let Range { start, end } = segment.offsets;
            if start != until || end <= start || newest >= Some(segment.ticks.0) || segment.ticks.1 < segment.ticks.0 {
                return Err(Misfit::Damaged {
                    path: path.to_path_buf(),
                    reason: format!(
                        "segment {start}..{end} of ticks {:?} follows offset {until}",
                        segment.ticks
                    ),
                });
            }
            until = end;
            newest = Some(segment.ticks.1);
        }
        Ok(())
    }

    fn other(&self, what: &'static str, found: impl ToString, expected: impl ToString) -> Misfit {
        Misfit::Other {
            path: self.folder.join(MANIFEST),
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}

/// Packs that stay as they are; the live parts of the others go into the new one. Rewritten are packs of which less
/// than half is live, and those not more than twice as large as everything written anew, smallest first: so there are
/// O(log n) packs, as there are O(log n) runs in a segment.
fn packs_to_keep<'a>(parts: impl Iterator<Item = &'a Part>) -> BTreeSet<String> {
    let mut anew = 0;
    let mut packs: HashMap<String, (u64, u64)> = HashMap::new();
    for part in parts {
        match part.stored.get() {
            Some(place) => packs.entry(place.pack).or_insert((place.pack_bytes, 0)).1 += place.bytes,
            None => anew += part.bytes as u64,
        }
    }
    let (mut full, dead): (Vec<_>, Vec<_>) = packs.into_iter().partition(|(_, (bytes, live))| live * 2 >= *bytes);
    anew += dead.iter().map(|(_, (_, live))| live).sum::<u64>();
    full.sort_by_key(|(_, (bytes, _))| *bytes);
    let mut small = 0;
    for (_, (bytes, live)) in &full {
        if *bytes > 2 * anew {
            break;
        }
        anew += live;
        small += 1;
    }
    full.drain(..small);
    full.into_iter().map(|(pack, _)| pack).collect()
}

/// Packs as they are read.
#[derive(Debug)]
struct Packs<'a> {
    folder: &'a Path,
    read: HashMap<String, Vec<u8>>,
}

impl Packs<'_> {
    /// The bytes at `place`, checked.
    fn bytes(&mut self, place: &Place) -> Result<&[u8], Misfit> {
        let path = self.folder.join(&place.pack);
        if !self.read.contains_key(&place.pack) {
            let bytes = fs::read(&path).map_err(|source| Misfit::Io {
                path: path.clone(),
                source,
            })?;
            self.read.insert(place.pack.clone(), bytes);
        }
        let pack = &self.read[&place.pack];
        let bytes = usize::try_from(place.start)
            .ok()
            .zip(usize::try_from(place.bytes).ok())
            .and_then(|(start, bytes)| pack.get(start..start.checked_add(bytes)?));
        let bytes = bytes.filter(|bytes| crc32fast::hash(bytes) == place.crc32);
        bytes.ok_or_else(|| Misfit::Damaged {
            path,
            reason: format!(
                "bytes {}..{} of its {} are missing or have another checksum than {}",
                place.start,
                place.start.saturating_add(place.bytes),
                pack.len(),
                place.crc32
            ),
        })
    }
}
