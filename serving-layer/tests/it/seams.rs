//! The table of accepted and refused cases, row by row, with both ends named.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldline_batch_layer::{Generation, GenerationNumber, RunKind};
use foldline_event_log::{Cut, MarkState, Offset, Partition, PartitionCut, RecordTime, Tick, TopicPartition};
use foldline_serving_layer::seam::{at_cut, close};
use foldline_serving_layer::{Gap, Place, Seam, SeamError};
use foldline_speed_layer::{PartitionView, Segment, Snapshot};
use uuid::Uuid;

fn partition(number: u32) -> TopicPartition {
    incarnation(number, 1)
}

fn incarnation(number: u32, life: u128) -> TopicPartition {
    TopicPartition {
        topic: "reviews".to_owned(),
        incarnation: Uuid::from_u128(life),
        partition: Partition(number),
    }
}

fn place(number: u32, origin: u64) -> Place {
    Place {
        partition: partition(number),
        origin: Offset(origin),
    }
}

/// A generation whose cut names these partitions; the largest event time is the offset.
fn generation(number: u64, cuts: &[(TopicPartition, u64)]) -> Arc<Generation> {
    let partitions = cuts.iter().map(|(partition, next)| PartitionCut {
        partition: partition.clone(),
        next: Offset(*next),
        marks: MarkState {
            record_time: None,
            max_event_time: Some(*next as i64),
        },
    });
    Arc::new(Generation {
        version: 1,
        number: GenerationNumber(number),
        attempt: Uuid::from_u128(number.into()),
        cut: Cut {
            tick: Some(Tick(1000 * number as i64)),
            partitions: partitions.collect(),
        },
        views: BTreeMap::new(),
        failed: BTreeMap::new(),
        based_on: None,
        kind: RunKind::Full,
        published_ms: 0,
    })
}

fn segment(start: u64, end: u64) -> Arc<Segment> {
    Arc::new(Segment {
        offsets: Offset(start)..Offset(end),
        ticks: (Tick(0), Tick(0)),
        views: HashMap::new(),
        failed: HashMap::new(),
        marks: MarkState {
            record_time: None,
            max_event_time: Some(end as i64),
        },
    })
}

/// A partition, its segments from start to end, and until where it is folded.
type Folded<'a> = (TopicPartition, &'a [(u64, u64)], u64);

