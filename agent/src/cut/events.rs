//! Events of a window: where each stands, and what its format says of it.
//!
//! In: what a cutter found. Out: [`Cut`]. Touches nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_log::record::Labels;

use crate::container::Stream;
use crate::split::{Outcome, Piece};

/// The events of a window.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// They point into the window.
    pub pieces: Vec<Piece>,
    pub outcome: Outcome,
    /// Where each event begins in the file. Empty: where it stands in the window.
    pub positions: Vec<u64>,
    /// When each was written, as its format says. Empty: it does not say.
    pub times: Vec<Option<i64>>,
    /// Metadata of each; empty if none has any.
    pub metas: Vec<Option<Bytes>>,
    /// Stream of each; empty if there are none, or no label is made of them.
    pub streams: Vec<Stream>,
}

/// Metadata as a header has it.
pub(super) fn meta(pairs: &BTreeMap<&str, &str>) -> Bytes {
    Labels::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).to_json().into()
}

/// Windows are bounded by the configuration, far below 4 GiB.
pub(super) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
