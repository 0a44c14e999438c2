//! Boundaries, without folds: what thins out, what stays, what is dropped.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use foldline_event_log::{Cut, Partition, keeps_boundary};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const CUT_EVERY: i64 = 10;

fn partition() -> TopicPartition {
    TopicPartition {
        topic: "clicks".to_owned(),
        incarnation: Uuid::nil(),
        partition: Partition(0),
    }
}

fn empty() -> Accumulator {
    let start = Start {
        next: Offset(0),
        marks: MarkState::default(),
    };
    Accumulator::new(partition(), Arc::new(Vec::new()), start)
}

fn batch(offsets: Range<u64>, tick: i64) -> EventBatch {
    EventBatch {
        partition: partition(),
        offsets: Offset(offsets.start)..Offset(offsets.end),
        tick: Tick(tick),
        rows: RecordBatch::new_empty(Arc::new(Schema::empty())),
        dead_letters: Vec::new(),
        nulled: Vec::new(),
        marks: MarkState::default(),
        raw_bytes: 0,
    }
}

fn retention(floor: Option<i64>, protected: impl IntoIterator<Item = i64>) -> Retention {
    Retention {
        floor: Cut {
            tick: floor.map(Tick),
            partitions: Vec::new(),
        },
        protected: Some(protected.into_iter().map(Tick).collect()),
        gaps: Default::default(),
    }
}

/// Folds one batch of one offset per tick, thinning out after each as the partition's task does.
fn folded(ticks: &[i64], retention: &Retention, floor: Offset) -> Accumulator {
    let mut state = empty();
    for (offset, tick) in (0..).zip(ticks) {
        let batch = batch(offset..offset + 1, *tick);
        futures::executor::block_on(state.append(&batch)).expect("the batches follow each other");
        while state.thin(retention, floor, CUT_EVERY, 2) {}
    }
    state
}

/// Ticks cut at the boundary between `before` and `after`, one by one.
fn ticks_between(before: i64, after: i64) -> impl Iterator<Item = Tick> {
    (1..)
        .map(move |step| Tick(before + step * CUT_EVERY))
        .take_while(move |tick| tick.0 <= after)
}

proptest! {
    #[test]
    fn boundaries_thin_out_but_for_those_that_somebody_needs(
        gaps in prop::collection::vec(prop_oneof![8 => 1i64..3, 1 => 1i64..700], 1..250),
        protected in prop::collection::btree_set(0i64..3000, 0..6),
        floor in 0u64..250,
    ) {
        let ticks: Vec<i64> = gaps.iter().scan(0, |tick, gap| { *tick += gap * CUT_EVERY; Some(*tick) }).collect();
        let protected: BTreeSet<i64> = protected.into_iter().map(|tick| tick * CUT_EVERY).collect();
        let state = folded(&ticks, &retention(None, protected.iter().copied()), Offset(floor));

        let ends: BTreeSet<u64> = state.pieces().iter().map(|piece| piece.offsets.end.0).collect();
        let mut until = Offset(0);
        for piece in state.pieces() {
            prop_assert_eq!(piece.offsets.start, until);
            prop_assert_eq!(piece.ticks.0, Tick(ticks[piece.offsets.start.0 as usize]));
            prop_assert_eq!(piece.ticks.1, Tick(ticks[piece.offsets.end.0 as usize - 1]));
            until = piece.offsets.end;
        }
        prop_assert_eq!(until, Offset(ticks.len() as u64));

        let newest = Tick(*ticks.last().expect("one at least"));
        for (offset, pair) in (1u64..).zip(ticks.windows(2)) {
            let needed = ticks_between(pair[0], pair[1])
                .any(|tick| protected.contains(&tick.0) || keeps_boundary(tick, newest, CUT_EVERY));
            let open = offset as usize == ticks.len() - 1;
            prop_assert_eq!(ends.contains(&offset), needed || offset == floor || open, "boundary {}", offset);
        }
    }
}

#[test]
fn a_day_of_ticks_leaves_few_segments() {
    let ticks: Vec<i64> = (0..8_640).map(|tick| tick * CUT_EVERY).collect();
    let state = folded(&ticks, &retention(None, []), Offset(0));
    assert!(state.pieces().len() < 110, "{} segments", state.pieces().len());
    assert!(state.pieces().len() > 60, "{} segments", state.pieces().len());
}

#[test]
fn before_the_first_retain_no_boundary_goes() {
    let ticks: Vec<i64> = (0..500).map(|tick| tick * CUT_EVERY).collect();
    let unknown = Retention {
        protected: None,
        ..retention(None, [])
    };
    assert_eq!(folded(&ticks, &unknown, Offset(0)).pieces().len(), 500);
}

#[test]
fn only_segments_wholly_below_the_floor_are_dropped() {
    let ticks: Vec<i64> = (0..30).map(|tick| tick * CUT_EVERY).collect();
    let mut state = folded(&ticks, &retention(None, []), Offset(0));
    let straddling = state
        .pieces()
        .iter()
        .find(|piece| piece.offsets.end.0 - piece.offsets.start.0 > 1);
    let straddling = straddling.expect("30 ticks thin out").offsets.clone();
    assert!(
        !state.drop_below(straddling.start),
        "nothing lies below the first segment"
    );
    state.drop_below(Offset(straddling.start.0 + 1));
    assert_eq!(state.pieces()[0].offsets, straddling);
    assert!(!state.has_boundary_at(Offset(straddling.start.0 + 1)));
    state.drop_below(straddling.end);
    assert_eq!(state.start().next, straddling.end);
    assert_eq!(state.pieces()[0].offsets.start, straddling.end);
    state.drop_below(Offset(1_000));
    assert_eq!(state.until(), Offset(30), "what is folded stays folded");
    assert!(state.pieces().is_empty());
}

#[test]
fn a_batch_out_of_order_is_refused() {
    let mut state = folded(&[0, 10], &retention(None, []), Offset(0));
    let gap = futures::executor::block_on(state.append(&batch(3..4, 20))).expect_err("offset 2 is missing");
    assert_eq!(
        gap.to_string(),
        "the reader of clicks/0 handed out offsets 3..4 of tick 20 where offset 2 of tick Some(Tick(10)) or later was next"
    );
    assert!(
        futures::executor::block_on(state.append(&batch(1..2, 20))).is_err(),
        "an overlap"
    );
    assert!(
        futures::executor::block_on(state.append(&batch(2..3, 0))).is_err(),
        "a tick that is over"
    );
    assert_eq!(state.until(), Offset(2));
}
