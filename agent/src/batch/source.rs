//! A source as delivery sees it, whatever it is: a file, or one partition of a source that is pushed to.
//!
//! In: what the log has acknowledged. Out: identities for records. Touches nothing itself.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::SourceId;

use crate::error::AgentError;
use crate::fingerprint::Print;
use crate::ledger::{Lost, Taken};
use crate::split::Mark;
use crate::state::State;
use crate::transform::Chain;

/// A place in the file and the print of what stands before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub mark: Mark,
    pub tail: Print,
}

/// What records carry of their source.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub id: SourceId,
    /// The id as hexadecimal digits.
    pub key: Bytes,
}

impl Identity {
    pub fn new(id: SourceId) -> Self {
        Self { id, key: Bytes::copy_from_slice(&id.to_hex()) }
    }
}

/// Chosen once per source: ids are random, so their bits spread.
pub(crate) fn partition_of(id: SourceId, partitions: i32) -> i32 {
    let [a, b, c, d, ..] = id.0;
    let count = u32::try_from(partitions.max(1)).unwrap_or(1);
    i32::try_from(u32::from_le_bytes([a, b, c, d]) % count).unwrap_or(0)
}

/// A source of batches.
pub(crate) trait BatchSource: Debug + Send + Sync {
    /// Id and key for the records to be sent now.
    fn identity(&self) -> Identity;

    /// Transforms that its events go through before they are sent, if there are any.
    fn chain(&self) -> Option<&Arc<Chain>>;

    /// The file, or the name of the source, for logs and live tail.
    fn name(&self) -> Cow<'_, str>;

    /// Its type, as in the configuration.
    fn kind(&self) -> &'static str;

    /// What was taken is acknowledged, except for what was dropped or went to the dead letters.
    fn settle(&self, to: Anchor, taken: Taken, lost: &Lost);

    /// Goes on under a new id, because the log took later records of the old one before earlier ones: a reader that
    /// keeps the highest position of each source would drop the earlier ones. Durable when this returns. Blocks.
    fn move_on(&self, state: &State) -> Result<(), AgentError>;
}
