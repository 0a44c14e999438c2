//! `foldline demo`: the whole platform in one process, fed by a seeded generator.
//!
//! Everything but the events is real: they go through the collector over HTTP, and the intervals are only shorter than
//! in an installation, so that in two minutes a person sees generations being published and the answer not jump.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use foldline_sql::SourceFile;
use rand::RngExt;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Setting;
use crate::client::{self, Client};
use crate::generator::{self, Generator};
use crate::output::say;
use crate::platform::{Core, Platform, Role, Start};
use crate::run::told_to_stop;

/// The pipelines of this repository, so that the demo needs no files.
const PIPELINES: [(&str, &str); 4] = [
    (
        "sql/pipelines/reviews/streams.sql",
        include_str!("../sql/pipelines/reviews/streams.sql"),
    ),
    (
        "sql/pipelines/reviews/views.sql",
        include_str!("../sql/pipelines/reviews/views.sql"),
    ),
    (
        "sql/pipelines/shop/streams.sql",
        include_str!("../sql/pipelines/shop/streams.sql"),
    ),
    (
        "sql/pipelines/shop/views.sql",
        include_str!("../sql/pipelines/shop/views.sql"),
    ),
];

/// Events are sent so often.
const SEND_EVERY: Duration = Duration::from_millis(100);
/// A new generation is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Run the whole platform on generated shop events and reviews
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline demo --seed 7 --rate 500")]
pub(crate) struct Demo {
    /// Seed of the events [default: random, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Events per second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Stop after so many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

impl Demo {
    /// Runs it.
    pub(crate) async fn run(self, mut setting: Setting) -> anyhow::Result<()> {
        let _folder = shorten(&mut setting)?;
        let settings = &setting.merged.settings;
        let files = PIPELINES.map(|(name, text)| SourceFile {
            name: name.into(),
            text: text.into(),
        });
        let start = Start {
            roles: Role::ALL.to_vec(),
            listen: settings.http.listen.clone(),
            files: files.to_vec(),
            stays: true,
        };
        let platform = Platform::start(&setting, start).await?;
        let seed = self.seed.unwrap_or_else(|| rand::rng().random());
        welcome(platform.url(), seed, self.rate, settings.data_dir.display());
        let sending = tokio::spawn(send(Client::new(platform.url())?, seed, self.rate));
        let telling = tokio::spawn(tell(Arc::clone(platform.core()), Client::new(platform.url())?));
        let ended = async {
            match self.seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stopped = told_to_stop() => stopped?,
            () = ended => {}
        }
        say!("stopping");
        sending.abort();
        telling.abort();
        platform.stop().await;
        Ok(())
    }
}

/// Short intervals, and a folder of its own, where nobody set anything else. The folder goes with the demo.
fn shorten(setting: &mut Setting) -> anyhow::Result<Option<TempDir>> {
    let shortened = [
        setting.merged.is_default("batch.schedule"),
        setting.merged.is_default("speed.cut_every_ms"),
        setting.merged.is_default("archive.roll_age_ms"),
        setting.merged.is_default("speed.checkpoint_every_ms"),
        setting.merged.is_default("serve.longest_query_ms"),
    ];
    let in_own_folder = setting.merged.is_default("data_dir");
    let settings = &mut setting.merged.settings;
    if shortened[0] {
        settings.batch.schedule = "*/30 * * * * *".into();
    }
    if shortened[1] {
        settings.speed.cut_every_ms = 1_000;
    }
    if shortened[2] {
        settings.archive.roll_age_ms = 3_000;
    }
    if shortened[3] {
        settings.speed.checkpoint_every_ms = 10_000;
    }
    if shortened[4] {
        settings.serve.longest_query_ms = 10_000;
    }
    if !in_own_folder {
        return Ok(None);
    }
    // Random, new and nobody else's: in a shared folder a name that can be guessed may stand there already.
    let folder = tempfile::Builder::new().prefix("foldline-demo-").tempdir();
    let folder = folder.context("cannot create a folder for the demo; name one with --data-dir")?;
    settings.data_dir = folder.path().to_owned();
    Ok(Some(folder))
}

fn welcome(url: &str, seed: u64, rate: u32, folder: std::path::Display<'_>) {
    let product = generator::product_id(0);
    let command = std::env::current_exe().map_or_else(|_| "foldline".to_owned(), |path| path.display().to_string());
    say!(
        "foldline demo: {rate} events per second from seed {seed}, data in {folder}

  open {url}/

  curl '{url}/v1/views/product_activity?product_id={product}&order=day.desc'
  curl '{url}/v1/views/user_profiles?user_id=u00000'
  curl '{url}/v1/views/product_days?order=reviews.desc&limit=5'
  curl '{url}/v1/query' -H 'content-type: application/json' -d '{{\"sql\":\"SELECT * FROM new_users ORDER BY day\"}}'
  {command} verify --all --data-dir {folder}

Ctrl-C ends it."
    );
}

/// Sends events through the collector until it is aborted.
async fn send(client: Client, seed: u64, rate: u32) {
    let mut generator = Generator::new(seed);
    let mut ticks = interval(SEND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (started, mut sent) = (Instant::now(), 0_u64);
    loop {
        ticks.tick().await;
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        // After a pause (a laptop slept) not everything is made up for at once.
        let count = due.saturating_sub(sent).min(u64::from(rate));
        sent = due;
        let lines: Vec<_> = (0..count).map(|_| generator.next(chrono::Utc::now())).collect();
        for stream in ["shop_events", "reviews"] {
            let body: String = lines
                .iter()
                .filter(|line| line.stream == stream)
                .map(|line| line.text.clone() + "\n")
                .collect();
            if body.is_empty() {
                continue;
            }
            let request = client
                .post(&format!("/v1/streams/{stream}/events"))
                .header("content-type", "application/x-ndjson")
                .body(body);
            if let Err(error) = client::send(request).await {
                tracing::warn!(%error, stream, "events were not taken");
            }
        }
    }
}

/// Says when a generation is published, with the merged count before and after: it only grows by new events.
async fn tell(core: Arc<Core>, client: Client) {
    let (mut before, mut counted) = (None, None);
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let earlier = counted;
        counted = count(&client).await.or(earlier);
        let Some(current) = core.generations.current() else {
            continue;
        };
        if before.replace(current.number) == Some(current.number) {
            continue;
        }
        let in_batch: u64 = current.cut.partitions.iter().map(|cut| cut.next.0).sum();
        say!(
            "generation {} published: batch covers {in_batch} events, speed the rest; shop events counted just before: {}, now: {}",
            current.number.0,
            earlier.unwrap_or(0),
            counted.unwrap_or(0),
        );
    }
}

/// Shop events in the merged answer.
async fn count(client: &Client) -> Option<u64> {
    let question = serde_json::json!({ "sql": "SELECT sum(events) AS events FROM session_events" });
    let answer: serde_json::Value = client.post_json("/v1/query", &question).await.ok()?;
    answer["data"][0]["events"].as_u64()
}
