//! `foldline import`: files into the log, through the collector of a foldline.

use std::path::PathBuf;

use async_trait::async_trait;
use clap::{Args, ValueEnum};
use foldline_event_log::collect::chunk;
use foldline_event_log::collect::import::{
    FileFormat, ImportOptions, ImportProgress, ImportReport, ImportSink, import,
};
use foldline_event_log::{Appended, LogError, NewRecord};
use foldline_sql::Stream;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::Setting;
use crate::client::Client;
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::{self, Format, Row};
use crate::pipelines;
use crate::platform::Role;
use crate::progress;

/// Put files into the log: CSV, TSV, NDJSON, also .gz; a file that is in already is not appended twice
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline import reviews.tsv.gz --stream reviews --wait")]
pub(crate) struct Import {
    /// Files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Stream that they go into
    #[arg(long)]
    stream: String,
    /// The first line names the columns [default: it does, if it names a declared one]
    #[arg(long, overrides_with = "no_header")]
    header: bool,
    /// The first line is data
    #[arg(long)]
    no_header: bool,
    /// Whether quotes quote [default: on for CSV, off for TSV]
    #[arg(long, value_enum)]
    quoting: Option<OnOff>,
    /// Names of the columns, in order
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Format of the files [default: by their extension]
    #[arg(long, value_enum)]
    file_format: Option<FileFormatFlag>,
    /// Events per second, at most
    #[arg(long)]
    rate: Option<u64>,
    /// Import a file that is in already once more
    #[arg(long)]
    again: bool,
    /// Return when the events are in the answers
    #[arg(long)]
    wait: bool,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormatFlag {
    Csv,
    Tsv,
    Ndjson,
}

const COLUMNS: [&str; 6] = [
    "file",
    "appended",
    "in_before",
    "already_imported",
    "unsplit",
    "rejected",
];

impl Import {
    /// Imports.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let stream = self.stream(&setting).await?;
        let roles: &[Role] = if self.wait {
            &[Role::Collect, Role::Speed]
        } else {
            &[Role::Collect]
        };
        let instance = Instance::open(&setting, roles).await?;
        let outcome = self.import_all(&setting, &instance, &stream).await;
        instance.close().await;
        output::print(&COLUMNS, &outcome?, self.format);
        Ok(())
    }

    async fn stream(&self, setting: &Setting) -> anyhow::Result<Stream> {
        let files = pipelines::read(&setting.merged.settings.pipelines)?;
        let catalog = pipelines::compile(&files).await?;
        let stream = catalog.stream(&self.stream).ok_or_else(|| {
            let known: Vec<&str> = catalog.streams().iter().map(|stream| stream.name.as_str()).collect();
            Failure::Usage(format!(
                "there is no stream \"{}\"; there are: {}",
                self.stream,
                known.join(", ")
            ))
        })?;
        Ok(stream.as_ref().clone())
    }

    async fn import_all(&self, setting: &Setting, instance: &Instance, stream: &Stream) -> anyhow::Result<Vec<Row>> {
        let sink = CollectorSink {
            client: instance.client().clone(),
            stream: stream.name.clone(),
        };
        let options = ImportOptions {
            format: self.file_format.map(|format| match format {
                FileFormatFlag::Csv => FileFormat::Csv,
                FileFormatFlag::Tsv => FileFormat::Tsv,
                FileFormatFlag::Ndjson => FileFormat::Ndjson,
            }),
            header: (self.header || self.no_header).then_some(self.header && !self.no_header),
            quoting: self.quoting.map(|quoting| quoting == OnOff::On),
            columns: self.columns.clone(),
            rate: self.rate,
            again: self.again,
            record_bytes_max: setting.merged.settings.log.record_bytes_max,
        };
        let mut rows = Vec::new();
        for path in &self.files {
            let name = path
                .file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned();
            let bar = progress::bar(&name);
            let mut show = |at: ImportProgress| {
                bar.set_length(at.bytes_total);
                bar.set_position(at.bytes_done);
            };
            let imported = import(&sink, stream, path, &options, &mut show).await;
            bar.finish_and_clear();
            let report = imported.map_err(|error| failed(&anyhow::Error::from(error)))?;
            for (line, reason) in &report.rejected_rows {
                eprintln!("{}:{line}: {reason}", path.display());
            }
            rows.push(row(&path.display().to_string(), &report));
        }
        if self.wait {
            instance.catch_up().await?;
        }
        Ok(rows)
    }
}

/// A file or a flag that does not fit is wrong usage; a log that does not take rows is unreachable.
fn failed(error: &anyhow::Error) -> Failure {
    let from_log = error.chain().any(|cause| cause.downcast_ref::<LogError>().is_some());
    let sentence = crate::failure::sentence(error);
    if from_log {
        Failure::Unreachable(sentence)
    } else {
        Failure::Usage(sentence)
    }
}

fn row(path: &str, report: &ImportReport) -> Row {
    let columns = [
        ("file", json!(path)),
        ("appended", json!(report.appended)),
        ("in_before", json!(report.skipped)),
        ("already_imported", json!(report.already_imported)),
        ("unsplit", json!(report.unsplit)),
        ("rejected", json!(report.rejected)),
    ];
    columns
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The collector of a foldline.
struct CollectorSink {
    client: Client,
    stream: String,
}

impl CollectorSink {
    fn failed(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LogError {
        LogError::Storage {
            attempt: format!("importing into \"{}\" at {}", self.stream, self.client.base()),
            source: cause.into(),
        }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, LogError> {
        let answer = request.send().await.map_err(|cause| self.failed(cause))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|cause| self.failed(cause))?;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(LogError::Full(text));
        }
        if !status.is_success() {
            return Err(self.failed(format!("HTTP status {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|cause| self.failed(cause))
    }
}

#[async_trait]
impl ImportSink for CollectorSink {
    async fn last_sequence(&self, file: &str) -> Result<Option<u64>, LogError> {
        let path = format!("/v1/streams/{}/import/{file}", self.stream);
        Ok(self.answer(self.client.get(&path)).await?["last_sequence"].as_u64())
    }

    async fn append(&self, file: &str, sequence: u64, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let path = format!("/v1/streams/{}/import/{file}/{sequence}", self.stream);
        let request = self
            .client
            .post(&path)
            .header("content-type", chunk::MEDIA_TYPE)
            .body(chunk::encode(&records));
        match self.answer(request).await?["outcome"].as_str() {
            Some("stored") => Ok(Appended::Stored),
            Some("already") => Ok(Appended::Already),
            other => Err(self.failed(format!("unknown outcome {other:?}"))),
        }
    }
}
