//! Millrace: every line a service writes, to the screen of the person on call, in one binary.
//!
//! This root package joins the rooms (`log`, `logql`, `agent`, `aggregator`, `rules`) into a process. Modules stand in
//! the order in which a start meets them.

/// Subcommands, one file per verb.
pub mod cli;
/// Configuration with the place of every fault.
pub mod config;
/// Exit codes and the errors that lead to them.
pub mod exit;
/// Builds the parts, plugs traits together, starts and stops them.
pub mod run;
/// What came in and what became of it, hop by hop.
pub mod ledger;
/// Numbers, sizes and times as people read them.
mod human;
/// Live records of the agent at a door.
pub mod tap;
/// What the service manager is told.
pub mod supervisor;
/// Order of start and stop.
pub mod stages;
/// HTTP doors: tenant, authentication, limits, `/ready`, `/metrics`.
pub mod http;
/// The whole path on one machine, with generated services and a pager.
pub mod demo;
