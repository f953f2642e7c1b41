//! Offset of a record in a partition.
//!
//! In: numbers of Kafka's protocol and of files. Out: a type of its own, so that an offset is never taken for a timestamp, a
//! producer id or the number of a partition. Touches nothing.

use std::fmt;

/// Offset of a record in a partition, or one past the last. Negative values are Kafka's codes for "none" and "latest".
/// Arithmetic stops at the bounds of i64 instead of wrapping, so that an offset never becomes an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(i64);

impl Offset {
    /// Of the first record ever.
    pub const ZERO: Self = Self(0);
    /// Above every record.
    pub const MAX: Self = Self(i64::MAX);

    /// As it stands in a request or a file.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// As it goes into an answer or a file.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The one behind.
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// So many further on.
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many offsets lie between an earlier one and this; negative if it is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
