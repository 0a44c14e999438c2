//! BigQuery as a warehouse: one load job for each slice, through its REST API.
//!
//! ```text
//! view page_days, May 1st, generation 7  ─►  job foldline-3f2a91c0-page_days-1b7e-20240501-7-0-9d04b2f5-1
//!                                            table page_days$20240501, WRITE_TRUNCATE: replaces that partition
//! ```
//!
//! The last number of a job's id is its attempt. An id is used once per project: a second insert answers 409, whatever
//! became of the first. So a lost reply is met by asking for the job, and only a job that ended without having done anything
//! is followed by the next attempt:
//!
//! | insert answers | job is | outcome |
//! | --- | --- | --- |
//! | 200, or 409, or nothing at all | running | waited for |
//! | | done | loaded |
//! | | failed, and trying may help (`backendError`, `rateLimitExceeded`, ...) | next attempt |
//! | | failed otherwise | told; the next load begins with the next attempt |
//! | | a query: somebody settled this load | `Superseded` |
//! | nothing at all | not there | inserted again |
//!
//! To settle a load whose job is not there, its id is used up by a query that does nothing: so the job can never come.
//!
//! Sources: <https://cloud.google.com/bigquery/docs/running-jobs> (client-made ids, DONE does not mean success),
//! <https://cloud.google.com/bigquery/docs/reference/rest/v2/Job> (actions happen as one atomic update upon completion),
//! <https://cloud.google.com/bigquery/docs/managing-partitioned-table-data> (partition decorators),
//! <https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobConfigurationLoad> (what a load may ask for),
//! <https://cloud.google.com/bigquery/docs/reference/api-uploads> (files in one request, and in pieces),
//! <https://cloud.google.com/bigquery/docs/error-messages> (reasons and statuses).

mod rest;
mod rows;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::file::Encoder;
use super::{LoadName, Prepared, Settled, Slice, SliceRows, Table, Warehouse, WarehouseError};
use rest::{Answer, Rest};

/// Attempts of one load that are begun by one call.
const ATTEMPTS_AT_ONCE: u32 = 3;
/// Attempts that are looked through.
const ATTEMPTS_MAX: u32 = 1_000;
/// A job that is not done after this is asked for again by whoever loads next.
const JOB_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at a job: this at first, then more and more.
const POLL_FIRST: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(5);
/// Rows asked for at once.
const PAGE_ROWS: usize = 50_000;
/// Label that carries the owner.
const OWNER: &str = "foldline";
/// Reasons of a failed job that another attempt may not meet.
const PASSING: [&str; 6] = [
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "jobRateLimitExceeded",
    "rateLimitExceeded",
];

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BigQuerySettings {
    /// `https://bigquery.googleapis.com`, or a stand-in: one without TLS is given no credentials.
    pub endpoint: String,
    /// Project of the dataset and of the jobs.
    pub project: String,
    /// Dataset; it must be there.
    pub dataset: String,
    /// Location of the dataset; empty: where BigQuery finds it, which does for US and EU.
    pub location: String,
    /// File of a service account's key; empty: the environment's default.
    pub credentials: String,
    /// One request may take this long.
    pub request: Duration,
    /// A stand-in whose days are tables of their own: there jobs make them.
    pub days_are_tables: bool,
}

/// A dataset.
#[derive(Debug, Clone)]
pub struct BigQuery {
    settings: BigQuerySettings,
    rest: Rest,
}

/// What became of a job.
#[derive(Debug)]
enum Fate {
    Absent,
    Running,
    Loaded,
    /// Its id was used up.
    Burnt,
    Failed {
        reason: String,
        message: String,
    },
}

impl BigQuery {
    /// Asks nothing yet.
    pub fn new(settings: BigQuerySettings) -> Result<Self, WarehouseError> {
        Ok(Self {
            rest: Rest::new(&settings)?,
            settings,
        })
    }

    fn table_path(&self, table: &str) -> String {
        format!("datasets/{}/tables/{table}", self.settings.dataset)
    }

