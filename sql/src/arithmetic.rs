//! Arithmetic that never wraps and comparisons that never depend on order.
//!
//! * `+`, `-` and `*` of integers are computed as BIGINT and fail where BIGINT ends: DataFusion's own wrap, in the type
//!   of the operands.
//! * Arithmetic of doubles gives one NaN: the processor's own has a sign, which differs between processors and which
//!   comparisons, keys and orders look at. So NaN is equal to itself and above every number.
//! * [`float_rank`] maps doubles to integers in PostgreSQL's order (-0.0 = 0.0, NaN above everything, equal to itself),
//!   so that MIN and MAX over the ranks have one answer; DataFusion's own keep or lose a NaN by its place in the batch.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, Datum, Int64Array};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use datafusion::optimizer::analyzer::AnalyzerRule;

/// The rule that makes arithmetic of integers checked. It runs before types are coerced: what it leaves has BIGINT
/// where there was INT.
#[derive(Debug)]
pub(crate) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            let rewritten = node.map_expressions(|expression| {
                let name = names.save(&expression);
                let rewritten = expression.transform_up(|expression| checked(expression, &schema))?;
                Ok(rewritten.update_data(|expression| name.restore(expression)))
            })?;
            // Also where nothing changed here: what it reads may have become BIGINT.
            Ok(Transformed::yes(rewritten.data.recompute_schema()?))
        })?;
        Ok(rewritten.data)
    }
}

fn checked(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let integer = |operand: &Expr| operand.get_type(schema).is_ok_and(|data_type| data_type.is_integer());
    let (function, left, right) = match &expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if integer(left) && integer(right) => match op {
            Operator::Plus => (&*ADD, (**left).clone(), (**right).clone()),
            Operator::Minus => (&*SUBTRACT, (**left).clone(), (**right).clone()),
            Operator::Multiply => (&*MULTIPLY, (**left).clone(), (**right).clone()),
            _ => return Ok(Transformed::no(expression)),
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if gives_double(left, right, schema) => {
            let Some(function) = of_doubles(*op) else {
                return Ok(Transformed::no(expression));
            };
            let double = |operand: &Expr| cast(operand.clone(), DataType::Float64);
            return Ok(Transformed::yes(function.call(vec![double(left), double(right)])));
        }
        Expr::Negative(operand) if integer(operand) && !matches!(**operand, Expr::Literal(..)) => {
            (&*SUBTRACT, lit(0_i64), (**operand).clone())
        }
        _ => return Ok(Transformed::no(expression)),
    };
    let bigint = |operand: Expr| match operand.get_type(schema) {
        Ok(DataType::Int64) => operand,
        _ => cast(operand, DataType::Int64),
    };
    Ok(Transformed::yes(function.call(vec![bigint(left), bigint(right)])))
}

/// Whether arithmetic of the two is that of doubles.
fn gives_double(left: &Expr, right: &Expr, schema: &DFSchema) -> bool {
    let types = (left.get_type(schema), right.get_type(schema));
    let (Ok(left), Ok(right)) = types else { return false };
    let double = DataType::Float64;
    (left == double || right == double) && left.is_numeric() && right.is_numeric()
}

fn of_doubles(operator: Operator) -> Option<ScalarUDF> {
    let arithmetic = [
        Operator::Plus,
        Operator::Minus,
        Operator::Multiply,
        Operator::Divide,
        Operator::Modulo,
    ];
    let function = || Checked::function(operator, DataType::Float64);
    arithmetic.contains(&operator).then(function)
}

static ADD: LazyLock<ScalarUDF> = LazyLock::new(|| Checked::function(Operator::Plus, DataType::Int64));
static SUBTRACT: LazyLock<ScalarUDF> = LazyLock::new(|| Checked::function(Operator::Minus, DataType::Int64));
static MULTIPLY: LazyLock<ScalarUDF> = LazyLock::new(|| Checked::function(Operator::Multiply, DataType::Int64));

/// One operation of two BIGINTs, or of two doubles.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operator: Operator,
    data_type: DataType,
    signature: Signature,
}

impl Checked {
    fn function(operator: Operator, data_type: DataType) -> ScalarUDF {
        ScalarUDF::from(Self {
            operator,
            signature: Signature::exact(vec![data_type.clone(), data_type.clone()], Volatility::Immutable),
            data_type,
        })
    }

