//! An object store that does what stores do on a bad day.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// What happens to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// Stored; the reply is lost.
    LostReply,
    /// Not stored; an error of unknown outcome.
    FailedBefore,
    /// Not stored; the answer is `AlreadyExists` (two writers met).
    Met,
    /// Not stored; refused for lack of rights.
    Refused,
    /// Stored, then the caller hangs for ever.
    HangAfter,
    /// Not stored; the caller hangs for ever.
    HangBefore,
}

/// Wraps a store; the next puts to paths that contain `at` meet the planned faults in turn.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    store: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
    lists: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Plan {
    at: String,
    faults: VecDeque<Fault>,
    puts: usize,
    /// Of so many puts, the reply of one is lost; 0: of none.
    lose_every: usize,
    overwrite: bool,
}

impl Faulty {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            plan: Arc::default(),
            lists: Arc::default(),
        }
    }

    /// The next puts to paths that contain `at` meet `faults`.
    pub(crate) fn plan(&self, at: &str, faults: &[Fault]) {
        let mut plan = self.plan.lock().unwrap();
        plan.at = at.to_owned();
        plan.faults = faults.iter().copied().collect();
        plan.puts = 0;
    }

    /// From now on, of every `puts` puts the reply of one is lost.
    pub(crate) fn lose_every(&self, puts: usize) {
        self.plan.lock().unwrap().lose_every = puts;
    }

    /// From now on, create-only puts overwrite, as on a store that knows no conditions.
    pub(crate) fn overwrite(&self) {
        self.plan.lock().unwrap().overwrite = true;
    }

    /// Puts that met the plan's path.
    pub(crate) fn puts(&self) -> usize {
        self.plan.lock().unwrap().puts
    }

    /// Folders listed since the store was made.
    pub(crate) fn lists(&self) -> usize {
        self.lists.load(Ordering::Relaxed)
    }

    /// Planned faults that nothing has met yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.plan.lock().unwrap().faults.len()
    }

    fn next(&self, location: &Path) -> Fault {
        let mut plan = self.plan.lock().unwrap();
        if !location.as_ref().contains(&plan.at) {
            return Fault::None;
        }
        plan.puts += 1;
        let lost = plan.lose_every > 0 && plan.puts.is_multiple_of(plan.lose_every);
        let usual = if lost { Fault::LostReply } else { Fault::None };
        plan.faults.pop_front().unwrap_or(usual)
    }
}

fn away() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection reset".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "faulty {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        if self.plan.lock().unwrap().overwrite {
            opts.mode = PutMode::Overwrite;
        }
        match self.next(location) {
            Fault::None => self.store.put_opts(location, payload, opts).await,
            Fault::LostReply => {
                self.store.put_opts(location, payload, opts).await?;
                Err(away())
            }
            Fault::FailedBefore => Err(away()),
            Fault::Met => Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "409 Conflict".into(),
            }),
            Fault::Refused => Err(Error::PermissionDenied {
                path: location.to_string(),
                source: "403 Forbidden".into(),
            }),
            Fault::HangAfter => {
                self.store.put_opts(location, payload, opts).await?;
                std::future::pending().await
            }
            Fault::HangBefore => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}