fn speed(partitions: &[Folded<'_>]) -> Snapshot {
    let view = |segments: &[(u64, u64)], until: u64| {
        Arc::new(PartitionView {
            segments: segments.iter().map(|(start, end)| segment(*start, *end)).collect(),
            until: Offset(until),
            read_to: Offset(until),
            end: Offset(until),
            complete_to: Some(RecordTime(5000)),
            replaying_to: None,
            stopped: None,
        })
    };
    let partitions = partitions.iter();
    Snapshot {
        partitions: partitions
            .map(|(partition, segments, until)| (partition.clone(), view(segments, *until)))
            .collect(),
    }
}

/// One partition, cut at 100, origin 0.
fn one(segments: &[(u64, u64)], until: u64) -> Result<Seam, SeamError> {
    let generations = [generation(7, &[(partition(0), 100)])];
    close(&generations, &speed(&[(partition(0), segments, until)]), &[place(0, 0)])
}

fn chain(seam: &Seam, number: u32) -> Vec<(u64, u64)> {
    let chain = seam.partitions[&partition(number)].chain.iter();
    chain
        .map(|segment| (segment.offsets.start.0, segment.offsets.end.0))
        .collect()
}

fn only_gap(result: Result<Seam, SeamError>) -> (Gap, String) {
    let error = result.expect_err("the seam must not close");
    let text = error.to_string();
    let [tried] = error.tried.as_slice() else {
        panic!("{text}")
    };
    let [(_, gap)] = tried.gaps.as_slice() else {
        panic!("{text}")
    };
    (gap.clone(), text)
}

#[test]
fn touching_segments_close() {
    let seam = one(&[(100, 150), (150, 170)], 170).unwrap();
    assert_eq!(chain(&seam, 0), [(100, 150), (150, 170)]);
    let closed = &seam.partitions[&partition(0)];
    assert_eq!((closed.cut, closed.until), (Offset(100), Offset(170)));
    assert_eq!(seam.as_of(), Some(170));
}

#[test]
fn segments_before_the_cut_lie_outside_the_chain() {
    let seam = one(&[(50, 80), (80, 100), (100, 170)], 170).unwrap();
    assert_eq!(chain(&seam, 0), [(100, 170)]);
}

#[test]
fn an_empty_chain_closes_where_speed_ends_at_the_cut() {
    for segments in [&[(50, 100)][..], &[]] {
        let seam = one(segments, 100).unwrap();
        assert!(chain(&seam, 0).is_empty());
        assert_eq!(seam.partitions[&partition(0)].until, Offset(100));
        assert_eq!(seam.as_of(), Some(100));
    }
}

#[test]
fn a_partition_that_the_cut_does_not_name_stands_at_its_origin() {
    let generations = [generation(7, &[(partition(0), 100)])];
    let snapshot = speed(&[(partition(0), &[(100, 110)], 110), (partition(1), &[(7, 20)], 20)]);
    let seam = close(&generations, &snapshot, &[place(0, 0), place(1, 7)]).unwrap();
    assert_eq!(chain(&seam, 1), [(7, 20)]);
    assert_eq!(seam.partitions[&partition(1)].cut, Offset(7));
    // Had it an origin elsewhere, the same segments would not do.
    let error = close(&generations, &snapshot, &[place(0, 0), place(1, 5)]).unwrap_err();
    assert_eq!(error.tried[0].gaps.len(), 1);
    assert_eq!(error.tried[0].gaps[0].0, partition(1));
}

#[test]
fn without_a_generation_everything_comes_from_the_origins() {
    let snapshot = speed(&[(partition(0), &[(7, 20)], 20)]);
    let seam = close(&[], &snapshot, &[place(0, 7)]).unwrap();
    assert!(seam.generation.is_none() && seam.batch_is_empty());
    assert_eq!(chain(&seam, 0), [(7, 20)]);
    let (gap, text) = only_gap(close(&[], &snapshot, &[place(0, 3)]));
    assert!(matches!(gap, Gap::Hole { reached: Offset(3), .. }));
    assert!(text.contains("no generation") && text.contains("7..20"), "{text}");
}

#[test]
fn holes_are_refused_with_both_ends() {
    let hole = |segments: &[(u64, u64)], until| match only_gap(one(segments, until)) {
        (
            Gap::Hole {
                reached, before, after, ..
            },
            text,
        ) => {
            assert!(text.contains("generation 7: reviews/0"), "{text}");
            assert!(text.contains("100"), "{text}");
            (
                reached.0,
                before.map(|before| (before.start.0, before.end.0)),
                (after.start.0, after.end.0),
            )
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(hole(&[(50, 170)], 170), (100, Some((50, 170)), (170, 170)));
    assert_eq!(
        hole(&[(100, 150), (160, 170)], 170),
        (150, Some((100, 150)), (160, 170))
    );
    assert_eq!(hole(&[(110, 170)], 170), (100, None, (110, 170)));
    assert_eq!(hole(&[(50, 90), (110, 170)], 170), (100, Some((50, 90)), (110, 170)));
    assert_eq!(hole(&[(100, 150)], 170), (150, Some((100, 150)), (170, 170)));
    assert_eq!(hole(&[], 170), (100, None, (170, 170)));
}

#[test]
fn an_overlap_is_refused_with_both_ends() {
    let (gap, text) = only_gap(one(&[(100, 150), (140, 170)], 170));
    assert!(matches!(gap, Gap::Overlap { .. }));
    assert!(text.contains("100..150 and 140..170 overlap"), "{text}");
    let (gap, _) = only_gap(one(&[(100, 150), (100, 170)], 170));
    assert!(matches!(gap, Gap::Overlap { .. }));
}

#[test]
fn batch_ahead_of_speed_is_refused_with_both_ends() {
    let (gap, text) = only_gap(one(&[(50, 90)], 90));
    assert_eq!(
        gap,
        Gap::BatchAhead {
            cut: Offset(100),
            until: Offset(90)
        }
    );
    assert!(
        text.contains("batch ends at 100") && text.contains("ends at 90"),
        "{text}"
    );
}

#[test]
fn a_missing_partition_is_refused() {
    let generations = [generation(7, &[(partition(0), 100), (partition(1), 30)])];
    let snapshot = speed(&[(partition(0), &[(100, 170)], 170)]);
    let (gap, text) = only_gap(close(&generations, &snapshot, &[place(0, 0), place(1, 0)]));
    assert_eq!(gap, Gap::NotFolded { cut: Offset(30) });
    assert!(text.contains("reviews/1"), "{text}");
}

#[test]
fn another_incarnation_is_refused_on_either_side() {
    let places = [place(0, 0)];
    let snapshot = speed(&[(incarnation(0, 2), &[(100, 170)], 170)]);
    let generations = [generation(7, &[(partition(0), 100)])];
    let (gap, _) = only_gap(close(&generations, &snapshot, &places));
    assert!(matches!(gap, Gap::OtherIncarnation { holder: "speed", .. }));

    let generations = [generation(7, &[(incarnation(0, 2), 100)])];
    let snapshot = speed(&[(partition(0), &[(0, 170)], 170)]);
    let (gap, text) = only_gap(close(&generations, &snapshot, &places));
    assert!(matches!(gap, Gap::OtherIncarnation { holder: "batch", .. }));
    assert!(text.contains(&Uuid::from_u128(1).to_string()), "{text}");
    assert!(text.contains(&Uuid::from_u128(2).to_string()), "{text}");
    assert!(at_cut(&generations[0], &places).is_err());
}

#[test]
fn batch_rows_of_a_partition_that_the_topic_has_not_are_refused() {
    let generations = [generation(7, &[(partition(0), 100), (partition(1), 30)])];
    let snapshot = speed(&[(partition(0), &[(100, 170)], 170)]);
    let (gap, _) = only_gap(close(&generations, &snapshot, &[place(0, 0)]));
    assert_eq!(gap, Gap::NotInLog { cut: Offset(30) });
    assert!(at_cut(&generations[0], &[place(0, 0)]).is_err());
}

#[test]
fn partitions_of_other_topics_do_not_matter() {
    let mut other = partition(0);
    other.topic = "shop".to_owned();
    let generations = [generation(7, &[(partition(0), 100), (other, 10_000)])];
    let snapshot = speed(&[(partition(0), &[(100, 170)], 170)]);
    let seam = close(&generations, &snapshot, &[place(0, 0)]).unwrap();
    assert_eq!(seam.partitions.len(), 1);
    assert_eq!(seam.as_of(), Some(170), "nor do their event times");
}

#[test]
fn the_next_older_generation_is_taken_whole() {
    // Generation 8 closes in partition 0 and not in partition 1, so 7 answers for both.
    let generations = [
        generation(8, &[(partition(0), 150), (partition(1), 60)]),
        generation(7, &[(partition(0), 100), (partition(1), 30)]),
        generation(6, &[(partition(0), 10), (partition(1), 10)]),
    ];
    let snapshot = speed(&[
        (partition(0), &[(100, 150), (150, 170)], 170),
        (partition(1), &[(30, 70)], 70),
    ]);
    let places = [place(0, 0), place(1, 0)];
    let seam = close(&generations, &snapshot, &places).unwrap();
    assert_eq!(seam.generation.as_ref().unwrap().number, GenerationNumber(7));
    assert_eq!(chain(&seam, 0), [(100, 150), (150, 170)]);
    assert_eq!(chain(&seam, 1), [(30, 70)]);

    let error = close(&[generations[0].clone(), generations[2].clone()], &snapshot, &places).unwrap_err();
    let numbers: Vec<_> = error.tried.iter().map(|tried| tried.generation.unwrap().0).collect();
    assert_eq!(numbers, [8, 6], "every one tried is named");
    let text = error.to_string();
    assert!(text.contains("generation 8: reviews/1: batch ends at 60"), "{text}");
    assert!(text.contains("generation 6: reviews/0: batch ends at 10"), "{text}");
}

#[test]
fn the_empty_cut_is_no_way_around_an_open_generation() {
    let generations = [generation(7, &[(partition(0), 100)])];
    let snapshot = speed(&[(partition(0), &[(0, 90)], 90)]);
    close(&generations, &snapshot, &[place(0, 0)]).unwrap_err();
}

#[test]
fn at_its_cut_a_generation_needs_no_speed() {
    let generation = generation(7, &[(partition(0), 100)]);
    let seam = at_cut(&generation, &[place(0, 0), place(1, 9)]).unwrap();
    let ends: Vec<_> = seam
        .partitions
        .values()
        .map(|closed| (closed.cut.0, closed.until.0))
        .collect();
    assert_eq!(ends, [(100, 100), (9, 9)]);
    assert_eq!(seam.as_of(), Some(100));
}
