//! Requests to BigQuery's REST API, and what their answers mean.

use std::sync::Arc;

use bytes::Bytes;
use object_store::CredentialProvider;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::BigQuerySettings;
use crate::warehouse::WarehouseError;

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
    Unfit(WarehouseError),
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
        let client = Client::builder().timeout(settings.request).build();
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

    /// A job with its file, in one `multipart/related` request.
    pub(super) async fn upload(&self, job: &Value, file: Bytes, attempt: &str) -> Answer {
        let boundary = Uuid::new_v4().simple().to_string();
        let mut body = Vec::with_capacity(file.len() + 4_096);
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{job}\r\n").as_bytes(),
        );
        body.extend_from_slice(format!("--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n").as_bytes());
        body.extend_from_slice(&file);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let url = format!("{}/upload/bigquery/v2/projects/{}/jobs", self.endpoint, self.project);
        let request = self.client.post(url).query(&[("uploadType", "multipart")]);
        let request = request.header("content-type", format!("multipart/related; boundary={boundary}"));
        self.send(request.body(body), attempt).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/bigquery/v2/projects/{}/{path}", self.endpoint, self.project);
        self.client.request(method, url)
    }

    async fn send(&self, request: RequestBuilder, attempt: &str) -> Answer {
        let answer = |outcome| Answer {
            attempt: attempt.to_owned(),
            outcome,
        };
        let request = match &self.credentials {
            None => request,
            Some(credentials) => match credentials.get_credential().await {
                Ok(credential) => request.bearer_auth(&credential.bearer),
                Err(error) => return answer(Outcome::Lost(format!("there are no credentials: {error}"))),
            },
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return answer(Outcome::Lost(told(&error))),
        };
        let status = response.status();
        let text = match response.bytes().await {
            Ok(text) => text,
            Err(error) => return answer(Outcome::Lost(told(&error))),
        };
        let body: Option<Value> = match text.is_empty() {
            true => Some(Value::Null),
            false => serde_json::from_slice(&text).ok(),
        };
        answer(match (status.is_success(), body) {
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
        })
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
    pub(super) fn unfit(table: &str, reason: &str) -> Self {
        Self {
            attempt: String::new(),
            outcome: Outcome::Unfit(WarehouseError::Unfit {
                table: table.to_owned(),
                reason: reason.to_owned(),
            }),
        }
    }

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
            Outcome::Unfit(error) => error,
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
