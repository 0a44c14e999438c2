//! Requests to BigQuery's REST API, and what their answers mean.

use std::sync::Arc;

use object_store::CredentialProvider;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::BigQuerySettings;
use crate::warehouse::WarehouseError;

/// Bytes of a piece of a file; a multiple of 256 KiB, as the service asks for.
const PIECE: usize = 8 << 20;

/// A client with credentials.
#[derive(Clone)]
pub(super) struct Rest {
    client: Client,
    endpoint: String,
    project: String,
    credentials: Option<GcpCredentialProvider>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Rest")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    attempt: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Good(Value),
    Bad {
        status: StatusCode,
        reason: String,
        message: String,
    },
    /// None, or none that can be read.
    Lost(String),
}

impl Rest {
    pub(super) fn new(settings: &BigQuerySettings) -> Result<Self, WarehouseError> {
        let refused = |reason: String| WarehouseError::Refused {
            attempt: "setting up BigQuery".to_owned(),
            reason,
        };
        let credentials = match settings.endpoint.starts_with("https://") {
            // A stand-in: it checks none, and would see them.
            false => None,
            true => Some(credentials(&settings.credentials).map_err(|error| refused(error.to_string()))?),
        };
        // A piece of a file that was taken is answered with 308, which is no redirection there.
        let client = Client::builder()
            .timeout(settings.request)
            .redirect(Policy::none())
            .build();
        Ok(Self {
            client: client.map_err(|error| refused(error.to_string()))?,
            endpoint: settings.endpoint.trim_end_matches('/').to_owned(),
            project: settings.project.clone(),
            credentials,
        })
    }

    pub(super) async fn get(&self, path: &str, asked: &[(&str, String)]) -> Answer {
        let request = self.request(Method::GET, path).query(asked);
        self.send(request, &format!("reading {path}")).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value, attempt: &str) -> Answer {
        self.send(self.request(Method::POST, path).json(body), attempt).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value, attempt: &str) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body), attempt).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path), &format!("deleting {path}"))
            .await
    }

    /// A job whose file is about to come.
    pub(super) fn upload<'a>(&'a self, job: &'a Value, attempt: &'a str) -> Upload<'a> {
        Upload {
            rest: self,
            job,
            attempt,
            session: None,
            sent: 0,
            waiting: Vec::new(),
        }
    }

    fn upload_url(&self) -> String {
        format!("{}/upload/bigquery/v2/projects/{}/jobs", self.endpoint, self.project)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/bigquery/v2/projects/{}/{path}", self.endpoint, self.project);
        self.client.request(method, url)
    }

    async fn send(&self, request: RequestBuilder, attempt: &str) -> Answer {
        let outcome = match self.exchange(request).await {
            Ok(response) => outcome(response).await,
            Err(reason) => Outcome::Lost(reason),
        };
        Answer {
            attempt: attempt.to_owned(),
            outcome,
        }
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<Response, String> {
        let request = match &self.credentials {
            None => request,
            Some(credentials) => match credentials.get_credential().await {
                Ok(credential) => request.bearer_auth(&credential.bearer),
                Err(error) => return Err(format!("there are no credentials: {error}")),
            },
        };
        request.send().await.map_err(|error| told(&error))
    }
}

async fn outcome(response: Response) -> Outcome {
    let status = response.status();
    let text = match response.bytes().await {
        Ok(text) => text,
        Err(error) => return Outcome::Lost(told(&error)),
    };
    let body: Option<Value> = match text.is_empty() {
        true => Some(Value::Null),
        false => serde_json::from_slice(&text).ok(),
    };
    match (status.is_success(), body) {
        (true, Some(body)) => Outcome::Good(body),
        (true, None) => Outcome::Lost("the answer is no JSON".to_owned()),
        (false, body) => {
            let body = body.unwrap_or_default();
            let error = &body["error"];
            Outcome::Bad {
                status,
                reason: error["errors"][0]["reason"].as_str().unwrap_or_default().to_owned(),
                message: error["message"].as_str().unwrap_or("(no message)").to_owned(),
            }
        }
    }
}

/// A job with its file: a small one in one `multipart/related` request, a larger one in pieces, by a resumable upload of
/// which no more than a piece is in memory.
pub(super) struct Upload<'a> {
    rest: &'a Rest,
    job: &'a Value,
    attempt: &'a str,
    /// Where the pieces go, once there is more than one.
    session: Option<String>,
    /// Bytes that are there.
    sent: u64,
    waiting: Vec<u8>,
}

