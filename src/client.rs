//! Talks HTTP to a foldline: the one that runs on the same `data_dir`, or the one that this command started.

use std::time::Duration;

use anyhow::Context;
use futures::TryStreamExt;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio_util::io::StreamReader;

use crate::failure::Failure;

/// A foldline's HTTP side.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// Talks to `base`, `http://host:port`.
    pub(crate) fn new(base: impl Into<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .context("cannot set up an HTTP client")?;
        Ok(Self {
            base: base.into(),
            http,
        })
    }

    /// `http://host:port`
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// A GET of `path`.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    /// A POST to `path`.
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.base))
    }

    /// GET and parse.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = send(self.get(path)).await?;
        answer
            .json()
            .await
            .with_context(|| format!("cannot read the answer of {path}"))
    }

    /// POST a JSON body and parse the answer.
    pub(crate) async fn post_json<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        let answer = send(self.post(path).json(body)).await?;
        answer
            .json()
            .await
            .with_context(|| format!("cannot read the answer of {path}"))
    }

    /// POST a JSON body to a path that answers with lines of JSON as work goes on; `on_line` sees each. A line
    /// `{"error": "..."}` ends it with that error; an answer that ends early is an error too.
    pub(crate) async fn follow(
        &self,
        path: &str,
        body: &Value,
        mut on_line: impl FnMut(&Value),
    ) -> anyhow::Result<Value> {
        let answer = send(self.post(path).json(body)).await?;
        let bytes = answer.bytes_stream().map_err(std::io::Error::other);
        let mut lines = tokio::io::BufReader::new(StreamReader::new(bytes)).lines();
        while let Some(line) = lines
            .next_line()
            .await
            .map_err(|error| Failure::Unreachable(format!("the answer of {path} broke off: {error}")))?
        {
            let line: Value = serde_json::from_str(&line).with_context(|| format!("{path} answered {line:?}"))?;
            if let Some(error) = line.get("error").and_then(Value::as_str) {
                anyhow::bail!("{error}");
            }
            if let Some(done) = line.get("done") {
                return Ok(done.clone());
            }
            on_line(&line);
        }
        Err(Failure::Unreachable(format!("{} went away before it was done", self.base)).into())
    }
}

/// Sends a request; an answer that is not a success becomes the sentence of its problem document.
pub(crate) async fn send(request: RequestBuilder) -> anyhow::Result<Response> {
    let answer = request.send().await.map_err(|error| {
        let address = error.url().map(ToString::to_string).unwrap_or_default();
        Failure::Unreachable(format!("{address} does not answer: {}", chain(&error)))
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.text().await.unwrap_or_default();
    let sentence = problem_sentence(&body).unwrap_or_else(|| format!("HTTP status {status}: {body}"));
    Err(match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => Failure::Usage(sentence),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Failure::Unreachable(sentence),
        _ => Failure::No(sentence),
    }
    .into())
}

/// The most telling sentence of an RFC 9457 problem document.
fn problem_sentence(body: &str) -> Option<String> {
    let problem: Value = serde_json::from_str(body).ok()?;
    let text = |key: &str| problem.get(key).and_then(Value::as_str).map(str::to_owned);
    text("detail").or_else(|| text("title"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
