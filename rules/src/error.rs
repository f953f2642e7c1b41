//! Why rules can't start or go on.
//!
//! In: causes from files, state and configuration. Out: one text for people. Touches nothing.

use millrace_log::store::StoreError;
use millrace_log::yaml::LocatedFault;

/// Errors of this crate's rooms.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Files with faults.
    #[error("{}", listed(faults))]
    Files {
        /// Each with its place.
        faults: Vec<LocatedFault>,
    },
    /// State could not be opened, read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration was not checked before.
    #[error("configuration is not valid: {message}")]
    Config {
        /// What is wrong.
        message: String,
    },
}

fn listed(faults: &[LocatedFault]) -> String {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    texts.join("\n")
}
