//! States under another key: panes to the hops that they lie in, fragments to the sessions that they are united in.
//!
//! Both work on state alone, so that a window which spans the cut, a day's edge or two partitions is one window in the
//! answer (design D8): uniting fragments is associative and commutative, and fanning panes out comes last.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, exec_err};

use crate::windows::{Hops, Regrouping, from_micros, to_micros};

/// The regrouping of one fold.
#[derive(Debug)]
pub(crate) struct Regroup {
    pub(crate) by: Regrouping,
    /// Position of the window among the key columns.
    pub(crate) window: usize,
    pub(crate) key_columns: usize,
    /// Position of the last time among the columns of a session's state.
    pub(crate) end: usize,
}

impl Regroup {
    /// States that merge by key as they stand.
    pub(crate) fn before_merge(&self, schema: &SchemaRef, states: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        match self.by {
            Regrouping::Hop(_) => Ok(states),
            Regrouping::Session(gap) => Ok(vec![self.united(schema, &states, gap)?]),
        }
    }

    /// States that finish by key as they stand.
    pub(crate) fn before_finish(&self, schema: &SchemaRef, states: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        match self.by {
            Regrouping::Hop(hops) => states.iter().map(|states| self.fanned_out(states, &hops)).collect(),
            Regrouping::Session(gap) => Ok(vec![self.united(schema, &states, gap)?]),
        }
    }

    /// Each state once for every hop that its pane lies in.
    fn fanned_out(&self, states: &RecordBatch, hops: &Hops) -> Result<RecordBatch> {
        let panes = to_micros(states.column(self.window))?;
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (row, pane) in (0_u32..).zip(panes.iter()) {
            match pane.map(|pane| hops.of_pane(pane)) {
                Some(Some(of_pane)) => {
                    rows.extend(std::iter::repeat_n(row, of_pane.len()));
                    starts.extend(of_pane.into_iter().map(Some));
                }
                Some(None) => return exec_err!("the window of a time lies outside the range of times"),
                None => {
                    rows.push(row);
                    starts.push(None);
                }
            }
        }
        let fanned_out = take_record_batch(states, &UInt32Array::from(rows))?;
        self.with_starts(&fanned_out, TimestampMicrosecondArray::from(starts))
    }

    /// Every state under the start of its session. Fragments of one key are united when they are closer than `gap`;
    /// exactly one gap apart they are two sessions.
    fn united(&self, schema: &SchemaRef, states: &[RecordBatch], gap: i64) -> Result<RecordBatch> {
        let states = concat_batches(schema, states)?;
        let starts = to_micros(states.column(self.window))?;
        let ends = to_micros(states.column(self.end))?;
        let others: Vec<ArrayRef> = (0..self.key_columns)
            .filter(|column| *column != self.window)
            .map(|column| Arc::clone(states.column(column)))
            .collect();
        let fields = others.iter().map(|column| SortField::new(column.data_type().clone()));
        let keys = match others.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields.collect())?.convert_columns(&others)?),
        };
        let same_key = |one: usize, other: usize| keys.as_ref().is_none_or(|keys| keys.row(one) == keys.row(other));
        let start = |row: usize| starts.is_valid(row).then(|| starts.value(row));
        let mut order: Vec<usize> = (0..states.num_rows()).collect();
        order.sort_unstable_by(|&one, &other| {
            let by_key = keys
                .as_ref()
                .map_or(std::cmp::Ordering::Equal, |keys| keys.row(one).cmp(&keys.row(other)));
            by_key.then_with(|| start(one).cmp(&start(other)))
        });
        let mut united = vec![None; states.num_rows()];
        // Key (by one of its rows), start and end of the session under way.
        let mut session: Option<(usize, i64, i64)> = None;
        for row in order {
            let Some(begin) = start(row) else { continue };
            let end = if ends.is_valid(row) { ends.value(row) } else { begin };
            session = match session {
                Some((key, first, last)) if same_key(key, row) && begin.saturating_sub(last) < gap => {
                    Some((key, first, last.max(end)))
                }
                _ => Some((row, begin, end)),
            };
            united[row] = session.map(|(_, first, _)| first);
        }
        self.with_starts(&states, TimestampMicrosecondArray::from(united))
    }

    fn with_starts(&self, states: &RecordBatch, starts: TimestampMicrosecondArray) -> Result<RecordBatch> {
        let mut columns = states.columns().to_vec();
        columns[self.window] = from_micros(starts, states.column(self.window).data_type())?;
        Ok(RecordBatch::try_new(states.schema(), columns)?)
    }
}
