//! Rules over logs and the notifier that tells people: rule files in, alerts evaluated, pages out.
//!
//! Modules stand in the order in which an alert meets them.

/// Configuration: the sections `rules` and `notify`.
pub mod config;
/// YAML as a tree with lines and columns, and the faults of files.
pub mod yaml;
/// Rule files.
pub mod file;
/// Expressions of rules.
pub mod expr;
/// Templates of labels and annotations.
pub mod template;
/// How Go prints numbers, strings and times.
pub mod go;
/// Label sets, fingerprints, alerts.
pub mod alert;
/// State on disk, synced.
pub mod store;
