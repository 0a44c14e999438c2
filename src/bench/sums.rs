//! What SUM costs when it has no order: by the sums of views, and by DataFusion's own, over the same rows.

use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Decimal128Type, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::{Random, Timer};

/// Rows of a batch inside a plan of a view.
const BATCH: usize = 16_384;
/// Different batches: a million rows.
const BATCHES: usize = 61;
/// How often each batch is summed.
const REPEATS: usize = 10;

/// Sums ten million rows of each type under few and under many keys.
pub(super) async fn measure() -> anyhow::Result<()> {
    let (batches, cents) = rows()?;
    let count = REPEATS * BATCHES * BATCH;
    let ours = foldline_sql::session_context(SessionConfig::new());
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH);
    let plain = SessionContext::new_with_config(config);
    let schema = batches[0].schema();
    for context in [&ours, &plain] {
        let repeated = batches.iter().cycle().take(REPEATS * BATCHES).cloned().collect();
        context.register_table(
            "rows",
            Arc::new(MemTable::try_new(Arc::clone(&schema), vec![repeated])?),
        )?;
    }
    for (what, sum, bytes) in [
        ("DOUBLE", "sum(amount)", 8),
        ("DOUBLE of any size", "sum(wild)", 8),
        ("BIGINT", "sum(cents)", 8),
        ("DECIMAL(18, 2)", "sum(price)", 16),
        ("avg of DOUBLE", "avg(amount)", 8),
    ] {
        for (key, keys) in [("partner", "1,000"), ("user", "1,000,000")] {
            for (context, whose) in [(&ours, "exact"), (&plain, "DataFusion's own")] {
                let query = format!("SELECT count(*), max(s) FROM (SELECT {key}, {sum} AS s FROM rows GROUP BY {key})");
                let timer = Timer::start();
                context.sql(&query).await?.collect().await?;
                timer.stop(&format!("{what} by {keys} keys, {whose}"), count, count * bytes);
            }
        }
    }
    let answer = ours.sql("SELECT sum(price) FROM rows").await?.collect().await?;
    let sum = answer.first().context("a sum is one row")?.column(0);
    let sum = sum.as_primitive::<Decimal128Type>().value(0);
    ensure!(
        sum == cents * REPEATS as i128,
        "the sum of {count} prices is {sum} cents, and not {cents} x {REPEATS}"
    );
    Ok(())
}

/// A million rows, and the sum of their prices in cents.
fn rows() -> anyhow::Result<(Vec<RecordBatch>, i128)> {
    let mut random = Random(7);
    let mut total = 0;
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let numbers: Vec<u64> = (0..BATCH).map(|_| random.next()).collect();
        let column = |of: fn(u64) -> i64| numbers.iter().map(|number| of(*number)).collect::<Int64Array>();
        let cents = column(|number| (number >> 20) as i64 % 1_000_000);
        let prices: Decimal128Array = cents.iter().map(|cents| cents.map(i128::from)).collect();
        total += cents.values().iter().map(|cents| i128::from(*cents)).sum::<i128>();
        let amounts: Float64Array = cents
            .iter()
            .map(|cents| cents.map(|cents| cents as f64 / 100.0))
            .collect();
        let wild: Float64Array = (numbers.iter())
            .map(|number| Some((number >> 12) as f64 * 10_f64.powi((number % 600) as i32 - 300)))
            .collect();
        let columns: [(&str, ArrayRef); 6] = [
            ("partner", Arc::new(column(|number| (number % 1_000) as i64))),
            ("user", Arc::new(column(|number| (number >> 8) as i64 % 1_000_000))),
            ("cents", Arc::new(cents)),
            ("price", Arc::new(prices.with_precision_and_scale(18, 2)?)),
            ("amount", Arc::new(amounts)),
            ("wild", Arc::new(wild)),
        ];
        let fields: Vec<Field> = (columns.iter())
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        batches.push(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?);
    }
    Ok((batches, total))
}
