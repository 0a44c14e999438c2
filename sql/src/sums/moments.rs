//! Variances, covariances, correlations and regressions from exact sums of values and of products.
//!
//! Each is computed from a count and from up to five sums, which several aggregates over the same columns share as state.
//! The differences that cancel (`n * sum(x * y) - sum(x) * sum(y)`) are taken of exact integers, so that neither the order
//! of rows nor large means cost digits; then few operations of doubles follow, always the same ones.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, GroupsAccumulator, ReversedUDAF,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, when,
};

use super::accumulators::{Different, Groups, One};
use super::exact::{ExactSum, UNIT};
use super::integer::Integer;
use super::quantiles::{Buckets, SKETCH};
use super::totals::{Finish, Products, Squares};

/// An aggregate of moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Moment {
    Variance { sample: bool },
    Deviation { sample: bool },
    Covariance { sample: bool },
    Correlation,
    Slope,
    Intercept,
    R2,
    AverageX,
    AverageY,
    Sxx,
    Syy,
    Sxy,
}

/// A sum over the rows that have all arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sum {
    X,
    Y,
    Xx,
    Yy,
    Xy,
}

impl Moment {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "var" => Self::Variance { sample: true },
            "var_pop" => Self::Variance { sample: false },
            "stddev" => Self::Deviation { sample: true },
            "stddev_pop" => Self::Deviation { sample: false },
            "covar_samp" => Self::Covariance { sample: true },
            "covar_pop" => Self::Covariance { sample: false },
            "corr" => Self::Correlation,
            "regr_slope" => Self::Slope,
            "regr_intercept" => Self::Intercept,
            "regr_r2" => Self::R2,
            "regr_avgx" => Self::AverageX,
            "regr_avgy" => Self::AverageY,
            "regr_sxx" => Self::Sxx,
            "regr_syy" => Self::Syy,
            "regr_sxy" => Self::Sxy,
            _ => return None,
        })
    }

    fn sums(self) -> &'static [Sum] {
        match self {
            Self::Variance { .. } | Self::Deviation { .. } | Self::Sxx => &[Sum::X, Sum::Xx],
            Self::Covariance { .. } | Self::Sxy => &[Sum::X, Sum::Y, Sum::Xy],
            Self::Correlation | Self::R2 => &[Sum::X, Sum::Y, Sum::Xx, Sum::Yy, Sum::Xy],
            Self::Slope | Self::Intercept => &[Sum::X, Sum::Y, Sum::Xx, Sum::Xy],
            Self::AverageX => &[Sum::X],
            Self::AverageY => &[Sum::Y],
            Self::Syy => &[Sum::Y, Sum::Yy],
        }
    }

    /// Rows that it takes to have a value.
    fn rows(self) -> u64 {
        match self {
            Self::Variance { sample } | Self::Deviation { sample } | Self::Covariance { sample } => {
                1 + u64::from(sample)
            }
            Self::Correlation | Self::Slope | Self::Intercept | Self::R2 => 2,
            _ => 1,
        }
    }

    fn value(self, sums: &Sums) -> Option<f64> {
        let count = sums.count;
        if count < self.rows() {
            return None;
        }
        if self.sums().iter().any(|sum| sums.sum(*sum).integer().is_none()) {
            return Some(f64::NAN);
        }
        // The sum of products of deviations from the means, as PostgreSQL names it.
        let s = |sum: Sum| sums.centred(sum, count, 1);
        let divided = |sum: Sum, sample: bool| sums.centred(sum, count, count - u64::from(sample));
        Some(match self {
            Self::Variance { sample } => divided(Sum::Xx, sample),
            Self::Deviation { sample } => divided(Sum::Xx, sample).sqrt(),
            Self::Covariance { sample } => divided(Sum::Xy, sample),
            Self::Correlation => {
                let (xx, yy) = (s(Sum::Xx), s(Sum::Yy));
                if xx == 0.0 || yy == 0.0 {
                    return None;
                }
                // The root of the product is exact where one column is a multiple of the other.
                let product = xx * yy;
                let correlation = match product.is_normal() {
                    true => s(Sum::Xy) / product.sqrt(),
                    false => s(Sum::Xy) / xx.sqrt() / yy.sqrt(),
                };
                correlation.clamp(-1.0, 1.0)
            }
            Self::Slope | Self::Intercept => {
                let xx = s(Sum::Xx);
                if xx == 0.0 {
                    return None;
                }
                let slope = s(Sum::Xy) / xx;
                match self {
                    Self::Slope => slope,
                    _ => sums.y.divided(count) - slope * sums.x.divided(count),
                }
            }
            Self::R2 => {
                let (xx, yy, xy) = (s(Sum::Xx), s(Sum::Yy), s(Sum::Xy));
                if xx == 0.0 || yy == 0.0 {
                    return None;
                }
                (xy / xx * (xy / yy)).min(1.0)
            }
            Self::AverageX => sums.x.divided(count),
            Self::AverageY => sums.y.divided(count),
            Self::Sxx => s(Sum::Xx),
            Self::Syy => s(Sum::Yy),
            Self::Sxy => s(Sum::Xy),
        })
    }
}

