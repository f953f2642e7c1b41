//! The partitioned log and the words that every room of Millrace shares.
//!
//! Modules stand in the order in which a record meets them.

/// The shared words: events, labels, sources, positions, and how one event is written as one Kafka record.
pub mod record;
/// Ids of topics, which tell a topic that was created anew.
pub mod topic_id;
/// Records that no stage can use, with the reason.
pub mod dead_letter;
/// Bodies of pushes that come by HTTP: compression, Loki's forms.
pub mod push;
/// Values that configuration is written in: durations, sizes, secrets; and faults with the path of the key.
pub mod value;
/// How Go prints numbers, strings and times, for what Prometheus and Alertmanager users read.
pub mod go;
/// YAML files as trees with lines and columns, and the faults of files.
pub mod yaml;
/// Snapshots of databases that a full disk left unfinished.
mod snapshot_files;
/// Databases that are still locked.
pub mod database_lock;
/// Small state on disk, synced: named trees of keys and JSON values.
pub mod store;
/// Alerts, and the trait by which they are handed to a notifier.
pub mod alert;
/// Errors with their causes, in one line.
pub mod causes;
/// Networks: addresses that begin alike.
pub mod network;
/// Requests to other systems by HTTP, and where they may go.
pub mod outgoing;
/// Time as a seam: the system's clock, or one that a test moves.
pub mod clock;
/// Numbers as records hold them.
pub mod varint;
/// Disk as a seam: the real one, and one in memory that crashes, tears and fails.
pub mod fs;
/// Kafka connection settings, as every role has them.
pub mod kafka;
/// Kafka's wire protocol: connections, metadata, batches, fetching, membership, transactions.
pub mod native;
/// The way to the log, embedded or real: producers, consumers, readers, and the traits that parts know.
pub mod client;
/// The loop under every consumer of the log: discover, poll, deliver, commit; gaps, pauses, lag.
pub mod consume;
/// Looks after any Kafka: topics, their settings, consumer groups.
pub mod admin;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
