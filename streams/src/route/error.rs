//! Errors of routes: what keeps them from running.
//!
//! In: causes from selectors and threads. Out: one text for people. Touches nothing.

use super::selector::SelectorError;

/// Why routes can't run.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The `match` of a route.
    #[error("route `{route}`: {source}")]
    Match {
        /// Its name.
        route: String,
        /// The cause.
        #[source]
        source: SelectorError,
    },
    /// A thread broke off.
    #[error("routes of topic `{from}`: their thread broke off")]
    Broken {
        /// What it read.
        from: String,
    },
}
