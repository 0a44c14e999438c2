//! One setting bounds what a process holds in memory.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::installation::{Folder, Running};
use crate::servers::not_archived;

pub(crate) const MIB: u64 = 1 << 20;
const PARTITIONS: u32 = 16;
const DATES: u32 = 400;
const ROWS: u32 = 50_000;

/// The most that the process ever held, as the system counts.
pub(crate) fn held_at_most(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_is_bounded_however_many_dates_and_partitions_are_archived() {
    let folder = Folder::new();
    folder.with_partitions(PARTITIONS);
    folder.set(&format!(
        "memory_bytes = {}\n[archive]\nroll_age_ms = 3000\n[batch]\nschedule = \"\"\n",
        512 * MIB
    ));
    let file = std::fs::File::create(folder.path().join("visits.ndjson")).unwrap();
    let mut file = std::io::BufWriter::new(file);
    let padding = "x".repeat(500);
    for row in 0..ROWS {
        // Every partition has every date from the beginning to the end.
        let (day, page) = (row % DATES, row / 7 % 997);
        let date = chrono::NaiveDate::from_num_days_from_ce_opt(739_000 + day as i32).unwrap();
        writeln!(
            file,
            "{{\"visit_id\":\"v{row}\",\"page\":\"/{page}\",\"seconds\":1,\"at\":\"{date}T10:00:00Z\",\"more\":\"{padding}\"}}"
        )
        .unwrap();
    }
    drop(file);
    let running = folder.start().ready();
    folder.ok(&["import", "visits.ndjson", "--stream", "visits", "--wait"]);
    let since = Instant::now();
    while not_archived(&folder) > 0 {
        assert!(since.elapsed() < Duration::from_secs(180));
        std::thread::sleep(Duration::from_millis(200));
    }
    let held = held_at_most(&running) / MIB;
    println!("at most {held} MiB for {ROWS} rows of {DATES} dates in {PARTITIONS} partitions");
    assert!(held < 512, "{held} MiB");
    running.terminate();
}
