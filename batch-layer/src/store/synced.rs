//! Files of this machine as an object store whose puts are synced.
//!
//! `object_store`'s own `LocalFileSystem` (0.13) never syncs: after a power cut a commit record could be there, empty,
//! under a name that is never written again. So puts are our own: stage, sync the bytes, publish by one link or
//! rename, sync the folder. Everything else is left to `LocalFileSystem`.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use uuid::Uuid;

/// Unfinished puts lie here. Their names end in `#` and digits, which `LocalFileSystem` leaves out of listings.
const STAGING: &str = ".staging";
/// What a crash left in the staging folder is removed at the next start when it is older than this.
const STAGED_SECONDS_MAX: u64 = 3600;
/// Folders remembered as synced; beyond this many they are forgotten and synced again.
const SYNCED_FOLDERS_MAX: usize = 16_384;

/// Objects as files of one folder; a put that is acknowledged is on disk, and one that is visible is whole.
#[derive(Debug)]
pub struct SyncedFiles {
    files: Arc<LocalFileSystem>,
    folders: Arc<Folders>,
}

/// The folders under the root, and which of them are known to be on disk.
#[derive(Debug)]
struct Folders {
    root: PathBuf,
    synced: Mutex<HashSet<PathBuf>>,
}

impl SyncedFiles {
    /// The store in `folder`, created if missing.
    pub fn open(folder: &FilePath) -> Result<Self> {
        let staging = folder.join(STAGING);
        std::fs::create_dir_all(&staging).map_err(failed)?;
        remove_abandoned(&staging).map_err(failed)?;
        let root = std::fs::canonicalize(folder).map_err(failed)?;
        Ok(Self {
            files: Arc::new(LocalFileSystem::new_with_prefix(&root)?),
            folders: Arc::new(Folders {
                root,
                synced: Mutex::default(),
            }),
        })
    }
}

impl fmt::Display for SyncedFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "synced files in {}", self.folders.root.display())
    }
}

#[async_trait]
impl ObjectStore for SyncedFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return Err(Error::NotImplemented {
                operation: "conditional updates and attributes".to_owned(),
                implementer: self.to_string(),
            });
        }
        let target = self.files.path_to_filesystem(location)?;
        let folders = Arc::clone(&self.folders);
        tokio::task::spawn_blocking(move || folders.put(&target, &payload, &opts.mode)).await??;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    /// Replaces what is there once it is complete. Nothing that must be create-only is put in parts.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let staged = self.folders.staged();
        let file = File::create_new(&staged).map_err(failed)?;
        Ok(Box::new(Parts {
            folders: Arc::clone(&self.folders),
            target: self.files.path_to_filesystem(location)?,
            staged,
            file: Arc::new(file),
            bytes: 0,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.files.list_with_delimiter(prefix).await?;
        listed.common_prefixes.retain(|folder| folder.as_ref() != STAGING);
        Ok(listed)
    }

    /// Not synced by itself: callers that need it on disk put the bytes instead.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    /// Not synced by itself: callers that need it on disk put the bytes instead.
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await
    }
}

/// A file that is put in parts; without `complete` it goes.
#[derive(Debug)]
struct Parts {
    folders: Arc<Folders>,
    target: PathBuf,
    staged: PathBuf,
    file: Arc<File>,
    /// Of all parts so far: where the next one begins.
    bytes: u64,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let (file, mut at) = (Arc::clone(&self.file), self.bytes);
        self.bytes += part.content_length() as u64;
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || {
                part.iter().try_for_each(|bytes| {
                    file.write_all_at(bytes, at)?;
                    at += bytes.len() as u64;
                    Ok(())
                })
            });
            written.await?.map_err(failed)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (folders, file) = (Arc::clone(&self.folders), Arc::clone(&self.file));
        let (staged, target) = (self.staged.clone(), self.target.clone());
        let published = tokio::task::spawn_blocking(move || {
            file.sync_all()?;
            folders.publish(&staged, &target, &PutMode::Overwrite)
        });
        published.await?.map_err(failed)?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        std::fs::remove_file(&self.staged).map_err(failed)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Gone where it was completed; left behind, it is removed at a later start.
        let _ = std::fs::remove_file(&self.staged);
    }
}

impl Folders {
    fn staged(&self) -> PathBuf {
        self.root
            .join(STAGING)
            .join(format!("put#{}", Uuid::new_v4().as_u128()))
    }

    fn put(&self, target: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let staged = self.staged();
        let published = stage(&staged, payload).and_then(|()| self.publish(&staged, target, mode));
        if !(published.is_ok() && matches!(mode, PutMode::Overwrite)) {
            // Left behind, it is removed at a later start.
            let _ = std::fs::remove_file(&staged);
        }
        published.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Error::AlreadyExists {
                path: target.display().to_string(),
                source: Box::new(error),
            },
            ErrorKind::PermissionDenied => Error::PermissionDenied {
                path: target.display().to_string(),
                source: Box::new(error),
            },
            _ => failed(error),
        })
    }

    fn publish(&self, staged: &FilePath, target: &FilePath, mode: &PutMode) -> std::io::Result<()> {
        let folder = target.parent().unwrap_or(&self.root);
        self.ensure(folder)?;
        let link = || match mode {
            PutMode::Overwrite => std::fs::rename(staged, target),
            PutMode::Create | PutMode::Update(_) => std::fs::hard_link(staged, target),
        };
        let mut linked = link();
        if linked.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            // Somebody removed the folder behind our back.
            self.forget();
            self.ensure(folder)?;
            linked = link();
        }
        // Also when it stands there already: whoever put it may not have come to syncing the folder.
        let synced = sync_folder(folder);
        linked.and(synced)
    }

    /// Creates `folder` and what is above it, and syncs all of them up to the root.
    fn ensure(&self, folder: &FilePath) -> std::io::Result<()> {
        // The lock is held while syncing: nobody may build on a folder that is there but not yet on disk.
        let mut synced = self.synced.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if synced.contains(folder) {
            return Ok(());
        }
        std::fs::create_dir_all(folder)?;
        for above in folder.ancestors().skip(1) {
            sync_folder(above)?;
            if above == self.root {
                break;
            }
        }
        if synced.len() >= SYNCED_FOLDERS_MAX {
            synced.clear();
        }
        synced.insert(folder.to_owned());
        Ok(())
    }

    fn forget(&self) {
        self.synced
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
    }
}

fn stage(staged: &FilePath, payload: &PutPayload) -> std::io::Result<()> {
    let mut file = File::create_new(staged)?;
    for bytes in payload {
        file.write_all(bytes)?;
    }
    file.sync_all()
}

fn sync_folder(folder: &FilePath) -> std::io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

fn remove_abandoned(staging: &FilePath) -> std::io::Result<()> {
    for entry in std::fs::read_dir(staging)? {
        let entry = entry?;
        // Whatever vanishes under our hands was somebody's put that ended.
        let age = entry
            .metadata()
            .and_then(|file| file.modified())
            .map(|changed| changed.elapsed());
        if matches!(age, Ok(Ok(age)) if age > Duration::from_secs(STAGED_SECONDS_MAX)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn failed(error: std::io::Error) -> Error {
    Error::Generic {
        store: "local files",
        source: Box::new(error),
    }
}
