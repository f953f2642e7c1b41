//! The notifier: alerts in, messages to people out, grouped and repeated as Alertmanager does.
//!
//! Modules stand in the order in which an alert meets them.

/// The section `notify` of the configuration.
pub mod config;
/// Why the notifier can't start or go on.
pub mod error;
/// Metrics of the notifier.
pub mod metrics;
/// Matchers of labels.
pub mod matcher;
/// Time intervals.
pub mod calendar;
/// Texts not to be shown.
pub mod credential;
/// How receivers are reached by HTTP.
pub mod http_config;
/// Routing: the tree of routes, receivers, inhibition rules.
pub mod routing;
/// A configuration as text without its secrets.
mod shown;
/// `alertmanager.yml` being read.
mod reading;
mod read_http;
mod read_receivers;
mod read_intervals;
mod read_inhibit;
mod read_routes;
/// `alertmanager.yml`.
pub mod alertmanager;
/// An alert as the notifier keeps it.
pub mod alert;
/// Grouping: which alerts go out together.
pub mod group;
/// Waiting: when a group is flushed.
pub mod wait;
/// Deduplication: whether there is anything new to send.
pub mod dedup;
/// Inhibition: alerts that mute others.
mod inhibit;
/// Silences: what they mute, and which changes are allowed.
pub mod silence;
/// All silences in memory.
mod silences;
/// Ways of notifying people, and what they send.
pub mod integration;
/// The program's own log.
pub mod receiver_log;
/// Alertmanager's webhook.
pub mod receiver_webhook;
/// Alerts, silences and what was sent, on disk.
pub mod record;
/// Alerts, groups and what was sent, in memory.
mod state;
/// Groups that are due and wait.
mod due;
/// Routing and integrations at work.
mod plan;
/// A notification on its way, and the trait of the stages.
mod notification;
/// Receivers that take nothing at the moment.
mod failing;
/// What the stages share.
mod parts;
mod stage_mute_time;
mod stage_mute_silence;
mod stage_mute_inhibit;
mod stage_dedup;
mod stage_render;
mod stage_send;
mod stage_record;
/// One flush of a group through the stages.
mod flush;
/// The stages joined: which groups are due, what survives a crash.
pub mod notifier;
/// Silences of a running notifier.
mod silencing;
/// Alerts as clients post them.
mod posted;
/// Silences as clients post them.
mod posted_silence;
/// Which alerts a request asks for.
mod alert_query;
/// Silences of Alertmanager's API v2.
mod api_silences;
/// Alertmanager's API v2.
pub mod api;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use alert::Alert;
pub use config::NotifyConfig;
pub use error::NotifyError;
pub use notifier::{Inbox, Notifier};
