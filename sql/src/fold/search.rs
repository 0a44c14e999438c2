//! Filters of a query that the keys of stored partials are searched by.

use std::collections::BTreeSet;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};

use super::Fold;
use crate::aggregates::growth;
use crate::{Growth, KeyRange};

impl Fold {
    /// The key column that `filter` over the answer fixes, and to which values, as arrays of one.
    pub fn keys_of(&self, filter: &Expr) -> Option<(usize, Vec<ArrayRef>)> {
        let (column, values) = equalities(filter)?;
        self.key_values(&column, values)
    }

    /// The key column that `filter` over the answer bounds.
    pub fn range_of(&self, filter: &Expr) -> Option<KeyRange> {
        let (column, operator, value) = comparison(filter)?;
        let (position, mut values) = self.key_values(column, vec![value.clone()])?;
        let bound = values.pop();
        let (lower, upper) = match operator {
            Operator::Gt | Operator::GtEq => (bound, None),
            Operator::Lt | Operator::LtEq => (None, bound),
            _ => return None,
        };
        Some(KeyRange { position, lower, upper })
    }

    /// What a table of this fold's answer does for each of `filters`: it reads fewer keys, and more than are meant.
    pub fn supports_filters(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
        let support = |filter: &&Expr| match self.keys_of(filter).is_some() || self.range_of(filter).is_some() {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        filters.iter().map(support).collect()
    }

    /// Whether the answer is short work where `columns` have one value each: they fix all of the key, and no state of a
    /// key grows with its rows.
    pub fn is_short_by<'a>(&self, columns: impl Iterator<Item = &'a str>) -> bool {
        let fixed: BTreeSet<usize> = columns.filter_map(|column| self.searched_key(column)).collect();
        let mut aggregates = self.partial.aggr_expr().iter();
        fixed.len() == self.key_columns
            && aggregates
                .all(|aggregate| !aggregate.is_distinct() && growth(aggregate.fun().name()) == Growth::Constant)
    }

    /// Position in the key of the output column `name`, where stored keys are searched by it.
    pub(crate) fn searched_key(&self, name: &str) -> Option<usize> {
        let position = self.key_of_output(name)?;
        // Doubles have equal values of different bytes.
        let floating = self.state_schema.field(position).data_type().is_floating();
        (!floating).then_some(position)
    }

    /// The position of a key column, and `values` as arrays of its type.
    fn key_values(&self, column: &str, values: Vec<ScalarValue>) -> Option<(usize, Vec<ArrayRef>)> {
        let position = self.searched_key(column)?;
        let key_type = self.state_schema.field(position).data_type();
        let array = |value: ScalarValue| {
            let fits = !value.is_null() && value.data_type() == *key_type;
            value.to_array().ok().filter(|_| fits)
        };
        Some((position, values.into_iter().map(array).collect::<Option<_>>()?))
    }
}

/// `column operator value`, whichever way round it is written.
fn comparison(filter: &Expr) -> Option<(&str, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => Some((&column.name, *op, value)),
        (Expr::Literal(value, _), Expr::Column(column)) => Some((&column.name, op.swap()?, value)),
        _ => None,
    }
}

/// `column = value`, `column IN (values)`, and OR of these over one column.
fn equalities(filter: &Expr) -> Option<(String, Vec<ScalarValue>)> {
    if let Some((column, Operator::Eq, value)) = comparison(filter) {
        return Some((column.to_owned(), vec![value.clone()]));
    }
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let (column, mut values) = equalities(left)?;
            let (other, more) = equalities(right)?;
            values.extend(more);
            (column == other).then_some((column, values))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = list.expr.as_ref() else {
                return None;
            };
            let literal = |item: &Expr| match item {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            };
            let values = list.list.iter().map(literal).collect::<Option<Vec<_>>>()?;
            Some((column.name.clone(), values))
        }
        _ => None,
    }
}
