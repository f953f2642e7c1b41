//! Columns of values: the moments of a metric query, a series with its value at each, and the leaves that are scanned.
//!
//! Touches nothing.

use crate::answer::LabelPairs;
use crate::syntax::tree::{Grouping, RangeAggregation};

/// The moments at which a metric query is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steps {
    /// First moment, ns since 1970.
    pub start_ns: i64,
    /// Distance.
    pub step_ns: i64,
    /// How many.
    pub count: usize,
}

impl Steps {
    /// The k-th moment.
    pub fn at(&self, k: usize) -> i64 {
        self.start_ns.saturating_add(self.step_ns.saturating_mul(i64::try_from(k).unwrap_or(i64::MAX)))
    }

    /// The last moment.
    pub fn last(&self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }
}

/// One series: its value at each step, `None` where it has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Sorted by name.
    pub labels: LabelPairs,
    /// One per step.
    pub values: Vec<Option<f64>>,
}

/// What an expression gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A literal.
    Scalar(f64),
    /// Series; the order counts after a sort.
    Columns(Vec<Column>),
}

/// A range aggregation of a query, with the grouping that the sum around it lets it do early.
#[derive(Debug, Clone)]
pub(crate) struct Leaf<'a> {
    /// The aggregation.
    pub aggregation: &'a RangeAggregation,
    /// `sum by (…)` around it.
    pub outer: Option<&'a Grouping>,
    /// A sum without grouping is around it.
    pub outer_all: bool,
}

impl Leaf<'_> {
    /// Equal leaves are scanned once.
    pub fn key(&self) -> String {
        let outer = self.outer.map_or_else(String::new, ToString::to_string);
        format!("{}{outer}{}", self.aggregation, self.outer_all)
    }
}

/// Value of a label, "" for none.
pub(super) fn label<'a>(labels: &'a [(String, String)], name: &str) -> &'a str {
    labels.binary_search_by(|(n, _)| n.as_str().cmp(name)).map_or("", |i| labels.get(i).map_or("", |(_, v)| v))
}

/// Sets a label, or removes it when the value is empty.
pub(super) fn set_label(labels: &mut LabelPairs, name: &str, value: &str) {
    match (labels.binary_search_by(|(n, _)| n.as_str().cmp(name)), value.is_empty()) {
        (Ok(at), true) => {
            labels.remove(at);
        }
        (Ok(at), false) => {
            if let Some((_, old)) = labels.get_mut(at) {
                value.clone_into(old);
            }
        }
        (Err(_), true) => {}
        (Err(at), false) => labels.insert(at, (name.to_owned(), value.to_owned())),
    }
}
