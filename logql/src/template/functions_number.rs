//! Template functions on numbers, as Sprig defines them.
//!
//! In: arguments. Out: numbers, or Go's messages. Touches nothing.

use super::arguments::Arguments;
use super::value::Value;

/// Calls one of them. `None`: the name is not one of these.
pub(super) fn call(name: &str, a: &Arguments<'_>) -> Result<Option<Value>, String> {
    let value = match name {
        "int" => Ok(Value::Int(a.int(0))),
        "float64" => Ok(Value::Float(a.float(0))),
        "add" => Ok(Value::Int(a.ints().fold(0, i64::wrapping_add))),
        "sub" => Ok(Value::Int(a.int(0).wrapping_sub(a.int(1)))),
        "mul" => Ok(Value::Int(a.ints().fold(1, i64::wrapping_mul))),
        "div" | "mod" => {
            let (left, right) = (a.int(0), a.int(1));
            if right == 0 {
                return Err(a.failed("runtime error: integer divide by zero"));
            }
            Ok(Value::Int(if name == "div" { left.wrapping_div(right) } else { left.wrapping_rem(right) }))
        }
        "addf" => Ok(Value::Float(a.floats().sum())),
        "subf" => Ok(Value::Float(a.floats().reduce(|x, y| x - y).unwrap_or(0.0))),
        "mulf" => Ok(Value::Float(a.floats().product())),
        "divf" => Ok(Value::Float(a.floats().reduce(|x, y| x / y).unwrap_or(0.0))),
        "max" => Ok(Value::Int(a.ints().max().unwrap_or(0))),
        "min" => Ok(Value::Int(a.ints().min().unwrap_or(0))),
        "maxf" => Ok(Value::Float(a.floats().fold(f64::NEG_INFINITY, f64::max))),
        "minf" => Ok(Value::Float(a.floats().fold(f64::INFINITY, f64::min))),
        "ceil" => Ok(Value::Float(a.float(0).ceil())),
        "floor" => Ok(Value::Float(a.float(0).floor())),
        "round" => {
            let scale = 10f64.powi(i32::try_from(a.int(1)).unwrap_or(0));
            let up_from = if a.values.len() > 2 { a.float(2) } else { 0.5 };
            let scaled = a.float(0) * scale;
            let rounded =
                if scaled.fract().abs() >= up_from { scaled.trunc() + scaled.signum() } else { scaled.trunc() };
            Ok(Value::Float(rounded / scale))
        }
        _ => return Ok(None),
    };
    value.map(Some)
}
