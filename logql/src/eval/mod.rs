//! Numbers from lines: range aggregations, vector aggregations, operators.

/// Operators on numbers.
pub mod arithmetic;
