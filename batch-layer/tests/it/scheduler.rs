//! Cron with zones, the ledger, catch-up and no overlap. Time is moved by hand.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::DateTime;
use foldline_batch_layer::{Alarm, Ledger, Outcome, Run, RunState, Schedule, ScheduleError, Scheduler, Started};
use foldline_event_log::Clock;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::faulty::{Fault, Faulty};

fn ms(instant: &str) -> i64 {
    DateTime::parse_from_rfc3339(instant).unwrap().timestamp_millis()
}

fn times(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
    let mut at = ms(after);
    let mut times = Vec::new();
    for _ in 0..count {
        at = schedule.next_after(at).unwrap();
        times.push(
            DateTime::from_timestamp_millis(at)
                .unwrap()
                .format("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
        );
    }
    times
}

fn berlin(expression: &str) -> Schedule {
    Schedule::parse(expression, Some("Europe/Berlin")).unwrap()
}

#[test]
fn seconds_come_first_and_utc_is_the_default() {
    let schedule = Schedule::parse("30 */20 * * * *", None).unwrap();
    let expected = ["2024-05-01T00:20:30Z", "2024-05-01T00:40:30Z", "2024-05-01T01:00:30Z"];
    assert_eq!(times(&schedule, "2024-05-01T00:00:30Z", 3), expected);
    assert_eq!(times(&schedule, "2024-05-01T00:00:29.5Z", 1), ["2024-05-01T00:00:30Z"]);
    assert_eq!(
        times(&Schedule::parse("@daily", None).unwrap(), "2024-05-01T00:00:00Z", 1),
        ["2024-05-02T00:00:00Z"]
    );
    let year = Schedule::parse("0 0 0 1 1 * 2025", None).unwrap();
    assert_eq!(times(&year, "2024-05-01T00:00:00Z", 1), ["2025-01-01T00:00:00Z"]);
    assert_eq!(year.next_after(ms("2025-01-01T00:00:00Z")), None);
}

#[test]
fn weekdays_are_names() {
    // 2024-05-01 is a Wednesday.
    let schedule = Schedule::parse("0 0 12 * * SUN,MON", None).unwrap();
    let expected = ["2024-05-05T12:00:00Z", "2024-05-06T12:00:00Z", "2024-05-12T12:00:00Z"];
    assert_eq!(times(&schedule, "2024-05-01T00:00:00Z", 3), expected);
    for weekdays in ["1", "1-5", "MON,3", "*/2"] {
        let error = Schedule::parse(&format!("0 0 12 * * {weekdays}"), None).unwrap_err();
        assert!(matches!(&error, ScheduleError::NumericWeekday { .. }));
        assert!(
            error
                .to_string()
                .contains("write weekdays by name, for example MON-FRI"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_what_to_write() {
    let five = Schedule::parse("*/10 * * * *", None).unwrap_err();
    assert!(
        five.to_string().contains("has 5 fields: write second, minute"),
        "{five}"
    );
    let zone = Schedule::parse("0 0 * * * *", Some("Berlin")).unwrap_err();
    assert!(zone.to_string().contains("IANA name"), "{zone}");
    let hour = Schedule::parse("0 0 25 * * *", None).unwrap_err();
    assert!(matches!(hour, ScheduleError::Expression { .. }), "{hour}");
}

#[test]
fn a_local_time_in_a_gap_runs_once_right_after_it() {
    // 2024-03-31: 02:00 becomes 03:00 in Berlin, which is 01:00 UTC.
    let half_past_two = berlin("0 30 2 * * *");
    let expected = ["2024-03-30T01:30:00Z", "2024-03-31T01:00:00Z", "2024-04-01T00:30:00Z"];
    assert_eq!(times(&half_past_two, "2024-03-29T12:00:00Z", 3), expected);
    // Several times in the gap, and one right after it: still once.
    let quarters = berlin("0 */15 2,3 * * *");
    let expected = ["2024-03-31T01:00:00Z", "2024-03-31T01:15:00Z", "2024-03-31T01:30:00Z"];
    assert_eq!(times(&quarters, "2024-03-31T00:00:00Z", 3), expected);
    // A gap of half an hour, in Lord Howe: 02:00 becomes 02:30, at 15:30 UTC.
    let lord_howe = Schedule::parse("0 10 2 * * *", Some("Australia/Lord_Howe")).unwrap();
    assert_eq!(times(&lord_howe, "2024-10-05T12:00:00Z", 1), ["2024-10-05T15:30:00Z"]);
    // A whole day that Samoa skipped, to the other side of the date line: 30 December 2011.
    let samoa = Schedule::parse("0 0 12 30 * *", Some("Pacific/Apia")).unwrap();
    assert_eq!(times(&samoa, "2011-12-29T00:00:00Z", 1), ["2011-12-30T10:00:00Z"]);
}

#[test]
fn a_local_time_that_comes_twice_runs_the_first_time() {
    // 2024-10-27: 03:00 becomes 02:00 in Berlin, at 01:00 UTC.
    let half_past_two = berlin("0 30 2 * * *");
    let expected = ["2024-10-26T00:30:00Z", "2024-10-27T00:30:00Z", "2024-10-28T01:30:00Z"];
    assert_eq!(times(&half_past_two, "2024-10-25T12:00:00Z", 3), expected);
    let quarters = berlin("0 */30 * * * *");
    let expected = [
        "2024-10-27T00:00:00Z",
        "2024-10-27T00:30:00Z",
        "2024-10-27T02:00:00Z",
        "2024-10-27T02:30:00Z",
    ];
    assert_eq!(times(&quarters, "2024-10-26T23:30:00Z", 4), expected);
    // Asked in the middle of the second hour: nothing of it.
    assert_eq!(times(&quarters, "2024-10-27T01:10:00Z", 1), ["2024-10-27T02:00:00Z"]);
}

#[test]
fn what_is_due_is_found_without_counting_through() {
    let schedule = Schedule::parse("0 */10 * * * *", None).unwrap();
    let (since, now) = (ms("2020-01-01T00:00:00Z"), ms("2024-05-01T12:34:56Z"));
    let due = (ms("2020-01-01T00:10:00Z"), ms("2024-05-01T12:30:00Z"));
    assert_eq!(schedule.due(since, now), Some(due));
    assert_eq!(schedule.due(now, now + 1000), None);
    assert_eq!(
        schedule
            .due(ms("2024-05-01T12:20:00Z"), ms("2024-05-01T12:30:00Z"))
            .unwrap()
            .0,
        due.1
    );
    assert_eq!(schedule.count_between(due.0, due.1), 1000, "counted up to a bound");
    assert_eq!(
        schedule.count_between(ms("2024-05-01T12:00:00Z"), ms("2024-05-01T12:30:00Z")),
        3
    );
}

#[derive(Debug, Clone)]
struct HandClock(watch::Sender<i64>);

impl HandClock {
    fn at(instant: &str) -> Self {
        Self(watch::Sender::new(ms(instant)))
    }

    fn set(&self, instant: &str) {
        self.0.send_replace(ms(instant));
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> i64 {
        *self.0.borrow()
    }
}

#[async_trait]
impl Alarm for HandClock {
    async fn sleep_until(&self, at_ms: i64) {
        let since = self.now_ms();
        let passed = |now: &i64| *now >= at_ms || *now < since;
        self.0.subscribe().wait_for(passed).await.unwrap();
    }
}

/// A scheduler at work whose jobs the test ends by hand.
struct Desk {
    clock: HandClock,
    ledger: Ledger,
    started: mpsc::UnboundedReceiver<Started>,
    end: mpsc::UnboundedSender<Outcome>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Desk {
    /// Every ten minutes, over `store`.
    fn open(store: Arc<dyn ObjectStore>, clock: &HandClock) -> Self {
        let ledger = Ledger::new(store);
        let schedule = Schedule::parse("0 */10 * * * *", None).unwrap();
        let scheduler = Scheduler::new(schedule, ledger.clone(), Arc::new(clock.clone()));
        let (say, started) = mpsc::unbounded_channel();
        let (end, ends) = mpsc::unbounded_channel();
        let ends = Arc::new(tokio::sync::Mutex::new(ends));
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move {
            let job = |run: Started| {
                say.send(run).unwrap();
                let ends = Arc::clone(&ends);
                async move { ends.lock().await.recv().await.unwrap() }
            };
            scheduler.run(stop, job).await;
        });
        Self {
            clock: clock.clone(),
            ledger,
            started,
            end,
            cancel,
            task,
        }
    }

    /// The scheduled times (first and last) of the next run.
    async fn next(&mut self) -> (i64, i64) {
        let run = self.started.recv().await.unwrap();
        (run.first_scheduled_ms.unwrap(), run.scheduled_ms.unwrap())
    }

    /// Lets everything happen that can happen without time moving on.
    async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    async fn close(self) -> Vec<Run> {
        self.cancel.cancel();
        self.task.await.unwrap();
        self.ledger.history(100).await.unwrap()
    }
}

fn times_of(instant: &str) -> (i64, i64) {
    (ms(instant), ms(instant))
}

#[tokio::test]
async fn each_time_runs_once_and_is_remembered() {
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::new(InMemory::new()), &clock);
    desk.settle().await;
    assert!(desk.started.is_empty(), "the first start catches up on nothing");
    for (instant, outcome) in [
        ("2024-05-01T00:10:00Z", Outcome::Published(1)),
        ("2024-05-01T00:20:00Z", Outcome::NothingNew),
        ("2024-05-01T00:30:00Z", Outcome::Failed("no rows".to_owned())),
    ] {
        clock.set(instant);
        assert_eq!(desk.next().await, times_of(instant));
        desk.end.send(outcome).unwrap();
        desk.settle().await;
        assert!(
            desk.started.is_empty(),
            "once, and a failed run is not repeated before its next time"
        );
    }
    let states: Vec<RunState> = desk.close().await.into_iter().map(|run| run.state).collect();
    let expected = [
        Outcome::Failed("no rows".to_owned()),
        Outcome::NothingNew,
        Outcome::Published(1),
    ];
    assert_eq!(states, expected.map(RunState::Finished));
}

#[tokio::test]
async fn missed_times_are_caught_up_by_one_run() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.next().await;
    desk.end.send(Outcome::Published(1)).unwrap();
    desk.settle().await;
    desk.close().await;

    clock.set("2024-05-01T05:05:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    assert_eq!(
        desk.next().await,
        (ms("2024-05-01T00:20:00Z"), ms("2024-05-01T05:00:00Z"))
    );
    desk.end.send(Outcome::Published(2)).unwrap();
    desk.settle().await;
    assert!(desk.started.is_empty(), "exactly one run");
    clock.set("2024-05-01T05:10:00Z");
    assert_eq!(desk.next().await, times_of("2024-05-01T05:10:00Z"));
    let history = desk.close().await;
    assert_eq!(history.len(), 3);
    assert_eq!(history[1].started.skipped, 28);

    // Times missed before anything ever ran count from the first start.
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    clock.set("2024-05-01T00:00:00Z");
    let desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    desk.close().await;
    clock.set("2024-05-01T00:25:00Z");
    let mut desk = Desk::open(store, &clock);
    assert_eq!(
        desk.next().await,
        (ms("2024-05-01T00:10:00Z"), ms("2024-05-01T00:20:00Z"))
    );
}

#[tokio::test]
async fn times_during_a_run_are_skipped_and_caught_up_right_after_it() {
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::new(InMemory::new()), &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.next().await;
    clock.set("2024-05-01T00:35:00Z");
    desk.settle().await;
    assert!(desk.started.is_empty(), "no overlap");
    assert_eq!(desk.ledger.history(1).await.unwrap()[0].state, RunState::Running);
    desk.end.send(Outcome::Published(1)).unwrap();
    assert_eq!(
        desk.next().await,
        (ms("2024-05-01T00:20:00Z"), ms("2024-05-01T00:30:00Z"))
    );
    desk.end.send(Outcome::Published(2)).unwrap();
    desk.settle().await;
    assert!(desk.started.is_empty());
    assert_eq!(desk.close().await[0].started.skipped, 1);
}

#[tokio::test]
async fn a_run_by_hand_and_a_scheduled_one_do_not_overlap() {
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::new(InMemory::new()), &clock);
    desk.settle().await;
    let gate = desk.ledger.gate().await;
    let by_hand = desk.ledger.start_by_hand(clock.now_ms()).await.unwrap();
    clock.set("2024-05-01T00:10:00Z");
    desk.settle().await;
    assert!(desk.started.is_empty());
    desk.ledger
        .finish(&by_hand, Outcome::Published(1), clock.now_ms())
        .await
        .unwrap();
    drop(gate);
    desk.next().await;
    desk.end.send(Outcome::NothingNew).unwrap();
    desk.settle().await;
    let history = desk.close().await;
    assert_eq!(
        history
            .iter()
            .map(|run| run.started.scheduled_ms.is_some())
            .collect::<Vec<_>>(),
        [true, false]
    );
}

#[tokio::test]
async fn a_run_that_died_is_visible_and_caught_up() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.next().await;
    desk.task.abort();

    let other = Ledger::new(Arc::clone(&store));
    assert_eq!(other.history(10).await.unwrap()[0].state, RunState::Died);
    // Before the next time and after it: the time of the dead run is made good, once.
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    assert_eq!(desk.next().await, times_of("2024-05-01T00:10:00Z"));
    desk.end.send(Outcome::Published(1)).unwrap();
    desk.settle().await;
    let history = desk.close().await;
    let states: Vec<_> = history.iter().map(|run| run.state.clone()).collect();
    assert_eq!(states, [RunState::Finished(Outcome::Published(1)), RunState::Died]);
    let desk = Desk::open(store, &clock);
    desk.settle().await;
    assert!(desk.started.is_empty());
}

#[tokio::test]
async fn a_run_that_was_stopped_says_so_and_is_caught_up() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.next().await;
    let history = desk.close().await;
    assert_eq!(history[0].state, RunState::Finished(Outcome::Stopped));
    clock.set("2024-05-01T00:20:00Z");
    let mut desk = Desk::open(store, &clock);
    assert_eq!(
        desk.next().await,
        (ms("2024-05-01T00:10:00Z"), ms("2024-05-01T00:20:00Z"))
    );
}

#[tokio::test]
async fn of_two_schedulers_one_runs_each_time() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desks = [Desk::open(Arc::clone(&store), &clock), Desk::open(store, &clock)];
    desks[0].settle().await;
    for minute in 1..6 {
        clock.set(&format!("2024-05-01T00:{minute}0:00Z").replace("00:60", "01:00"));
        desks[0].settle().await;
        let ran = desks.iter_mut().filter_map(|desk| desk.started.try_recv().ok()).count();
        assert_eq!(ran, 1, "at minute {minute}0");
        for desk in &desks {
            let _ = desk.end.send(Outcome::NothingNew);
        }
        desks[0].settle().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_nothing_up() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // The clock is a month ahead, and is set right while the scheduler waits.
    let clock = HandClock::at("2024-06-01T00:00:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    clock.set("2024-06-01T00:10:00Z");
    assert_eq!(desk.next().await, times_of("2024-06-01T00:10:00Z"));
    desk.end.send(Outcome::Published(1)).unwrap();
    desk.settle().await;
    clock.set("2024-05-01T00:05:00Z");
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    assert_eq!(desk.next().await, times_of("2024-05-01T00:10:00Z"));
    desk.end.send(Outcome::NothingNew).unwrap();
    desk.settle().await;
    desk.close().await;
    // Another start: what the ledger remembers of the month ahead is not when runs go on.
    let mut desk = Desk::open(store, &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:20:00Z");
    assert_eq!(desk.next().await, times_of("2024-05-01T00:20:00Z"));
}

#[tokio::test]
async fn a_ledger_that_is_pruned_before_anything_was_scheduled_catches_up_as_ever() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let ledger = Ledger::new(Arc::clone(&store));
    for second in 0..4 {
        let run = ledger.start_by_hand(clock.now_ms() + second).await.unwrap();
        ledger.finish(&run, Outcome::NothingNew, run.started_ms).await.unwrap();
    }
    assert!(ledger.prune(1).await.unwrap() > 0);
    let mut desk = Desk::open(store, &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.settle().await;
    assert_eq!(desk.started.try_recv().unwrap().scheduled_ms, Some(clock.now_ms()));
}

#[tokio::test]
async fn a_ledger_that_fails_is_tried_again() {
    let store = Faulty::new(Arc::new(InMemory::new()));
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    store.plan("runs/", &[Fault::Refused]);
    let mut desk = Desk::open(Arc::new(store.clone()), &clock);
    desk.settle().await;
    assert_eq!(store.faults_left(), 0);
    clock.set("2024-05-01T00:00:10Z");
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    assert_eq!(desk.next().await, times_of("2024-05-01T00:10:00Z"));
    assert!(desk.clock.now_ms() > 0);
}

#[tokio::test]
async fn the_ledger_forgets_old_runs_but_not_where_catch_up_begins() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::at("2024-05-01T00:00:00Z");
    let mut desk = Desk::open(Arc::clone(&store), &clock);
    desk.settle().await;
    clock.set("2024-05-01T00:10:00Z");
    desk.next().await;
    desk.end.send(Outcome::Published(1)).unwrap();
    desk.settle().await;
    desk.close().await;
    let ledger = Ledger::new(Arc::clone(&store));
    for second in 0..7 {
        let run = ledger.start_by_hand(ms("2024-05-01T00:11:00Z") + second).await.unwrap();
        ledger.finish(&run, Outcome::NothingNew, run.started_ms).await.unwrap();
    }
    let now_ms = clock.now_ms();
    let before = ledger.done_until(now_ms).await.unwrap();
    assert_eq!(before, ms("2024-05-01T00:10:00Z"));
    assert_eq!(ledger.prune(3).await.unwrap(), 8);
    assert_eq!(ledger.history(100).await.unwrap().len(), 4);
    assert_eq!(ledger.done_until(now_ms).await.unwrap(), before);
    assert_eq!(ledger.prune(3).await.unwrap(), 0);

    // A record of another version is named.
    let path = Path::from("runs/00000000000000000001-0000000000.started.json");
    store
        .put(&path, PutPayload::from_static(br#"{"version":9}"#))
        .await
        .unwrap();
    let text = ledger.history(100).await.unwrap_err().to_string();
    assert!(text.contains(path.as_ref()) && text.contains("version 9"), "{text}");
}

#[tokio::test]
async fn loads_are_recorded_beside_runs_and_forgotten_with_them() {
    let ledger = Ledger::new(Arc::new(InMemory::new()));
    ledger.load_ended(7, Some("it is away".into()), 10).await.unwrap();
    ledger.load_ended(7, Some("it is still away".into()), 20).await.unwrap();
    let told = |loads: &std::collections::BTreeMap<u64, foldline_batch_layer::scheduler::Loaded>, generation: u64| {
        loads[&generation].error.clone()
    };
    assert_eq!(
        told(&ledger.loads(9).await.unwrap(), 7).as_deref(),
        Some("it is away"),
        "the first reason stays"
    );
    ledger.load_ended(7, None, 30).await.unwrap();
    ledger.load_ended(7, None, 40).await.unwrap();
    let loads = ledger.loads(9).await.unwrap();
    assert_eq!((told(&loads, 7), loads[&7].at_ms), (None, 30));
    for generation in 8..12 {
        ledger.load_ended(generation, None, 50).await.unwrap();
    }
    assert_eq!(ledger.loads(2).await.unwrap().into_keys().collect::<Vec<_>>(), [10, 11]);
    assert!(ledger.history(9).await.unwrap().is_empty(), "they are no runs");
    assert_eq!(ledger.prune(3).await.unwrap(), 3, "two records of 7, one of 8");
    assert_eq!(
        ledger.loads(9).await.unwrap().into_keys().collect::<Vec<_>>(),
        [9, 10, 11]
    );
}
