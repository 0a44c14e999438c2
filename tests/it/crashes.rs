//! `kill -9` at random moments of import, archive, recompute, publication and adoption.
//!
//! A platform with very short intervals is fed by an import, killed, and started again, round after round: the import goes
//! on where it stopped, and after every round the audit must say equal. In the end every row is there exactly once.
//! `FOLDLINE_SOAK` makes many rounds of it.

use std::process::Stdio;
use std::time::Duration;

use crate::installation::Folder;

const ROWS: u64 = 60_000;
const ROUNDS: u64 = 4;
const ROUNDS_SOAK: u64 = 50;
/// A round ends within this after its start.
const KILL_WITHIN_MS: u64 = 2_500;
const TOTALS: &str = "SELECT count(*) AS pages, sum(visits) AS visits, sum(seconds) AS seconds FROM pages";

/// A sequence of numbers that looks random, from a printed seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[test]
fn soak_of_kills_loses_and_repeats_nothing() {
    soak(&Folder::new(), "");
}

/// Kills a foldline in `folder` again and again; `log` are the settings of its log.
pub(crate) fn soak(folder: &Folder, log: &str) {
    let soak = std::env::var_os("FOLDLINE_SOAK").is_some();
    let seed = std::env::var("FOLDLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("FOLDLINE_SEED={seed}");
    kill_and_verify(folder, log, if soak { ROUNDS_SOAK } else { ROUNDS }, &mut Dice(seed));
}

/// So many rounds of kills, and in the end every row exactly once.
pub(crate) fn kill_and_verify(folder: &Folder, log: &str, rounds: u64, dice: &mut Dice) {
    let settings = "[archive]\nroll_age_ms = 200\n[speed]\ncut_every_ms = 50\ncheckpoint_every_ms = 300\n\
                    [serve]\nlongest_query_ms = 5000\n";
    folder.set(&format!(
        "{log}{settings}[batch]\nkeep = 2\nschedule = \"* * * * * *\"\n"
    ));
    let lines: String = (0..ROWS)
        .map(|row| {
            let (page, day, hour) = (row % 97, 1 + row / (ROWS / 3 + 1), row % 24);
            format!("{{\"visit_id\":\"v{row}\",\"page\":\"/{page}\",\"seconds\":{},\"at\":\"2026-03-0{day}T{hour:02}:00:00Z\"}}\n", row % 11)
        })
        .collect();
    std::fs::write(folder.path().join("visits.ndjson"), lines).unwrap();

    for round in 0..rounds {
        let running = folder.start();
        let mut import = folder
            .command(&["import", "visits.ndjson", "--stream", "visits", "--rate", "8000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let alive_ms = dice.below(KILL_WITHIN_MS);
        std::thread::sleep(Duration::from_millis(alive_ms));
        running.kill_minus_9();
        drop(import.kill());
        drop(import.wait());
        println!("round {round}: killed after {alive_ms} ms");
        folder.ok(&["verify", "--all"]);
    }
    // A scheduled run would only be in the way of the one by hand.
    folder.set(&format!("{log}{settings}[batch]\nschedule = \"\"\n"));
    let running = folder.start();
    folder.ok(&["import", "visits.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run", "--full"]);
    let seconds: u64 = (0..ROWS).map(|row| row % 11).sum();
    let expected = format!("pages,visits,seconds\n97,{ROWS},{seconds}\n");
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), expected);
    folder.ok(&["verify", "--all"]);
    folder.ok(&["archive", "audit"]);
    // Unique keys hide a row that was appended twice: the raw rows tell.
    let raw = "SELECT count(*) AS n, count(DISTINCT visit_id) AS ids FROM visits";
    assert_eq!(
        folder.ok(&["query", raw, "--format", "csv"]),
        format!("n,ids\n{ROWS},{ROWS}\n")
    );
    running.terminate();
}