    fn reference(&self, table: &str) -> Value {
        json!({ "projectId": self.settings.project, "datasetId": self.settings.dataset, "tableId": table })
    }

    fn job_reference(&self, id: &str) -> Value {
        let mut reference = json!({ "projectId": self.settings.project, "jobId": id });
        if !self.settings.location.is_empty() {
            reference["location"] = json!(self.settings.location);
        }
        reference
    }

    /// The table as the service describes it, if it is there and ours.
    async fn found(&self, table: &Table) -> Result<Option<Value>, WarehouseError> {
        let name = schema::table_id(&table.name);
        let attempt = format!("looking at table \"{}\"", table.name);
        let found = match self.rest.get(&self.table_path(&name), &[]).await.or_missing(&attempt)? {
            None => return Ok(None),
            Some(found) => found,
        };
        match found["labels"][OWNER].as_str() {
            Some(owner) if owner == table.owner.simple().to_string() => Ok(Some(found)),
            other => Err(WarehouseError::Foreign {
                table: table.name.clone(),
                found: format!("its label \"{OWNER}\" is {}", other.unwrap_or("not there")),
            }),
        }
    }

    /// What can be changed of a table that is there.
    fn described(&self, table: &Table) -> Value {
        let columns = schema::columns(table);
        let id = |name: &String| columns.iter().find(|(of, _)| of == name).map(|(_, id)| id.clone());
        let mut described = json!({
            "description": table.description,
            "labels": { OWNER: table.owner.simple().to_string() },
        });
        if let Some(day) = table.day.as_ref().and_then(id) {
            let expire = table.expire_ms.map(|ms| ms.to_string());
            described["timePartitioning"] = json!({ "type": "DAY", "field": day, "expirationMs": expire });
        }
        let cluster: Vec<String> = table.cluster.iter().filter_map(id).collect();
        if !cluster.is_empty() {
            described["clustering"] = json!({ "fields": cluster });
        }
        described
    }

    /// The fate of a job.
    async fn fate(&self, id: &str) -> Result<Fate, WarehouseError> {
        let attempt = format!("asking for job {id}");
        let location = self.location();
        let answer = self.rest.get(&format!("jobs/{id}"), &location).await;
        Ok(answer.or_missing(&attempt)?.map_or(Fate::Absent, |job| fate_of(&job)))
    }

    fn location(&self) -> Vec<(&'static str, String)> {
        let location = &self.settings.location;
        let given = (!location.is_empty()).then(|| ("location", location.clone()));
        given.into_iter().collect()
    }

