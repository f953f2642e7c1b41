//! The notifier: alerts in, messages to people out, grouped and repeated as Alertmanager does.
//!
//! Modules stand in the order in which an alert meets them.

/// The section `notify` of the configuration.
pub mod config;
/// Why the notifier can't start or go on.
pub mod error;
/// Metrics of the notifier.
pub mod metrics;
/// `alertmanager.yml`.
pub mod alertmanager;
/// An alert as the notifier keeps it.
pub mod alert;
/// Which alerts are told together.
pub mod group;
/// When a group is told.
pub mod wait;
/// Whether there is anything new to tell.
pub mod dedup;
/// All alerts, groups and records of messages.
mod book;
/// Telling it, with pauses between failing attempts.
pub mod retry;
/// The program's own log.
pub mod receiver_log;
/// Alertmanager's webhook.
pub mod receiver_webhook;
/// Recording what was told.
pub mod record;
/// The stages joined: whose turn it is, what survives a crash.
pub mod notifier;
/// Alertmanager's API v2.
pub mod api;

pub use alert::Alert;
pub use config::NotifyConfig;
pub use error::NotifyError;
pub use notifier::{GroupedAlerts, Inbox, Notifier};
