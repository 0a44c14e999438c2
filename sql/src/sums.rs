//! SUM and AVG that do not depend on the order of rows, on how they were batched, or on how states were merged.
//!
//! They stand in the place of DataFusion's own, under its names and with its types, also as window functions. Totals are
//! exact, and only the value is rounded or checked for range, once:
//!
//! | argument | total | state |
//! | --- | --- | --- |
//! | DOUBLE, REAL | [`exact::ExactSum`]: an integer of as many bits as it takes | its bytes |
//! | integers, durations, DECIMAL of up to 19 digits | 128 bits | DECIMAL(38) |
//! | DECIMAL of up to 57 digits | 256 bits | DECIMAL(76) |
//!
//! AVG has the count beside its total. DISTINCT keeps the different values. A sum of intervals, which are no numbers, is
//! DataFusion's own. What is computed from sums of values and of products stands in [`moments`];
//! [`quantiles`] are no sums, but merge like these: by adding.

mod accumulators;
mod exact;
mod integer;
pub(crate) mod moments;
pub(crate) mod quantiles;
mod totals;

use std::sync::Arc;

use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, plan_err};
use datafusion::functions_aggregate::{average::avg_udaf, sum::sum_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};

use accumulators::{Different, Groups, One};
use exact::ExactSum;
use totals::{Finish, Total, Whole};

/// `sum` and `avg`.
pub(crate) fn functions() -> [AggregateUDF; 2] {
    [false, true].map(|average| AggregateUDF::from(ExactTotal::new(average)))
}

/// The state of a DISTINCT aggregate called `name`: its values.
fn distinct_state(name: &str, values: &DataType) -> Field {
    let item = Field::new_list_field(values.clone(), true);
    Field::new_list(format_state_name(name, "distinct"), item, true)
}

/// Digits that stay below 2^127 however many rows there are (2^63).
const DIGITS_IN_128_BITS: u8 = 19;
/// The same for 2^255.
const DIGITS_IN_256_BITS: u8 = 57;

/// SUM, or AVG.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactTotal {
    average: bool,
    signature: Signature,
    /// DataFusion's own.
    plain: Arc<AggregateUDF>,
}

impl ExactTotal {
    fn new(average: bool) -> Self {
        Self {
            average,
            signature: Signature::user_defined(Volatility::Immutable),
            plain: if average { avg_udaf() } else { sum_udaf() },
        }
    }

    fn finish(&self, args: &AccumulatorArgs) -> Finish {
        Finish {
            name: args.name.to_owned(),
            average: self.average,
            input: args.expr_fields[0].data_type().clone(),
            output: args.return_field.data_type().clone(),
        }
    }
}

/// `$run` with the total of arguments of the type `$input` as `$total`.
macro_rules! with_total {
    ($input:expr, $total:ident => $run:expr) => {
        match $input {
            DataType::Float64 => {
                type $total = ExactSum;
                $run
            }
            DataType::UInt64 => {
                type $total = Whole<UInt64Type, Decimal128Type>;
                $run
            }
            DataType::Decimal128(precision, _) if *precision <= DIGITS_IN_128_BITS => {
                type $total = Whole<Decimal128Type, Decimal128Type>;
                $run
            }
            DataType::Decimal128(..) => {
                type $total = Whole<Decimal128Type, Decimal256Type>;
                $run
            }
            DataType::Decimal256(..) => {
                type $total = Whole<Decimal256Type, Decimal256Type>;
                $run
            }
            _ => {
                type $total = Whole<Int64Type, Decimal128Type>;
                $run
            }
        }
    };
}

impl AggregateUDFImpl for ExactTotal {
    fn name(&self) -> &str {
        self.plain.name()
    }

    fn aliases(&self) -> &[String] {
        self.plain.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [argument] = arg_types else {
            return plan_err!("{name} takes one argument, not {}", arg_types.len());
        };
        let argument = match argument {
            DataType::Dictionary(_, values) => values.as_ref(),
            other => other,
        };
        Ok(vec![match argument {
            unsigned if unsigned.is_unsigned_integer() => DataType::UInt64,
            integer if integer.is_integer() || integer.is_null() => DataType::Int64,
            double if double.is_floating() => DataType::Float64,
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                DataType::Decimal128(*precision, *scale)
            }
            DataType::Decimal256(precision, scale) if *precision > DIGITS_IN_256_BITS => {
                return plan_err!(
                    "{name} takes decimals of up to {DIGITS_IN_256_BITS} digits and not DECIMAL({precision}, {scale}): \
                     CAST the argument"
                );
            }
            number @ (DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Duration(_)) => number.clone(),
            interval @ DataType::Interval(_) if !self.average => interval.clone(),
            DataType::Utf8 => return plan_err!("{name} takes numbers and not TEXT"),
            other => return plan_err!("{name} takes numbers and not {other}"),
        }])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match &arg_types[0] {
            DataType::Int64 | DataType::UInt64 if self.average => Ok(DataType::Float64),
            _ => self.plain.return_type(arg_types),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let input = args.expr_fields[0].data_type();
        if matches!(input, DataType::Interval(_)) {
            return self.plain.accumulator(args);
        }
        let finish = self.finish(&args);
        Ok(with_total!(input, T => match args.is_distinct {
            true => Box::new(Different::<T>::new(finish)) as _,
            false => Box::new(One::<T>::new(finish)) as _,
        }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.expr_fields[0].data_type() {
            DataType::Interval(_) => self.plain.create_sliding_accumulator(args),
            _ => self.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let input = args.input_fields[0].data_type();
        if matches!(input, DataType::Interval(_)) {
            return self.plain.state_fields(args);
        }
        if args.is_distinct {
            return Ok(vec![Arc::new(distinct_state(args.name, input))]);
        }
        let total = with_total!(input, T => <T as Total>::state_type());
        let mut fields = vec![Field::new(format_state_name(args.name, "sum"), total, true)];
        if self.average {
            fields.push(Field::new(
                format_state_name(args.name, "count"),
                DataType::UInt64,
                true,
            ));
        }
        Ok(fields.into_iter().map(Arc::new).collect())
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match args.expr_fields[0].data_type() {
            DataType::Interval(_) => self.plain.groups_accumulator_supported(args),
            _ => !args.is_distinct,
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let input = args.expr_fields[0].data_type();
        if matches!(input, DataType::Interval(_)) {
            return self.plain.create_groups_accumulator(args);
        }
        let finish = self.finish(&args);
        Ok(with_total!(input, T => Box::new(Groups::<T>::new(finish)) as _))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}