    /// The job once it is not running any more, or not there.
    async fn ended(&self, id: &str) -> Result<Fate, WarehouseError> {
        let since = tokio::time::Instant::now();
        let mut pause = POLL_FIRST;
        loop {
            match self.fate(id).await? {
                Fate::Running if since.elapsed() > JOB_WITHIN => {
                    return Err(WarehouseError::Refused {
                        attempt: format!("waiting for job {id}"),
                        reason: format!("it still runs after {} s", JOB_WITHIN.as_secs()),
                    });
                }
                Fate::Running => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(POLL_MAX);
                }
                ended => return Ok(ended),
            }
        }
    }

    /// Inserts the job `id` that replaces `slice`.
    async fn insert(
        &self,
        table: &Table,
        slice: Slice,
        id: &str,
        rows: &dyn SliceRows,
    ) -> Result<Answer, WarehouseError> {
        let attempt = format!("inserting job {id}");
        let unfit = |reason: String| WarehouseError::Unfit {
            table: table.name.clone(),
            reason,
        };
        let job = json!({
            "jobReference": self.job_reference(id),
            "configuration": {
                "load": self.load_of(table, slice),
                "labels": { OWNER: table.owner.simple().to_string() },
            },
        });
        let renamed = |rows: &RecordBatch| schema::renamed(table, rows).map_err(|error| unfit(error.to_string()));
        let none = renamed(&RecordBatch::new_empty(Arc::clone(&table.schema)))?;
        let mut encoder = Encoder::new(none.schema_ref()).map_err(|error| unfit(error.to_string()))?;
        let mut upload = self.rest.upload(&job, &attempt);
        let mut batches = rows.batches();
        while let Some(batch) = batches.next().await {
            let batch = renamed(&batch?)?;
            encoder.write(&batch).map_err(|error| unfit(error.to_string()))?;
            if let Err(answer) = upload.add(&encoder.take()).await {
                return Ok(answer);
            }
        }
        let rest = encoder.finish().map_err(|error| unfit(error.to_string()))?;
        Ok(match upload.add(&rest).await {
            Ok(()) => upload.end().await,
            Err(answer) => answer,
        })
    }

    /// What the job is told: to replace the slice of a table that is there, by columns as they are written down here. A
    /// partition goes by what its table has; of a table that is replaced whole, the clustering is said again.
    fn load_of(&self, table: &Table, slice: Slice) -> Value {
        let mut load = json!({
            "destinationTable": self.reference(&schema::slice_id(&table.name, slice)),
            "sourceFormat": "PARQUET",
            "writeDisposition": "WRITE_TRUNCATE",
            // Made by the job, it would carry no label: nobody's table.
            "createDisposition": if self.settings.days_are_tables { "CREATE_IF_NEEDED" } else { "CREATE_NEVER" },
            // Without it every decimal is taken for NUMERIC, whatever the schema says.
            "decimalTargetTypes": ["NUMERIC", "BIGNUMERIC"],
            // Arrays stay records of a repeated `list`, which know NULL.
            "parquetOptions": { "enableListInference": false },
            "schema": { "fields": schema::fields(table) },
        });
        if slice == Slice::Whole
            && let Some(clustering) = self.described(table).get("clustering")
        {
            load["clustering"] = clustering.clone();
        }
        load
    }

    /// Uses the id up, so that no job of that name can come.
    async fn burn(&self, id: &str) -> Result<(), WarehouseError> {
        let attempt = format!("using up the id of job {id}");
        let query = json!({ "query": "SELECT 1", "useLegacySql": false });
        let job = json!({ "jobReference": self.job_reference(id), "configuration": { "query": query } });
        let answer = self.rest.post("jobs", &job, &attempt).await;
        match answer.taken() {
            // Somebody was faster: what that was is asked for next.
            true => Ok(()),
            false => answer.done().map(drop),
        }
    }

    async fn query(&self, sql: &str, attempt: &str) -> Result<Vec<Value>, WarehouseError> {
        let mut body = json!({ "query": sql, "useLegacySql": false, "timeoutMs": 60_000, "maxResults": 10_000 });
        if !self.settings.location.is_empty() {
            body["location"] = json!(self.settings.location);
        }
        let answer = self.rest.post("queries", &body, attempt).await.done()?;
        let unclear = |reason: &str| WarehouseError::Unclear {
            attempt: attempt.to_owned(),
            reason: reason.to_owned(),
        };
        if answer["jobComplete"] == json!(false) {
            return Err(unclear("the query goes on after 60 s"));
        }
        if answer.get("pageToken").is_some_and(|token| !token.is_null()) {
            return Err(unclear("the answer has more rows than one page"));
        }
        Ok(answer["rows"].as_array().cloned().unwrap_or_default())
    }
}

