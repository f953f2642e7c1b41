//! The agent: every line of the host's log files goes to the log once, and a ledger proves it.
//!
//! Modules stand in the order in which a line meets them.

/// The section `agent:` of the configuration.
pub mod config;
/// Why the agent could not start or go on.
pub mod error;
/// Which files there are: globs, folders to watch, names of rotated files.
pub mod discover;
/// Told by the kernel that a file changed; wakes the thread that reads.
mod watch;
/// The bytes of a file at any place, unpacked if need be.
mod content;
/// Who still writes to a deleted file.
mod writers;
/// Hashes of a file's head and of what stands before a position: how a source is found again.
pub mod fingerprint;
/// Live records for whoever wants to look.
pub mod tap;
/// What is in the way now: why reading stands still, what the log says.
pub mod condition;
/// What the lanes know of a source, whatever it is.
mod feed;
/// How much is on its way to one partition at once.
mod flow;
/// Where lines end in text of one byte or two bytes a unit.
mod line_end;
/// Names of labels and metadata, from names that others chose.
mod name;
/// One file as a source of records: its identity, its progress and its part of the ledger.
mod source;
/// Which lines belong together: patterns, and traces of several languages.
pub mod multiline;
/// Cuts a window of bytes into events: lines, joined lines, lines over the limit.
pub mod split;
/// Labels from the path of a file.
mod path_labels;
/// Lines as container runtimes write them.
mod container;
/// Events of a window, whatever its format: lines, lines of containers, other encodings.
mod cut;
/// Finds the event time in a line.
pub mod timestamp;
/// What happens to events before they are sent: programs, filters, routes, limits, redaction.
pub mod transform;
/// Memory for what is read, used over and over.
mod pool;
/// The thread that reads: discovery, identity, rotation, truncation, fair turns.
mod tail;
/// Sources that are no files: what they hand in, under which numbers, and who is told of the acknowledgement.
pub mod push;
/// Runs the transforms for a lane, and sends what became of the events to their topics.
mod dispatch;
/// Sends what was read, one lane for each partition; waits, repeats, sets aside.
mod producer;
/// What must survive a crash: sources and checkpoints, synced before anything relies on them.
pub mod state;
/// read = sent + dropped + waiting, for each file.
pub mod ledger;
/// Counters and gauges.
pub mod metrics;
/// Puts the parts together: open, run, drain, close.
pub mod run;

pub use config::AgentConfig;
pub use error::AgentError;
pub use ledger::{Ledger, LedgerHandle};
pub use run::Agent;
