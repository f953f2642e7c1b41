//! Why pushed records were not taken.
//!
//! In: nothing. Out: [`Rejected`], whose text clients may see. Touches nothing.

use std::sync::Arc;

use millrace_log::record::{Labels, RecordError};

use crate::error::AgentError;

/// Why records were not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Rejected {
    /// No room: come again.
    #[error("agent has no room in {what}: the log is slow or unreachable, try again later")]
    Full {
        /// What is used up.
        what: &'static str,
    },
    /// The agent has not reached the log since its start.
    #[error("agent has not reached the log yet: check that the broker runs and `agent.kafka.brokers`")]
    NotReady,
    /// The agent stops: records that were taken may or may not be in the log.
    #[error("agent is stopping: try again")]
    Stopping,
    /// The spool can't be written.
    #[error("agent can't write its spool: check that the disk has room, and try again")]
    Spool,
    /// Too many different label sets.
    #[error(
        "more than {limit} label sets within an hour (max_streams, {share} of them for each client): use labels with few \
         values, and metadata for others"
    )]
    TooManyStreams {
        /// `max_streams`.
        limit: usize,
        /// How many of them one client has while all are in use.
        share: usize,
    },
    /// Labels that no stream may have.
    #[error("invalid labels {labels}: {source}")]
    Labels {
        /// All of them.
        labels: Labels,
        /// What is wrong.
        #[source]
        source: Arc<RecordError>,
    },
    /// Numbers of the source's own that do not rise.
    #[error("number {number} is below {next}, the next expected: numbers of a source must rise")]
    Order {
        /// The number found.
        number: u64,
        /// The lowest that could be taken.
        next: u64,
    },
    /// The state can't be written.
    #[error("agent can't save its positions: {source}")]
    State {
        /// The cause.
        #[source]
        source: Arc<AgentError>,
    },
}

impl Rejected {
    /// All reasons, for metrics.
    pub(crate) const REASONS: [&'static str; 8] =
        ["full", "not_ready", "stopping", "spool", "streams", "labels", "order", "state"];

    /// Whether the same may be taken later.
    pub fn is_retriable(&self) -> bool {
        !matches!(self, Self::Labels { .. } | Self::Order { .. })
    }

    /// For metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::NotReady => "not_ready",
            Self::Stopping => "stopping",
            Self::Spool => "spool",
            Self::TooManyStreams { .. } => "streams",
            Self::Labels { .. } => "labels",
            Self::Order { .. } => "order",
            Self::State { .. } => "state",
        }
    }
}
