//! Files into the log.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use foldline_event_log::collect::import::{
    FileFormat, ImportError, ImportOptions, ImportReport, ImportSink, LogSink, import,
};
use foldline_event_log::{Appended, EmbeddedLog, EmbeddedSettings, EventLog, LogError, NewRecord, Offset, SystemClock};
use foldline_sql::{EventTimeFormat, Stream};

use crate::collect::{column, stored, stream};

struct Place {
    folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path().join("log")), Arc::new(SystemClock)).unwrap();
        Self { folder, log }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn import(&self, stream: &Stream, path: &Path) -> Result<ImportReport, ImportError> {
        self.import_with(stream, path, ImportOptions::default()).await
    }

    async fn import_with(
        &self,
        stream: &Stream,
        path: &Path,
        options: ImportOptions,
    ) -> Result<ImportReport, ImportError> {
        let sink = LogSink::open(Arc::clone(&self.log) as Arc<dyn EventLog>, stream)
            .await
            .unwrap();
        import(&sink, stream, path, &options, &mut |_| {}).await
    }

    async fn values(&self, stream: &Stream) -> Vec<String> {
        stored(&self.log, &stream.topic)
            .await
            .into_iter()
            .map(|record| record.1)
            .collect()
    }
}

fn events() -> Stream {
    let mut stream = stream(
        "events",
        "id",
        vec![
            column("id", DataType::Int64, false),
            column("title", DataType::Utf8, true),
            column("price", DataType::Decimal128(10, 2), true),
            column("paid", DataType::Boolean, true),
            column(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                false,
            ),
        ],
    );
    stream.event_time = Some("at".to_owned());
    stream
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn rows_become_objects() {
    let place = Place::new();
    let csv = "id,title,price,paid,at,note\r\n\
        9007199254740993,\"a \"\"b\"\", c\",2574.07,t,2024-01-01T00:00:00Z,kept\r\n\
        007,,,NO,2024-01-02,\r\n\
        2,two\u{2028}lines,1.50,maybe,x,\"\"\r\n";
    let report = place.import(&events(), &place.file("a.csv", csv)).await.unwrap();
    assert_eq!((report.appended, report.unsplit, report.rejected), (3, 0, 0));
    let expected = [
        (
            "9007199254740993",
            r#"{"id":9007199254740993,"title":"a \"b\", c","price":2574.07,"paid":true,"at":"2024-01-01T00:00:00Z","note":"kept"}"#,
        ),
        ("007", r#"{"id":"007","paid":false,"at":"2024-01-02"}"#),
        (
            "2",
            "{\"id\":2,\"title\":\"two\u{2028}lines\",\"price\":1.50,\"paid\":\"maybe\",\"at\":\"x\"}",
        ),
    ];
    let expected = expected.map(|(key, value)| (Some(key.to_owned()), value.to_owned()));
    assert_eq!(stored(&place.log, "events-topic").await, expected);
}

#[tokio::test]
async fn event_times_in_unix_time_are_numbers() {
    let place = Place::new();
    let stream = Stream {
        event_time_format: EventTimeFormat::UnixSeconds,
        ..events()
    };
    let options = ImportOptions {
        columns: Some(vec!["id".into(), "at".into()]),
        ..ImportOptions::default()
    };
    place
        .import_with(&stream, &place.file("a.csv", "1,1511658000"), options)
        .await
        .unwrap();
    assert_eq!(place.values(&stream).await, [r#"{"id":1,"at":1511658000}"#]);
}

#[tokio::test]
async fn what_cannot_be_split_goes_in_as_it_is() {
    let place = Place::new();
    let mut tsv = b"id\ttitle\tprice\tpaid\tat\n1\t\"odd\t\t\t2024\n2\ttoo few\n".to_vec();
    tsv.extend_from_slice(b"3\tbad \xff byte\t\t\t2024\n4\t\"a\" b\r\t\t\t2024\r\n\n5\tcut o");
    let report = place.import(&events(), &place.file("a.tsv", &tsv)).await.unwrap();
    assert_eq!((report.appended, report.unsplit), (5, 3));
    let mut values = place.values(&events()).await;
    values.sort();
    assert_eq!(
        values,
        [
            "2\ttoo few",
            "3\tbad \u{fffd} byte\t\t\t2024",
            "5\tcut o",
            r#"{"id":1,"title":"\"odd","at":"2024"}"#,
            r#"{"id":4,"title":"\"a\" b\r","at":"2024"}"#,
        ]
    );
}

#[tokio::test]
async fn ndjson_lines_are_kept_as_their_bytes() {
    let place = Place::new();
    let content = "{\"id\" : 1}\r\n\nnot json\n{\"id\":\"x\"}";
    let report = place.import(&events(), &place.file("a.ndjson", content)).await.unwrap();
    assert_eq!((report.appended, report.unsplit), (3, 1));
    let found = stored(&place.log, "events-topic").await;
    assert_eq!(found[0], (Some("1".to_owned()), "{\"id\" : 1}".to_owned()));
    assert_eq!(found[1], (None, "not json".to_owned()));
    assert_eq!(found[2], (Some("x".to_owned()), "{\"id\":\"x\"}".to_owned()));
    let array = place
        .import(&events(), &place.file("b.json", "[\n{\"id\":1},\n{\"id\":2}\n]"))
        .await
        .unwrap_err();
    assert!(matches!(array, ImportError::Array(_)), "{array}");
}

#[tokio::test]
async fn gzip_is_noticed_also_of_many_members() {
    let place = Place::new();
    let packed = [gzip(b"id,at\n1,a\n2"), gzip(b",b\n3,c\n")].concat();
    let path = place.file("a.csv.gz", &packed);
    assert_eq!(place.import(&events(), &path).await.unwrap().appended, 3);
    let misnamed = place.file("b.csv", gzip(b"id,at\n4,d\n"));
    assert_eq!(place.import(&events(), &misnamed).await.unwrap().appended, 1);
    let cut = place.file("c.csv.gz", &packed[..packed.len() - 12]);
    let refused = place.import(&events(), &cut).await.unwrap_err();
    assert!(matches!(refused, ImportError::Read { rows: 0, .. }), "{refused}");
    let many: String = (0..20_000).map(|row| format!("{row},a\n")).collect();
    let many = gzip(format!("id,at\n{many}").as_bytes());
    let cut = place.file("e.csv.gz", &many[..many.len() - 12]);
    let refused = place.import(&events(), &cut).await.unwrap_err();
    assert!(matches!(refused, ImportError::Read { rows: 0, .. }), "{refused}");
    let stored = place.values(&events()).await.len();
    assert_eq!(stored, 4, "no row of a file that is cut off, however late");
    let zstd = place.file("d.csv", b"\x28\xb5\x2f\xfd....");
    assert!(
        place
            .import(&events(), &zstd)
            .await
            .unwrap_err()
            .to_string()
            .contains("zstd")
    );
}

#[tokio::test]
async fn headers_are_found_or_told() {
    let place = Place::new();
    let stream = events();
    let named = ImportOptions {
        columns: Some(vec!["at".into(), "id".into()]),
        ..ImportOptions::default()
    };
    // Without a header the declared order counts.
    place
        .import(&stream, &place.file("a.csv", "1,x,2,t,now\n"))
        .await
        .unwrap();
    // Told names replace the header's.
    let header = ImportOptions {
        header: Some(true),
        ..named.clone()
    };
    place
        .import_with(&stream, &place.file("b.csv", "time,number\nnow,2\n"), header)
        .await
        .unwrap();
    // A first line that only looks like a header is a row when told so.
    let row = ImportOptions {
        header: Some(false),
        ..named
    };
    place
        .import_with(&stream, &place.file("c.csv", "title,3\n"), row)
        .await
        .unwrap();
    // Order and surplus of the header's columns do not matter, nor does a byte order mark.
    place
        .import(&stream, &place.file("d.csv", "\u{feff}at,other,id\nnow,o,4\n"))
        .await
        .unwrap();
    assert_eq!(
        place.values(&stream).await,
        [
            r#"{"id":1,"title":"x","price":2,"paid":true,"at":"now"}"#,
            r#"{"at":"now","id":2}"#,
            r#"{"at":"title","id":3}"#,
            r#"{"at":"now","other":"o","id":4}"#,
        ]
    );
}

#[tokio::test]
async fn a_header_that_cannot_fit_is_refused() {
    let place = Place::new();
    let refused = place
        .import(&events(), &place.file("a.csv", "title,price\nx,1\n"))
        .await
        .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("it lacks id, at; its columns are title, price; the stream declares id, title,"),
        "{text}"
    );
    let twice = place
        .import(&events(), &place.file("b.csv", "id,at,id\n1,2,3\n"))
        .await
        .unwrap_err();
    assert!(twice.to_string().contains("\"id\" is there twice"), "{twice}");
    let unknown = place
        .import(&events(), &place.file("c.parquet", "x"))
        .await
        .unwrap_err();
    assert!(matches!(unknown, ImportError::UnknownFormat(_)), "{unknown}");
    let missing = place
        .import(&events(), &place.folder.path().join("none.csv"))
        .await
        .unwrap_err();
    assert!(matches!(missing, ImportError::Read { .. }), "{missing}");
    assert!(place.values(&events()).await.is_empty(), "nothing was imported");
}

#[tokio::test]
async fn a_file_goes_in_once_whatever_its_name() {
    let place = Place::new();
    let path = place.file("a.csv", "id,at\n1,a\n");
    assert_eq!(place.import(&events(), &path).await.unwrap().appended, 1);
    let copy = place.file("copy.csv", "id,at\n1,a\n");
    let report = place.import(&events(), &copy).await.unwrap();
    assert!(report.already_imported && report.appended == 0, "{report:?}");
    let again = ImportOptions {
        again: true,
        ..ImportOptions::default()
    };
    assert_eq!(place.import_with(&events(), &path, again).await.unwrap().appended, 1);
    // Cut in another way, or into another stream, it is another file.
    let unquoted = ImportOptions {
        quoting: Some(false),
        ..ImportOptions::default()
    };
    assert_eq!(place.import_with(&events(), &path, unquoted).await.unwrap().appended, 1);
    assert_eq!(place.values(&events()).await.len(), 3);
    let empty = place.file("empty.csv", "");
    let report = place.import(&events(), &empty).await.unwrap();
    assert_eq!((report.appended, report.already_imported), (0, false));
    assert!(place.import(&events(), &empty).await.unwrap().already_imported);
}

/// A sink that fails after some appends; the last of them was stored although it failed.
struct Failing {
    sink: LogSink,
    left: AtomicUsize,
}

#[async_trait]
impl ImportSink for Failing {
    async fn last_sequence(&self, file: &str) -> Result<Option<u64>, LogError> {
        self.sink.last_sequence(file).await
    }

    async fn append(&self, file: &str, sequence: u64, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left.is_multiple_of(3) {
            return Err(LogError::Full("a test".to_owned()));
        }
        let outcome = self.sink.append(file, sequence, records).await?;
        if left == 1 {
            let source = "the answer was lost".into();
            return Err(LogError::Storage {
                attempt: "answering".to_owned(),
                source,
            });
        }
        Ok(outcome)
    }
}

/// A sink before whose first append something happens.
struct Meddling<F> {
    sink: LogSink,
    meddle: std::sync::Mutex<Option<F>>,
}

#[async_trait]
impl<F: FnOnce() + Send> ImportSink for Meddling<F> {
    async fn last_sequence(&self, file: &str) -> Result<Option<u64>, LogError> {
        self.sink.last_sequence(file).await
    }

    async fn append(&self, file: &str, sequence: u64, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let meddle = self.meddle.lock().unwrap().take();
        meddle.into_iter().for_each(|meddle| meddle());
        self.sink.append(file, sequence, records).await
    }
}

async fn import_meddled(place: &Place, path: &Path, meddle: impl FnOnce() + Send) -> ImportError {
    let log = Arc::clone(&place.log) as Arc<dyn EventLog>;
    let meddling = Meddling {
        sink: LogSink::open(log, &events()).await.unwrap(),
        meddle: std::sync::Mutex::new(Some(meddle)),
    };
    let imported = import(&meddling, &events(), path, &ImportOptions::default(), &mut |_| {}).await;
    imported.unwrap_err()
}

#[tokio::test]
async fn a_file_that_grows_goes_in_as_far_as_it_was_and_the_report_says_so() {
    let place = Place::new();
    let content = "id,at\n1,a\n2,b\n";
    let path = place.file("a.csv", content);
    let grow = || std::fs::write(&path, format!("{content}3,c\n4,d\n")).unwrap();
    let grew = import_meddled(&place, &path, grow).await;
    let bytes_then = content.len() as u64;
    assert!(
        matches!(grew, ImportError::Grew { bytes, rows: 2, .. } if bytes == bytes_then),
        "{grew}"
    );
    assert_eq!(place.values(&events()).await.len(), 2);
    let what_was = place.file("b.csv", content);
    assert!(place.import(&events(), &what_was).await.unwrap().already_imported);
}

#[tokio::test]
async fn a_file_that_changes_is_told_with_the_rows_that_are_in() {
    let place = Place::new();
    // More than is read ahead.
    let row = |id: usize| format!("{id},{},x\n", "t".repeat(1_000));
    let content: String = std::iter::once("id,title,at\n".to_owned())
        .chain((0..16_000).map(row))
        .collect();
    let path = place.file("a.csv", &content);
    // In place: a file that is written anew is empty for a moment.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let changed = import_meddled(&place, &path, || {
        file.write_all_at(b"y", content.len() as u64 - 2).unwrap();
    })
    .await;
    assert!(
        matches!(changed, ImportError::Changed { rows: 16_000, .. }),
        "{changed}"
    );
    assert!(changed.to_string().contains("16000 rows of it are in"), "{changed}");
    let path = place.file("b.csv", content.replace('x', "z"));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let shorter = import_meddled(&place, &path, || file.set_len(12_000_000).unwrap()).await;
    let in_then = place.values(&events()).await.len() as u64 - 16_000;
    assert!(
        matches!(shorter, ImportError::Changed { rows, .. } if rows == in_then && rows < 16_000),
        "{shorter}, {in_then} are in"
    );
}

#[tokio::test]
async fn an_import_that_fails_goes_on_where_it_was() {
    let place = Place::new();
    let stream = events();
    let mut content = "id,at\n".to_owned();
    for row in 0..60_000 {
        content += &if row % 1000 == 7 {
            format!("{row}\n")
        } else {
            format!("{row},\"line\nand, more {row}\"\n")
        };
    }
    let path = place.file("a.csv", &content);
    let sink = LogSink::open(Arc::clone(&place.log) as Arc<dyn EventLog>, &stream)
        .await
        .unwrap();
    let mut failures = 0;
    let mut rates = [None, Some(1_000_000), None].into_iter().cycle();
    let report = loop {
        let failing = Failing {
            sink: sink.clone(),
            left: AtomicUsize::new(2),
        };
        let options = ImportOptions {
            rate: rates.next().unwrap(),
            ..ImportOptions::default()
        };
        match import(&failing, &stream, &path, &options, &mut |_| {}).await {
            Ok(report) => break report,
            Err(ImportError::Log { .. }) => failures += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(failures < 100);
    };
    assert!(failures >= 3, "{failures} failures");
    assert!(report.skipped > 0 || report.already_imported);
    let mut rows: Vec<u64> = Vec::new();
    for value in place.values(&stream).await {
        let digits = value.trim_start_matches("{\"id\":");
        rows.push(
            digits
                .split(|byte: char| !byte.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap(),
        );
    }
    rows.sort_unstable();
    assert_eq!(rows.len(), 60_000);
    assert!(rows.into_iter().eq(0..60_000), "every row exactly once");
}

#[tokio::test]
async fn lines_that_are_too_large_are_told() {
    let place = Place::new();
    let large = "x".repeat(20_000_000);
    let path = place.file("a.csv", format!("id,at\n1,a\n{large}\n2,b\n"));
    let small = ImportOptions {
        record_bytes_max: 1_000_000,
        ..ImportOptions::default()
    };
    let report = place.import_with(&events(), &path, small).await.unwrap();
    assert_eq!((report.appended, report.unsplit, report.rejected), (2, 0, 1));
    assert_eq!(report.rejected_rows[0].0, 3);
    assert!(report.rejected_rows[0].1.contains("20000000 bytes"), "{report:?}");

    let folder = place.folder.path().join("large");
    let settings = EmbeddedSettings {
        record_bytes_max: 32_000_000,
        ..EmbeddedSettings::new(folder)
    };
    let log = EmbeddedLog::open(settings, Arc::new(SystemClock)).unwrap();
    let sink = LogSink::open(Arc::clone(&log) as Arc<dyn EventLog>, &events())
        .await
        .unwrap();
    let options = ImportOptions {
        record_bytes_max: 32_000_000,
        ..ImportOptions::default()
    };
    let report = import(&sink, &events(), &path, &options, &mut |_| {}).await.unwrap();
    assert_eq!((report.appended, report.unsplit, report.rejected), (3, 1, 0));
    assert!(
        stored(&log, "events-topic")
            .await
            .iter()
            .any(|record| record.1 == large)
    );
}

#[tokio::test]
async fn a_rate_is_kept_and_progress_told() {
    let place = Place::new();
    let content: String = (0..300).map(|row| format!("{row},at{row}\n")).collect();
    let path = place.file("a.csv", content);
    let sink = LogSink::open(Arc::clone(&place.log) as Arc<dyn EventLog>, &events())
        .await
        .unwrap();
    let columns = Some(vec!["id".to_owned(), "at".to_owned()]);
    let options = ImportOptions {
        columns,
        rate: Some(1_000),
        format: Some(FileFormat::Csv),
        ..Default::default()
    };
    let mut told = Vec::new();
    let started = Instant::now();
    import(&sink, &events(), &path, &options, &mut |progress| told.push(progress))
        .await
        .unwrap();
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(200),
        "300 rows at 1000 a second took {took:?}"
    );
    assert!(told.len() >= 3 && told.is_sorted_by_key(|progress| progress.rows));
    let last = told.last().unwrap();
    assert_eq!((last.bytes_done, last.rows), (last.bytes_total, 300));
    let topic = place.log.topic("events-topic").await.unwrap();
    assert_eq!(place.log.span(&topic.partition(0)).await.unwrap().end, Offset(300));
}
