//! Sources that are not files: what is pushed to the agent, or read where nothing can be read twice.
//!
//! In: lines of sources ([`PushSource`]), each through its [`Intake`]. Out: batches into the same queues as those of files,
//! so that transforms, throttles, dead letters, ledger and metrics apply to them as to files. Sources touch what they
//! read from; the intake touches the state.
//!
//! # What holds
//! - A [`Batch`] is handed in whole or not at all, and its [`Receipt`] comes true when the log has all of it (or a
//!   transform dropped it, or it is a dead letter). A source acknowledges to its own clients only then.
//! - There is one memory cap for the agent. Where it is reached, [`Batch::send`] waits (for sources that can stop
//!   reading), [`Batch::send_within`] waits for a while (for clients that can retry) and
//!   [`Batch::offer`] does not wait (for sources that can't: what they lose goes to [`Intake::dropped`]).
//! - Positions are durable numbers that are never given twice (`receiver.rs`). A source whose records have numbers of
//!   their own hands them in by [`Batch::push_numbered`], and is exactly-once over crashes.
//! - With a spool (`agent.spool`) a receipt comes true once the batch is synced to it; from there `spool_feed.rs` brings
//!   it into the queues of the senders, with the numbers that it was given on its way in.
//! - Label sets are bounded: [`Intake::stream`] refuses those beyond `max_streams`. Where all are in use, each client of a
//!   source ([`Intake::of`]) has an equal share.
//!
//! # A new source
//! A variant of [`crate::config::SourceConfig`] with its arm in `SourceConfig::common`, and an arm in [`open`] that makes
//! its [`PushSource`]: binding what it listens on, so that a fault stops the start.

use std::sync::Arc;

use millrace_doors::access::Access;
use millrace_log::record::{Labels, Tenant};

use crate::config::{Common, SourceConfig};
use crate::error::AgentError;
use crate::timestamp::TimeReader;
use crate::transform::Chain;

/// Why records are not taken.
mod rejected;
/// Streams of one source, shared fairly among its clients.
mod streams;
/// Ids, numbers and ledger of one source.
pub(crate) mod receiver;
/// Format of the spool.
mod frame;
/// Acknowledged on the disk of this host while the log is away.
pub(crate) mod spool;
/// Records of one stream.
mod records;
/// Where batches leave to.
mod exit;
/// The way in.
mod intake;
/// How a source is run.
mod source;
/// From the spool into the queues of the senders.
pub(crate) mod spool_feed;
/// Lines and events out of bytes.
mod lines;
/// One stream of bytes on its way to batches.
mod channel;
/// Batches on their way to the log.
mod outbox;
/// Programs that sources run.
mod process;
/// What pushes by HTTP have in common.
mod request;
/// Lines and JSON by POST.
mod source_http;
/// Loki's push API.
mod source_loki;
/// A method of gRPC whose messages its handler decodes.
mod grpc;
/// What OpenTelemetry's messages take in memory.
mod otlp_cost;
/// What OpenTelemetry's messages say.
mod otlp_records;
/// OpenTelemetry logs.
mod source_otlp;
/// Syslog by UDP, TCP and TLS.
pub(crate) mod syslog;
/// The journal of systemd.
pub(crate) mod journald;
/// The standard input.
mod source_stdin;
/// What a command prints.
mod source_command;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub(crate) use exit::{Gate, Outlets};
pub(crate) use intake::IntakeContext;
pub use intake::{Batch, Intake, Receipt};
pub(crate) use receiver::{Receiver, Receivers, Settings};
pub use records::Line;
pub use rejected::Rejected;
pub(crate) use source::PushSource;
pub use streams::Stream;

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
pub(crate) fn open(source: &SourceConfig, access: Option<&Access>) -> Result<Option<Box<dyn PushSource>>, AgentError> {
    Ok(match source {
        SourceConfig::File(_) => None,
        SourceConfig::Http(http) => Some(Box::new(source_http::Http::open(http, access)?)),
        SourceConfig::Loki(loki) => Some(Box::new(source_loki::Loki::open(loki, access)?)),
        SourceConfig::Otlp(otlp) => Some(Box::new(source_otlp::Otlp::open(otlp, access)?)),
        SourceConfig::Syslog(syslog) => Some(Box::new(syslog::Syslog::open(syslog)?)),
        SourceConfig::Journald(journald) => Some(Box::new(journald::Journald::open(journald))),
        SourceConfig::Stdin(stdin) => Some(Box::new(source_stdin::Stdin::open(stdin)?)),
        SourceConfig::Command(command) => Some(Box::new(source_command::Command::open(command)?)),
    })
}
