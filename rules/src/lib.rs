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
/// Asking for the series of a rule.
pub mod evaluate;
/// Pending, firing, resolved.
pub mod state;
/// Groups at work: turns, states, reports.
pub mod manager;
/// The notifier: grouping, waiting, deduplication, delivery.
pub mod notify;
/// The HTTP APIs of both.
pub mod api;
/// Metrics of rules and notifier.
pub mod metrics;
/// Why rules or the notifier can't go on.
pub mod error;

pub use alert::{Alert, AlertSink, NewAlert, SinkError};
pub use config::{NotifyConfig, RulesConfig};
pub use error::RulesError;
pub use evaluate::{EvaluateError, Evaluation, Evaluator, QueryEvaluator, Sample};
pub use file::{RuleFault, check_files};
pub use manager::{AlertView, GroupView, Health, RuleView, Rules};
pub use notify::Notifier;
pub use state::State;