impl Upload<'_> {
    /// The next bytes of the file. An answer ends the upload: the job is not there, or somebody else's.
    pub(super) async fn add(&mut self, bytes: &[u8]) -> Result<(), Answer> {
        self.waiting.extend_from_slice(bytes);
        // What is left in the end is never nothing: the last piece says how long the file is.
        while self.waiting.len() > PIECE {
            let session = match self.session.clone() {
                Some(session) => session,
                None => self.begin().await?,
            };
            let last = self.sent + PIECE as u64 - 1;
            let range = format!("bytes {}-{last}/*", self.sent);
            let taken = self.put(&session, range, self.waiting[..PIECE].to_vec()).await?;
            self.waiting.drain(..taken);
            self.sent += taken as u64;
        }
        Ok(())
    }

    /// The job, once the whole file is there.
    pub(super) async fn end(self) -> Answer {
        let Some(session) = &self.session else {
            return self.at_once().await;
        };
        let total = self.sent + self.waiting.len() as u64;
        let range = format!("bytes {}-{}/{total}", self.sent, total - 1);
        let request = self.rest.client.put(session).header(CONTENT_RANGE, range);
        self.rest.send(request.body(self.waiting), self.attempt).await
    }

    async fn at_once(&self) -> Answer {
        let (rest, job, boundary) = (self.rest, self.job, Uuid::new_v4().simple());
        let mut body = Vec::with_capacity(self.waiting.len() + 4_096);
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{job}\r\n").as_bytes(),
        );
        body.extend_from_slice(format!("--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n").as_bytes());
        body.extend_from_slice(&self.waiting);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = rest
            .client
            .post(rest.upload_url())
            .query(&[("uploadType", "multipart")]);
        let request = request.header(CONTENT_TYPE, format!("multipart/related; boundary={boundary}"));
        rest.send(request.body(body), self.attempt).await
    }

    async fn begin(&mut self) -> Result<String, Answer> {
        let request = self.rest.client.post(self.rest.upload_url());
        let request = request.query(&[("uploadType", "resumable")]).json(self.job);
        let request = request.header("x-upload-content-type", "application/octet-stream");
        let response = self.rest.exchange(request).await.map_err(|reason| self.lost(reason))?;
        let session = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        match session.map(str::to_owned).filter(|_| response.status().is_success()) {
            Some(session) => {
                self.session = Some(session.clone());
                Ok(session)
            }
            None => Err(self.unexpected(response).await),
        }
    }

    /// How many bytes of `piece` are there now.
    async fn put(&self, session: &str, range: String, piece: Vec<u8>) -> Result<usize, Answer> {
        let request = self.rest.client.put(session).header(CONTENT_RANGE, range).body(piece);
        let response = self.rest.exchange(request).await.map_err(|reason| self.lost(reason))?;
        if response.status() != StatusCode::PERMANENT_REDIRECT {
            return Err(self.unexpected(response).await);
        }
        // `bytes=0-524287`: the service may take less than it was given.
        let there = response.headers().get(RANGE).and_then(|range| range.to_str().ok());
        let last: Option<u64> = there.and_then(|range| range.rsplit('-').next()?.parse().ok());
        let taken = last.and_then(|last| (last + 1).checked_sub(self.sent));
        let taken = taken
            .and_then(|taken| usize::try_from(taken).ok())
            .filter(|taken| (1..=PIECE).contains(taken));
        taken.ok_or_else(|| self.lost("a piece of the file was not taken".to_owned()))
    }

    async fn unexpected(&self, response: Response) -> Answer {
        Answer {
            attempt: self.attempt.to_owned(),
            outcome: match outcome(response).await {
                Outcome::Good(_) => Outcome::Lost("the upload ended before its file".to_owned()),
                outcome => outcome,
            },
        }
    }

    fn lost(&self, reason: String) -> Answer {
        Answer {
            attempt: self.attempt.to_owned(),
            outcome: Outcome::Lost(reason),
        }
    }
}

/// Without the URL: nothing of it is secret, and it stands in the attempt.
fn told(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Those of Google Cloud Storage: a service account's key, a file of the environment, or the machine's account. Their
/// scope is `cloud-platform`, which BigQuery takes.
fn credentials(file: &str) -> Result<GcpCredentialProvider, object_store::Error> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name("unused");
    if !file.is_empty() {
        builder = builder.with_service_account_path(file);
    }
    let store = builder.build()?;
    let credentials: Arc<dyn CredentialProvider<Credential = GcpCredential>> = Arc::clone(store.credentials());
    Ok(credentials)
}

impl Answer {
    /// Whether the name is in use.
    pub(super) fn taken(&self) -> bool {
        matches!(&self.outcome, Outcome::Bad { status, .. } if *status == StatusCode::CONFLICT)
    }

    /// The job of an insert that worked.
    pub(super) fn job(&self) -> Option<&Value> {
        match &self.outcome {
            Outcome::Good(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn done(self) -> Result<Value, WarehouseError> {
        match self.outcome {
            Outcome::Good(body) => Ok(body),
            _ => Err(self.failure()),
        }
    }

    /// `None` where it is not there.
    pub(super) fn or_missing(self, attempt: &str) -> Result<Option<Value>, WarehouseError> {
        match &self.outcome {
            Outcome::Bad { status, .. } if *status == StatusCode::NOT_FOUND => Ok(None),
            _ => Self {
                attempt: attempt.to_owned(),
                ..self
            }
            .done()
            .map(Some),
        }
    }

    pub(super) fn unclear(self) -> WarehouseError {
        WarehouseError::Unclear {
            attempt: self.attempt,
            reason: "it is there, and it is not".to_owned(),
        }
    }

    /// What a failure means.
    ///
    /// | answer | meaning |
    /// | --- | --- |
    /// | none, 5xx, 408 | may have happened |
    /// | 429, 403 `rateLimitExceeded` or `jobRateLimitExceeded` | a moment later |
    /// | 403 `quotaExceeded` (a quota of the day), other 4xx | refused |
    pub(super) fn failure(self) -> WarehouseError {
        let attempt = self.attempt;
        match self.outcome {
            Outcome::Good(_) => WarehouseError::Unclear {
                attempt,
                reason: "an answer that nobody expects".to_owned(),
            },
            Outcome::Lost(reason) => WarehouseError::Unclear { attempt, reason },
            Outcome::Bad {
                status,
                reason,
                message,
            } => {
                let told = format!("{} {reason}: {message}", status.as_u16());
                let rate = matches!(reason.as_str(), "rateLimitExceeded" | "jobRateLimitExceeded");
                if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
                    WarehouseError::Unclear { attempt, reason: told }
                } else if rate || status == StatusCode::TOO_MANY_REQUESTS {
                    WarehouseError::Busy { attempt, reason: told }
                } else {
                    WarehouseError::Refused { attempt, reason: told }
                }
            }
        }
    }
}
