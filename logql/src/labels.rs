//! Label sets as stores keep them and answers show them, and the names that say what went wrong with a line.
//!
//! Plain data. Touches nothing.

use std::sync::Arc;

/// Labels of one stream as the store keeps them: sorted by name, names unique, no empty values. One allocation for all who
/// hold it.
pub type StreamLabels = Arc<[(String, String)]>;

/// Names and values, sorted by name, names unique.
pub type LabelPairs = Vec<(String, String)>;

/// Name of the label that tells what went wrong with a line.
pub const ERROR: &str = "__error__";
/// Name of the label that tells why.
pub const ERROR_DETAILS: &str = "__error_details__";
