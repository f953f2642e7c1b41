//! The agent: every line of the host's log files goes to the log once, and a ledger proves it.
//!
//! Modules stand in the order in which a line meets them; each imports only modules above it.

/// Why the agent could not start or go on.
pub mod error;
/// Counters and gauges.
pub mod metrics;
/// Why reading pauses, what the log answers.
pub mod condition;
/// read = sent + dropped + waiting, for each file.
pub mod ledger;
/// Checks of settings that several sections share.
mod checks;
/// Names of labels and metadata, from names that others chose.
mod name;

// A line is found.
/// Symbolic links: which may be followed.
mod links;
/// Which files there are: globs, folders to watch, names of rotated files.
pub mod discover;
/// Wakes the reading thread when the kernel reports a change, or there is room again.
mod watch;
/// Who still writes to a deleted file.
mod writers;
/// Hashes of a file's head and of what stands before a position: how a source is found again.
pub mod fingerprint;
/// The bytes of a file at any place, unpacked if need be.
mod content;

// It is cut.
/// Memory for what is read, used over and over.
mod pool;
/// Where lines end in text of one byte or two bytes a unit.
mod line_end;
/// Which lines belong together: patterns, and traces of several languages.
pub mod multiline;
/// Cuts a window of bytes into events: lines, joined lines, lines over the limit.
pub mod split;
/// Lines as container runtimes write them.
mod container;
/// Events of a window, whatever its format: lines, lines of containers, other encodings.
mod cut;

// It is described.
/// Finds the event time in a line.
pub mod timestamp;
/// Labels from the path of a file.
mod path_labels;
/// What happens to events before they are sent: programs, filters, routes, limits, redaction.
pub mod transform;
/// The section `agent:` of the configuration.
pub mod config;
/// Tests of transforms, written in YAML.
pub mod transform_test;

// It becomes part of a batch.
/// The database of positions.
mod database;
/// What must survive a crash: sources and checkpoints, synced before anything relies on them.
pub mod state;
/// Live tail: records on their way, for whoever wants to look.
pub mod tap;
/// What sources hand over, and the limits on what is on its way.
mod batch;
/// One entry of the configuration with files, ready for use.
mod file_settings;
/// One file as a source of records: its identity, its progress and its part of the ledger.
mod file_source;
/// What waits in files before anything is read.
mod backlog;
/// The thread that reads: discovery, identity, rotation, truncation, fair passes.
mod tail;
/// Sources that are not files: what they hand in, under which numbers, and how they learn of the acknowledgement.
pub mod push;

// It is delivered.
/// From the queues to the log: transforms, encoding, retry, order, dead letters.
mod delivery;
/// Positions of acknowledged lines, written now and then.
mod checkpoint;
/// Snapshots of the ledger.
mod snapshot;
/// Puts the parts together: open, run, drain, close.
pub mod run;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use config::AgentConfig;
pub use error::AgentError;
pub use ledger::Ledger;
pub use run::Agent;
pub use snapshot::LedgerHandle;
