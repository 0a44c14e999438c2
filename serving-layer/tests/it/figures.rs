//! Figures, not checks: run with `--ignored --nocapture`.

use std::time::{Duration, Instant};

use foldline_serving_layer::{Filter, Mode, ReadRequest};

use crate::platform::{PARTITIONS, PIPELINE, Platform, at, random_log};

fn quantiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{name}: p50 {:?}, p99 {:?}, most {:?}", at(0.5), at(0.99), at(1.0));
}

#[tokio::test]
#[ignore = "prints figures"]
async fn point_reads_among_100_000_keys() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 1, 200_000 / PARTITIONS as usize, 100_000);
    let cuts = at(&[(0, 40_000), (1, 40_000), (2, 40_000)]);
    platform.seam_at(&log, &cuts, &ends, 1).await;
    for view in ["users", "days"] {
        let mut times = Vec::new();
        for read in 0..1100 {
            let request = ReadRequest {
                filters: vec![Filter::parse("user_id", &format!("u{}", read * 89 % 100_000))],
                ..ReadRequest::default()
            };
            let since = Instant::now();
            platform.serving.read_view(view, request, Mode::Merged).await.unwrap();
            times.push(since.elapsed());
        }
        quantiles(&format!("point read of {view}"), times.split_off(100));
    }
    let since = Instant::now();
    let answer = platform
        .serving
        .sql("SELECT count(*), sum(n) FROM users", Mode::Merged)
        .await
        .unwrap();
    println!(
        "first whole finish of users: {:?} ({} rows)",
        since.elapsed(),
        answer.rows()
    );
    let mut times = Vec::new();
    for read in 0..50 {
        let since = Instant::now();
        let sql = format!("SELECT * FROM users WHERE user_id = 'u{read}'");
        platform.serving.sql(&sql, Mode::Merged).await.unwrap();
        times.push(since.elapsed());
    }
    quantiles("point read of users by SQL", times);
}