fn fate_of(job: &Value) -> Fate {
    if job["status"]["state"] != json!("DONE") {
        return Fate::Running;
    }
    if job["configuration"]["query"].is_object() {
        return Fate::Burnt;
    }
    match &job["status"]["errorResult"] {
        Value::Null => Fate::Loaded,
        error => Fate::Failed {
            reason: error["reason"].as_str().unwrap_or_default().to_owned(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        },
    }
}

/// Letters, digits, dashes and underscores: what an id may have. The names of tables are cut off and told apart by a hash.
fn job_id(name: &LoadName, attempt: u32) -> String {
    let owner = name.owner.simple().to_string();
    let table = schema::table_id(&name.table);
    let hash = Sha256::digest(format!("{owner} {}", name.table).as_bytes());
    let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let slice = schema::slice_suffix(name.slice).unwrap_or_else(|| "all".to_owned());
    let (generation, again) = (name.number.generation.0, name.number.again);
    let plan = name.plan.simple().to_string();
    let short: String = table.chars().take(200).collect();
    format!(
        "foldline-{}-{short}-{hash}-{slice}-{generation}-{again}-{}-{attempt}",
        &owner[..8],
        &plan[..8]
    )
}

#[async_trait]
impl Warehouse for BigQuery {
    fn place(&self) -> String {
        let BigQuerySettings {
            endpoint,
            project,
            dataset,
            ..
        } = &self.settings;
        format!("bigquery {project}.{dataset} at {endpoint}")
    }

    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError> {
        Ok(self.found(table).await?.is_some())
    }

    async fn prepare(&self, table: &Table) -> Result<Prepared, WarehouseError> {
        let attempt = format!("preparing table \"{}\"", table.name);
        let name = schema::table_id(&table.name);
        let mut described = self.described(table);
        let Some(found) = self.found(table).await? else {
            described["tableReference"] = self.reference(&name);
            described["schema"] = json!({ "fields": schema::fields(table) });
            let path = format!("datasets/{}/tables", self.settings.dataset);
            let made = self.rest.post(&path, &described, &attempt).await;
            if made.taken() {
                // A lost reply, or another process: the look at it says whose it is.
                return match self.found(table).await? {
                    Some(_) => Ok(Prepared::There),
                    None => Err(made.unclear()),
                };
            }
            made.done()?;
            return Ok(Prepared::Made);
        };
        if let Some(difference) = schema::differs(&found, table) {
            return Err(WarehouseError::Foreign {
                table: table.name.clone(),
                found: format!("somebody changed it: {difference}"),
            });
        }
        if !schema::is_described(&found, &described) {
            let changed = self.rest.patch(&self.table_path(&name), &described, &attempt).await;
            changed.done()?;
        }
        Ok(Prepared::There)
    }

    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError> {
        let mut begun = 0;
        for number in 1..=ATTEMPTS_MAX {
            let id = job_id(name, number);
            let mut fate = self.ended(&id).await?;
            let new = matches!(fate, Fate::Absent);
            if new {
                if begun == ATTEMPTS_AT_ONCE {
                    break;
                }
                begun += 1;
                let answer = self.insert(table, name.slice, &id, rows).await?;
                fate = match answer.job() {
                    Some(job) => fate_of(job),
                    None if answer.taken() => Fate::Running,
                    None => return Err(answer.failure()),
                };
                if matches!(fate, Fate::Running) {
                    fate = self.ended(&id).await?;
                }
            }
            match fate {
                Fate::Loaded => return Ok(()),
                Fate::Burnt => {
                    return Err(WarehouseError::Superseded {
                        table: table.name.clone(),
                    });
                }
                Fate::Failed { reason, message } if new && !PASSING.contains(&reason.as_str()) => {
                    return Err(WarehouseError::Refused {
                        attempt: format!("loading {name} (job {id})"),
                        reason: format!("{reason}: {message}"),
                    });
                }
                // The next attempt.
                Fate::Failed { reason, message } => {
                    tracing::info!(job = id, reason, message, "a load job failed");
                }
                Fate::Absent | Fate::Running => {
                    return Err(WarehouseError::Unclear {
                        attempt: format!("loading {name}"),
                        reason: format!("job {id} was inserted and is not there"),
                    });
                }
            }
        }
        Err(WarehouseError::Busy {
            attempt: format!("loading {name}"),
            reason: format!("{begun} attempts failed"),
        })
    }

    async fn settle(&self, _table: &Table, name: &LoadName) -> Result<Settled, WarehouseError> {
        for number in 1..=ATTEMPTS_MAX {
            let id = job_id(name, number);
            let mut fate = self.ended(&id).await?;
            if matches!(fate, Fate::Absent) {
                self.burn(&id).await?;
                fate = self.ended(&id).await?;
            }
            match fate {
                Fate::Loaded => return Ok(Settled::Loaded),
                Fate::Burnt => return Ok(Settled::Nothing),
                // Whoever began it may go on with the next attempt.
                Fate::Failed { .. } => {}
                Fate::Absent | Fate::Running => {
                    return Err(WarehouseError::Unclear {
                        attempt: format!("settling {name}"),
                        reason: format!("the id of job {id} was used up and is not there"),
                    });
                }
            }
        }
        Err(WarehouseError::Refused {
            attempt: format!("settling {name}"),
            reason: format!("more than {ATTEMPTS_MAX} attempts of it failed"),
        })
    }

    async fn remove(&self, table: &Table) -> Result<(), WarehouseError> {
        let attempt = format!("removing table \"{}\"", table.name);
        if self.found(table).await?.is_none() {
            return Ok(());
        }
        let path = self.table_path(&schema::table_id(&table.name));
        self.rest.delete(&path).await.or_missing(&attempt).map(drop)
    }

    /// The service does so by itself.
    async fn expire(&self, _table: &Table, _slices: &[Slice]) -> Result<(), WarehouseError> {
        Ok(())
    }

    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        let first = Some(String::new());
        futures::stream::try_unfold(first, move |page| async move {
            let Some(page) = page else { return Ok(None) };
            self.page(table, slice, page).await
        })
        .boxed()
    }

    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError> {
        let Some(day) = &table.day else {
            return Ok(vec![Slice::Whole]);
        };
        if !self.exists(table).await? {
            return Ok(Vec::new());
        }
        let attempt = format!("asking for the days of table \"{}\"", table.name);
        let columns = schema::columns(table);
        let day = columns
            .iter()
            .find(|(of, _)| of == day)
            .map(|(_, id)| id.as_str())
            .unwrap_or_default();
        let BigQuerySettings { project, dataset, .. } = &self.settings;
        let name = schema::table_id(&table.name);
        let sql = format!(
            "SELECT FORMAT_DATE('%Y-%m-%d', DATE(`{day}`)) AS day FROM `{project}`.`{dataset}`.`{name}` GROUP BY 1 ORDER BY 1"
        );
        let rows = self.query(&sql, &attempt).await?;
        let days = rows.iter().map(|row| {
            let text = row["f"][0]["v"].as_str().unwrap_or_default();
            text.parse().map(Slice::Day).map_err(|_| WarehouseError::Damaged {
                what: format!("the days of table \"{}\"", table.name),
                reason: format!("\"{text}\" is none"),
            })
        });
        days.collect()
    }
}