    fn kernel(&self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
        let result = match self.operator {
            Operator::Minus => numeric::sub(left, right),
            Operator::Multiply => numeric::mul(left, right),
            Operator::Divide => numeric::div(left, right),
            Operator::Modulo => numeric::rem(left, right),
            _ => numeric::add(left, right),
        }?;
        Ok(match result.as_primitive_opt::<Float64Type>() {
            Some(doubles) => Arc::new(doubles.unary::<_, Float64Type>(one_nan)),
            None => result,
        })
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match (&self.operator, &self.data_type) {
            (Operator::Minus, DataType::Int64) => "checked_subtract",
            (Operator::Multiply, DataType::Int64) => "checked_multiply",
            (_, DataType::Int64) => "checked_add",
            (Operator::Minus, _) => "double_subtract",
            (Operator::Multiply, _) => "double_multiply",
            (Operator::Divide, _) => "double_divide",
            (Operator::Modulo, _) => "double_remainder",
            _ => "double_add",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return exec_err!("{} takes two numbers", self.name());
        };
        let scalar = |value: &ScalarValue| value.to_scalar();
        let result = match (left, right) {
            (ColumnarValue::Array(left), ColumnarValue::Array(right)) => self.kernel(left, right)?,
            (ColumnarValue::Array(left), ColumnarValue::Scalar(right)) => self.kernel(left, &scalar(right)?)?,
            (ColumnarValue::Scalar(left), ColumnarValue::Array(right)) => self.kernel(&scalar(left)?, right)?,
            (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => {
                let result = self.kernel(&left.to_array()?, &right.to_array()?)?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
            }
        };
        Ok(ColumnarValue::Array(result))
    }
}

/// The rank of a double among doubles, BIGINT.
pub(crate) fn float_rank(value: Expr) -> Expr {
    static RANK: LazyLock<ScalarUDF> = LazyLock::new(|| Ranked::function(Rank::Of));
    RANK.call(vec![value])
}

/// The same with a rank of its own for -0.0, before that of 0.0: nothing of the double is lost.
pub(crate) fn float_place(value: Expr) -> Expr {
    static PLACE: LazyLock<ScalarUDF> = LazyLock::new(|| Ranked::function(Rank::WithSign));
    PLACE.call(vec![value])
}

/// The double of a rank, of either kind.
pub(crate) fn float_of_rank(rank: Expr) -> Expr {
    static VALUE: LazyLock<ScalarUDF> = LazyLock::new(|| Ranked::function(Rank::Back));
    VALUE.call(vec![rank])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rank {
    Of,
    WithSign,
    Back,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Ranked {
    rank: Rank,
    signature: Signature,
}

impl Ranked {
    fn function(rank: Rank) -> ScalarUDF {
        let takes = match rank {
            Rank::Back => DataType::Int64,
            _ => DataType::Float64,
        };
        ScalarUDF::from(Self {
            rank,
            signature: Signature::exact(vec![takes], Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for Ranked {
    fn name(&self) -> &str {
        match self.rank {
            Rank::Of => "float_rank",
            Rank::WithSign => "float_place",
            Rank::Back => "float_of_rank",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.rank {
            Rank::Back => DataType::Float64,
            _ => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(&args.args)?;
        let [values] = values.as_slice() else {
            return exec_err!("{} takes one number", self.name());
        };
        let ranks = |rank: fn(f64) -> i64| -> Int64Array { values.as_primitive::<Float64Type>().unary(rank) };
        let ranked: ArrayRef = match self.rank {
            Rank::Of => Arc::new(ranks(rank_of)),
            Rank::WithSign => Arc::new(ranks(place_of)),
            Rank::Back => Arc::new(values.as_primitive::<Int64Type>().unary::<_, Float64Type>(value_of)),
        };
        Ok(ColumnarValue::Array(ranked))
    }
}

fn one_nan(value: f64) -> f64 {
    if value.is_nan() { f64::NAN.abs() } else { value }
}

/// As `f64::total_cmp` orders, with one zero and one NaN.
pub(crate) fn rank_of(value: f64) -> i64 {
    place_of(one_nan(value) + 0.0)
}

/// As `f64::total_cmp` orders.
fn place_of(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// The double of a rank.
pub(crate) fn value_of(rank: i64) -> f64 {
    let bits = rank ^ ((rank >> 63).cast_unsigned() >> 1).cast_signed();
    f64::from_bits(bits.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_doubles_as_postgresql_does() {
        let ordered = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -f64::MIN_POSITIVE,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        for pair in ordered.windows(2) {
            assert!(rank_of(pair[0]) < rank_of(pair[1]), "{pair:?}");
        }
        for value in ordered {
            let back = value_of(rank_of(value));
            assert!(back == value || back.is_nan() && value.is_nan());
        }
        assert_eq!(rank_of(-0.0), rank_of(0.0));
        assert!(place_of(-0.0) < place_of(0.0));
        assert_eq!(value_of(place_of(-0.0)).to_bits(), (-0.0_f64).to_bits());
        assert_eq!(rank_of(-f64::NAN), rank_of(f64::NAN));
    }
}
