//! `type: journald`: the journal of systemd, read by `journalctl` of this host.
//!
//! In: entries from a child process. Out: batches through the intake, and a cursor that is kept once the log has what stands
//! before it. Touches one process; libsystemd is not linked. Leaves the format to `export.rs`, what an entry says to
//! `entry.rs`, numbers and gaps to `position.rs`.
//!
//! # What can be promised
//! Nothing is lost while the journal keeps it, and nothing comes twice: a killed agent reads from its cursor on and gives
//! every entry the number that it had (`position.rs` says where that can't be). While the log is slow or away journalctl is not
//! read from and waits itself. What journald deletes meanwhile is gone: that is an error event, it is counted, and reading
//! goes on at what is left.

/// The format that journalctl writes.
mod export;
/// Where reading stands.
mod position;
/// What an entry says.
mod entry;
/// Standard error of journalctl.
mod complaints;
/// Reads the journal by a child process.
mod follow;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use async_trait::async_trait;
use millrace_log::record::Labels;
use tokio_util::sync::CancellationToken;

use self::entry::Fields;
use self::follow::Follower;
use self::position::JournalPosition;
use super::intake::Intake;
use super::outbox::Outbox;
use super::source::PushSource;
use super::streams::Stream;
use crate::config::local::JournaldSource;
use crate::error::AgentError;

/// The source, not yet running.
pub(super) struct Journald {
    config: JournaldSource,
    name: String,
}

impl Journald {
    pub fn open(config: &JournaldSource) -> Self {
        Self { config: config.clone(), name: config.full_name() }
    }
}

#[async_trait]
impl PushSource for Journald {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let partitions = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            partitions = intake.partitions() => partitions,
        };
        let Ok(partitions) = partitions else { return Ok(()) };
        let plain = intake.stream(&Labels::default(), None).map_err(|why| AgentError::Setting {
            key: format!("sources[{}].labels", self.name),
            reason: why.to_string(),
        })?;
        let shape = shape(&self.config, &plain, partitions);
        let damaged = |source| AgentError::StateEntry { key: self.name.clone(), source };
        let (position, turned) = JournalPosition::restore(intake.bookmark().as_deref(), shape).map_err(damaged)?;
        let follower = Follower {
            fields: Fields::new(&self.config, intake.max_line()),
            name: self.name,
            config: self.config,
            intake,
            plain,
            position,
            outbox: Outbox::new(),
            idle_mark: false,
            partial_sight: false,
        };
        if turned {
            follower.intake.keep_bookmark_now(follower.position.bookmark()).await?;
        }
        follower.run(&stop).await
    }
}

/// Stands for everything that decides which entries are read and which partitions they go to.
fn shape(config: &JournaldSource, plain: &Stream, partitions: usize) -> u32 {
    let config = serde_json::to_vec(config).unwrap_or_default();
    let own = crc32c::crc32c_append(crc32c::crc32c(&config), &plain.0.labels);
    crc32c::crc32c_append(own, &partitions.to_le_bytes())
}
