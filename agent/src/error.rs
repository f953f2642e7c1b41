//! Why the agent could not start or go on. What can go on (an unreadable file, a log that is away) is no error here:
//! it is logged once and retried.

use std::io;
use std::path::PathBuf;

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or folder of the agent's state.
    #[error("{what} {} failed: {source}: check that the disk has room and the folder belongs to this user", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process works there.
    #[error("{} is in use by another process: stop it or choose another data folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, this program supports up to {supported}: run the newer program or choose another data folder", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its version as written.
        found: String,
        /// The highest version that this program reads.
        supported: u32,
    },
    /// The database of positions.
    #[error("database of positions in {} failed: {source}", path.display())]
    Database {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sled::Error,
    },
    /// A value of the database can't be written or read as JSON.
    #[error(
        "entry {key} of the agent's positions is damaged: {source}: removing the folder would make the agent read all files from the start"
    )]
    StateEntry {
        /// Its key.
        key: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A glob of the configuration.
    #[error("invalid glob `{pattern}`: {source}")]
    Glob {
        /// As written.
        pattern: String,
        /// The cause.
        #[source]
        source: globset::Error,
    },
    /// A regular expression of the configuration.
    #[error("invalid regular expression `{pattern}`: {source}")]
    Regex {
        /// As written.
        pattern: String,
        /// The cause.
        #[source]
        source: Box<regex::Error>,
    },
    /// A setting that a check should have reported.
    #[error("invalid setting `agent.{key}`: {reason}: run `millrace validate`")]
    Setting {
        /// Path of the key in the agent's section.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// An address can't be listened on.
    #[error(
        "source {name} can't listen on {address}: {source}: stop the process that uses the port, or set `{key}` of the source to another address"
    )]
    Listen {
        /// The source.
        name: String,
        /// The key of its configuration.
        key: &'static str,
        /// The address as configured.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The standard input can't be read.
    #[error("source {name} can't read standard input: {source}: lines read before are still sent")]
    Input {
        /// The source.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("can't start thread {name}: {source}: check the process limit (ulimit -u)")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A part ended that must not.
    #[error("{part} of the agent ended unexpectedly: this is a bug, please restart the agent and report it")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}

impl AgentError {
    /// Whether it is the disk's, and may be over once that has room again.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Database { source: sled::Error::Io(_), .. })
    }

    /// Whether a disk has no room.
    pub fn is_full_disk(&self) -> bool {
        let (Self::File { source, .. } | Self::Database { source: sled::Error::Io(source), .. }) = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