#[derive(Debug, Default)]
struct Sums {
    count: u64,
    x: ExactSum,
    y: ExactSum,
    xx: ExactSum,
    yy: ExactSum,
    xy: ExactSum,
}

impl Sums {
    fn sum(&self, sum: Sum) -> &ExactSum {
        match sum {
            Sum::X => &self.x,
            Sum::Y => &self.y,
            Sum::Xx => &self.xx,
            Sum::Yy => &self.yy,
            Sum::Xy => &self.xy,
        }
    }

    fn sum_mut(&mut self, sum: Sum) -> &mut ExactSum {
        match sum {
            Sum::X => &mut self.x,
            Sum::Y => &mut self.y,
            Sum::Xx => &mut self.xx,
            Sum::Yy => &mut self.yy,
            Sum::Xy => &mut self.xy,
        }
    }

    /// `(count * sum(a * b) - sum(a) * sum(b)) / one / other`.
    fn centred(&self, products: Sum, one: u64, other: u64) -> f64 {
        let (a, b) = match products {
            Sum::Xx => (&self.x, &self.x),
            Sum::Yy => (&self.y, &self.y),
            _ => (&self.x, &self.y),
        };
        let integer = |sum: &ExactSum| sum.integer().unwrap_or_default();
        // A unit of products of sums is 2^1074 times smaller than one of sums of products: 33 digits and 18 bits.
        let units = Integer::from_number(u128::from(self.count) << 18, 33);
        debug_assert_eq!(33 * 32 + 18, -UNIT);
        let products = units.times(&integer(self.sum(products)));
        let centred = products.minus(&integer(a).times(&integer(b)));
        centred.divided(2 * UNIT, one, other)
    }
}

/// The aggregates that stand for `function`, one of moments, and what makes its value of theirs.
pub(crate) fn parts(function: &AggregateFunction) -> Result<Option<(Vec<Expr>, ScalarUDF)>> {
    let name = function.func.name();
    let Some(moment) = Moment::named(name) else {
        return Ok(None);
    };
    // Regressions name what depends first.
    let (x, y) = match function.params.args.as_slice() {
        [x] => (x.clone(), x.clone()),
        [_, _] if function.params.distinct => return plan_err!("{name} takes no DISTINCT"),
        [one, other] => {
            let (y, x) = if name.starts_with("regr_") {
                (one, other)
            } else {
                (other, one)
            };
            let both = |value: &Expr, other: &Expr| when(other.clone().is_not_null(), value.clone()).end();
            (both(x, y)?, both(y, x)?)
        }
        arguments => return plan_err!("{name} takes no {} arguments", arguments.len()),
    };
    let over = |func: Arc<AggregateUDF>, args: Vec<Expr>| {
        let params = AggregateFunctionParams {
            args,
            ..function.params.clone()
        };
        Expr::AggregateFunction(AggregateFunction { func, params })
    };
    let counted = match function.params.args.as_slice() {
        // As DISTINCT tells doubles apart in sums.
        [x] if function.params.distinct => crate::arithmetic::float_rank(x.clone()),
        _ => x.clone(),
    };
    let mut aggregates = vec![over(count_udaf(), vec![counted])];
    for sum in moment.sums() {
        aggregates.push(match sum {
            Sum::X => over(stated(Of::Values), vec![x.clone()]),
            Sum::Y => over(stated(Of::Values), vec![y.clone()]),
            Sum::Xx => over(stated(Of::Squares), vec![x.clone()]),
            Sum::Yy => over(stated(Of::Squares), vec![y.clone()]),
            Sum::Xy => over(stated(Of::Products), vec![x.clone(), y.clone()]),
        });
    }
    Ok(Some((aggregates, ScalarUDF::from(OfSums::new(moment)))))
}

