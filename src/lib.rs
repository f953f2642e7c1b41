//! Millrace: every line a service writes, to the screen of the person on call, in one binary.
//!
//! This root package joins the rooms (`agent`, `broker`, `index`, `aggregator`, `rules`, `notify` …) into a process. Modules are
//! declared in the order of their dependencies: each uses only those above it.

/// Control characters in what is shown.
mod escape;
/// Exit codes and the errors that lead to them.
pub mod exit;
/// Numbers, sizes and times as people read them.
mod human;
/// Messages to the service manager.
pub mod supervisor;
/// Order of start and stop.
pub mod stages;
/// The text formats of `/metrics`.
pub mod exposition;
/// Metrics of all parts, exposed together.
pub mod metrics;
/// What every process answers about itself: `/ready`, `/-/healthy`, `/metrics`.
pub mod status;
/// What came in and what became of it, stage by stage.
pub mod ledger;
/// Live records of the agent over HTTP.
pub mod tap;
/// Configuration with the place of every error.
pub mod config;
/// Audit events on their way to the log.
pub mod audit;
/// Builds the parts, plugs traits together, starts and stops them.
pub mod run;
/// The whole path on one machine, with generated services and a pager.
pub mod demo;
/// Subcommands, one file per verb.
pub mod cli;
