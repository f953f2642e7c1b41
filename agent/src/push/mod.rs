//! Sources that are no files: what is pushed to the agent, or read where nothing can be read twice.
//!
//! In: lines of sources ([`PushSource`]), each through its [`Intake`]. Out: hauls into the same lanes as those of files,
//! so that transforms, throttles, dead letters, ledger and metrics apply to them as to files. Sources touch what they
//! read from; the intake touches the state.
//!
//! # What holds
//! - A [`Batch`] is handed in whole or not at all, and its [`Receipt`] comes true when the log has all of it (or a
//!   transform dropped it, or it is a dead letter). A source acknowledges to its own clients only then.
//! - There is one memory cap for the agent. Where it is reached, [`Batch::send`] waits (for sources that can stop
//!   reading), [`Batch::send_within`] waits for a while (for clients that can be told to come again) and
//!   [`Batch::offer`] does not wait (for sources that can't: what they lose goes to [`Intake::dropped`]).
//! - Positions are durable numbers that are never given twice (`receiver.rs`). A source whose records have numbers of
//!   their own hands them in by [`Batch::push_numbered`], and is exactly-once over crashes.
//! - With a spool (`agent.spool`) a receipt comes true once the batch is synced to it; from there `spool_feed.rs` brings
//!   it into the lanes, with the numbers that it was given on its way in.
//! - Label sets are bounded: [`Intake::stream`] refuses those beyond `max_streams`.
//!
//! # A new source
//! A variant of [`crate::config::SourceConfig`] with its arm in `SourceConfig::common`, and an arm in [`open`] that makes
//! its [`PushSource`]: binding what it listens on, so that a fault stops the start.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_log::record::{Labels, RecordError, Tenant};
use tokio_util::sync::CancellationToken;

use crate::config::{Common, SourceConfig};
use crate::error::AgentError;
use crate::timestamp::TimeReader;
use crate::transform::Chain;

/// Their settings.
pub mod config;
/// Settings of those that the agent reads on its own host.
pub mod config_local;
/// An HTTP door, as several sources have it.
mod door;
/// The journal of systemd.
mod journald;
/// Lines and events out of bytes.
mod lines;
/// Batches on their way to the log.
mod outbox;
/// Programs that sources run.
mod process;
/// What a command prints.
mod source_command;
/// Lines and JSON by POST.
mod source_http;
/// Loki's push API.
mod source_loki;
/// OpenTelemetry logs.
mod source_otlp;
/// The standard input.
mod source_stdin;
/// Ids, numbers, streams and ledger of one.
pub(crate) mod receiver;
/// Acknowledged on the disk of this host while the log is away.
pub(crate) mod spool;
/// Syslog by UDP, TCP and TLS.
mod syslog;
/// From the spool into the lanes.
pub(crate) mod spool_feed;
/// The way in.
mod intake;

pub use intake::{Batch, Intake, Line, Receipt};
pub(crate) use intake::{Gate, Outlets, Shared};
pub use receiver::Stream;
pub(crate) use receiver::{Receiver, Settings};
pub(crate) use source_otlp::source_name as otlp_name;

/// A source that is no file, opened and not yet running.
#[async_trait]
pub(crate) trait PushSource: Send + Sync {
    /// Runs until `stop`, or until the source has nothing more. At the stop: takes nothing new, waits for receipts that
    /// its clients wait for (the lanes go on meanwhile), answers them and returns; after `shutdown_timeout` it is
    /// dropped. What the error says ends the agent.
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError>;
}

/// Why records were not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Rejected {
    /// No room: come again.
    #[error("agent has no room in {what}: the log is slow or away, try again")]
    Full {
        /// What is used up.
        what: &'static str,
    },
    /// The agent has not reached the log since its start.
    #[error("agent has not reached the log yet: is the broker running and `agent.kafka.brokers` right?")]
    NotReady,
    /// The agent stops: records that were taken may or may not be in the log.
    #[error("agent is stopping: try again")]
    Stopping,
    /// The spool can't be written.
    #[error("agent can't write its spool: has the disk room? Try again")]
    Spool,
    /// Too many different label sets.
    #[error(
        "more than {limit} label sets within an hour (max_streams): use labels with few values, and metadata for others"
    )]
    TooManyStreams {
        /// `max_streams`.
        limit: usize,
    },
    /// Labels that no stream may have.
    #[error("labels {labels} can't be used: {source}")]
    Labels {
        /// All of them.
        labels: Labels,
        /// What is wrong.
        #[source]
        source: Arc<RecordError>,
    },
    /// Numbers of the source's own that do not rise.
    #[error("number {number} stands behind {next}, which is the next: numbers of a source must rise")]
    Order {
        /// The number found.
        number: u64,
        /// The lowest that could be taken.
        next: u64,
    },
    /// The state can't be written.
    #[error("agent can't keep its positions: {source}")]
    State {
        /// The cause.
        #[source]
        source: Arc<AgentError>,
    },
}

impl Rejected {
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

/// What a receiver needs to know of a source's configuration.
pub(crate) fn settings(common: &Common<'_>, host: &str, chain: Option<Arc<Chain>>) -> Result<Settings, AgentError> {
    let wrong =
        |key: &str, reason: String| AgentError::Setting { key: format!("sources[{}].{key}", common.name), reason };
    let mut labels = Labels::new(common.labels.clone());
    if common.with_host && labels.get("host").is_none() {
        labels = labels.with("host", host);
    }
    labels.check().map_err(|error| wrong("labels", error.to_string()))?;
    let tenant = match common.tenant {
        "" => None,
        name => Some(Tenant::new(name).map_err(|error| wrong("tenant", error.to_string()))?),
    };
    Ok(Settings {
        name: common.name.as_str().into(),
        kind: common.kind,
        labels,
        tenant,
        max_line: usize::try_from(common.max_line_bytes.0).unwrap_or(256 << 10),
        time: common.timestamp.map(TimeReader::new).transpose()?,
        transforms: chain,
        max_streams: common.max_streams,
    })
}

/// Opens the source of an entry; `None` for files. Blocks.
pub(crate) fn open(source: &SourceConfig) -> Result<Option<Box<dyn PushSource>>, AgentError> {
    Ok(match source {
        SourceConfig::File(_) => None,
        SourceConfig::Http(http) => Some(Box::new(source_http::Http::open(http)?)),
        SourceConfig::Loki(loki) => Some(Box::new(source_loki::Loki::open(loki)?)),
        SourceConfig::Otlp(otlp) => Some(Box::new(source_otlp::Otlp::open(otlp)?)),
        SourceConfig::Syslog(syslog) => Some(Box::new(syslog::Syslog::open(syslog)?)),
        SourceConfig::Journald(journald) => Some(Box::new(journald::Journald::open(journald))),
        SourceConfig::Stdin(stdin) => Some(Box::new(source_stdin::Stdin::open(stdin)?)),
        SourceConfig::Command(command) => Some(Box::new(source_command::Command::open(command)?)),
    })
}