/// A moment of its count and sums.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfSums {
    moment: Moment,
    name: String,
    signature: Signature,
}

impl OfSums {
    fn new(moment: Moment) -> Self {
        Self {
            moment,
            name: format!("{moment:?}").to_lowercase(),
            signature: Signature::any(1 + moment.sums().len(), Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for OfSums {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let [counts, sums @ ..] = columns.as_slice() else {
            return exec_err!("{} takes a count", self.name);
        };
        let counts = counts.as_primitive::<Int64Type>();
        let sums: Vec<(&BinaryArray, Sum)> = (sums.iter().map(|sums| sums.as_binary::<i32>()))
            .zip(self.moment.sums().iter().copied())
            .collect();
        let value = |row: usize| -> Result<Option<f64>> {
            let mut of_row = Sums {
                count: counts.value(row).unsigned_abs(),
                ..Sums::default()
            };
            for (column, sum) in &sums {
                if column.is_valid(row) {
                    let added = of_row.sum_mut(*sum).add_encoded(column.value(row));
                    added.map_err(|error| DataFusionError::External(Box::new(error)))?;
                }
            }
            Ok(self.moment.value(&of_row))
        };
        let values: Float64Array = (0..counts.len()).map(value).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(values) as ArrayRef))
    }
}

/// What a total is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Values,
    Squares,
    Products,
    /// No sum: a sketch of quantiles.
    Buckets,
}

pub(super) fn stated(of: Of) -> Arc<AggregateUDF> {
    static VALUES: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Stated::function(Of::Values));
    static SQUARES: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Stated::function(Of::Squares));
    static PRODUCTS: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Stated::function(Of::Products));
    static BUCKETS: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Stated::function(Of::Buckets));
    Arc::clone(match of {
        Of::Values => &VALUES,
        Of::Squares => &SQUARES,
        Of::Products => &PRODUCTS,
        Of::Buckets => &BUCKETS,
    })
}

/// An aggregate whose value is its state.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Stated {
    of: Of,
    signature: Signature,
}

impl Stated {
    fn function(of: Of) -> Arc<AggregateUDF> {
        let arguments = if of == Of::Products { 2 } else { 1 };
        let signature = Signature::exact(vec![DataType::Float64; arguments], Volatility::Immutable);
        Arc::new(AggregateUDF::from(Self { of, signature }))
    }

    fn finish(args: &AccumulatorArgs) -> Finish {
        Finish {
            name: args.name.to_owned(),
            average: false,
            input: DataType::Float64,
            output: DataType::Binary,
        }
    }
}

impl AggregateUDFImpl for Stated {
    fn name(&self) -> &str {
        match self.of {
            Of::Values => "exact_sum",
            Of::Squares => "exact_sum_of_squares",
            Of::Products => "exact_sum_of_products",
            Of::Buckets => SKETCH,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let finish = Self::finish(&args);
        Ok(match (self.of, args.is_distinct) {
            (Of::Values, false) => Box::new(One::<ExactSum>::new(finish)),
            (Of::Values, true) => Box::new(Different::<ExactSum>::new(finish)),
            (Of::Squares, false) => Box::new(One::<Squares>::new(finish)),
            (Of::Squares, true) => Box::new(Different::<Squares>::new(finish)),
            (Of::Products, _) => Box::new(One::<Products>::new(finish)),
            (Of::Buckets, _) => Box::new(One::<Buckets>::new(finish)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(match args.is_distinct {
            true => super::distinct_state(args.name, &DataType::Float64),
            false => Field::new(format_state_name(args.name, "sum"), DataType::Binary, true),
        })])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let finish = Self::finish(&args);
        Ok(match self.of {
            Of::Values => Box::new(Groups::<ExactSum>::new(finish)),
            Of::Squares => Box::new(Groups::<Squares>::new(finish)),
            Of::Products => Box::new(Groups::<Products>::new(finish)),
            Of::Buckets => Box::new(Groups::<Buckets>::new(finish)),
        })
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}
