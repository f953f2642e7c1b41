//! Errors of pushes: why one was not acknowledged, and whether the same request may succeed later.
//!
//! Touches nothing.

use std::sync::Arc;

use millrace_index::state::StateError;
use millrace_log::client::ClientError;
use millrace_log::record::Tenant;
use millrace_log::value::{ByteSize, Span};

/// Why a push was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IngestError {
    /// Too much waits for the log.
    #[error(
        "{max} of pushed events wait for the log already (`aggregator.ingest.max_in_flight`): repeat the request later"
    )]
    Full {
        /// The limit.
        max: ByteSize,
    },
    /// Too much of one tenant waits for the log.
    #[error(
        "{max} of pushed events of tenant `{tenant}` wait for the log already (three quarters of `aggregator.ingest.max_in_flight`): \
         repeat the request later"
    )]
    FullOfTenant {
        /// The limit.
        max: ByteSize,
        /// Whose.
        tenant: Tenant,
    },
    /// A tenant pushes more than it may.
    #[error(
        "tenant `{tenant}` pushes more than {max} a second (`max_rate` of `aggregator.ingest`, or of its entry in `tenants` there): \
         repeat the request in {wait}, or have the limit raised"
    )]
    Rate {
        /// The limit.
        max: ByteSize,
        /// Whose.
        tenant: Tenant,
        /// When a push is taken again, in whole seconds.
        wait: Span,
    },
    /// The log did not answer in time.
    #[error("log did not confirm the push within {after}: repeat the request later; is the broker running?")]
    Late {
        /// How long it was waited for.
        after: Span,
    },
    /// The log took records behind these, but did not confirm these.
    #[error("log confirmed a part of the push only ({failed} events are unconfirmed): repeat the request")]
    Unconfirmed {
        /// Events of the request that may be missing.
        failed: usize,
    },
    /// The log refused for good.
    #[error("log refused the push: {source}")]
    Refused {
        /// The cause.
        #[source]
        source: Arc<ClientError>,
    },
    /// The log can't be reached.
    #[error("log can't take the push now: {source}; repeat the request later")]
    Unavailable {
        /// The cause.
        #[source]
        source: Arc<ClientError>,
    },
    /// The counter can't be made durable.
    #[error("positions of pushed events can't be reserved: {source}")]
    State {
        /// The cause.
        #[source]
        source: Arc<StateError>,
    },
    /// The folder holds something else.
    #[error(
        "{path} does not contain a source id: restore the folder from a backup, or remove it to start as a new source"
    )]
    Damaged {
        /// The folder.
        path: String,
    },
    /// The program is stopping.
    #[error("server is stopping: repeat the request later")]
    Stopping,
}

impl IngestError {
    /// Whether the caller sends too much for now: 429.
    pub fn is_too_much(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::FullOfTenant { .. } | Self::Rate { .. })
    }

    /// Whether the same request may succeed later.
    pub fn is_retriable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Damaged { .. })
    }
}

impl From<StateError> for IngestError {
    fn from(source: StateError) -> Self {
        Self::State { source: Arc::new(source) }
    }
}
