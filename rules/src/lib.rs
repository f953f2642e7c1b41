//! Rules over logs: rule files in, alerts out, to whoever implements [`millrace_log::alert::AlertSink`].
//!
//! Modules stand in the order in which an alert meets them.

/// The section `rules` of the configuration.
pub mod config;
/// Why rules can't go on.
pub mod error;
/// Metrics of rules.
pub mod metrics;
/// Expressions of rules.
pub mod expr;
/// Templates of labels and annotations.
pub mod template;
/// Rule files.
pub mod file;
/// Asking for the series of a rule.
pub mod evaluate;
/// Pending, firing, resolved.
pub mod state;
/// Links of alerts to the lines behind them.
mod link;
/// What the page and the API show.
pub mod view;
/// States of alerts on disk.
mod saved;
/// One group: evaluation, states, reports to the notifier.
mod group;
/// All groups at work: a task each, reload.
pub mod manager;
/// State of rules as Loki and Prometheus answer it.
pub mod api;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use config::RulesConfig;
pub use error::RulesError;
pub use evaluate::{Allowance, EvaluateError, Evaluation, Evaluator, QueryEvaluator, Sample};
pub use file::{RuleFault, check_files};
pub use manager::Rules;
pub use state::State;
pub use view::{AlertView, GroupView, Health, Overdue, RuleView, Step};