impl BigQuery {
    /// The rows of one page, and the next one.
    async fn page(
        &self,
        table: &Table,
        slice: Slice,
        page: String,
    ) -> Result<Option<(RecordBatch, Option<String>)>, WarehouseError> {
        let attempt = format!("reading {slice} of table \"{}\"", table.name);
        let path = format!("{}/data", self.table_path(&schema::slice_id(&table.name, slice)));
        let mut asked = vec![
            ("maxResults", PAGE_ROWS.to_string()),
            ("formatOptions.useInt64Timestamp", "true".to_owned()),
        ];
        if !page.is_empty() {
            asked.push(("pageToken", page));
        }
        let Some(answer) = self.rest.get(&path, &asked).await.or_missing(&attempt)? else {
            return Ok(None);
        };
        let none = Vec::new();
        let found = answer["rows"].as_array().unwrap_or(&none);
        let batch = rows::batch(found, &table.schema).map_err(|reason| WarehouseError::Damaged {
            what: format!("{slice} of table \"{}\"", table.name),
            reason,
        })?;
        let next = answer["pageToken"].as_str().filter(|token| !token.is_empty());
        Ok(Some((batch, next.map(str::to_owned))))
    }

    /// As a [`Warehouse`].
    pub fn shared(self) -> Arc<dyn Warehouse> {
        Arc::new(self)
    }
}
