//! What the page needs: the engine, the alerts, the clock.

use std::sync::Arc;

use millrace_index::scan::EventStore;
use millrace_log::clock::SharedClock;
use millrace_logql::Engine;

use crate::queries::Queries;

/// One alert for the page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlertRow {
    /// Name of the rule.
    pub name: String,
    /// `pending`, `firing` or `resolved`.
    pub state: String,
    /// All labels but the name.
    pub labels: Vec<(String, String)>,
    /// Value at the last evaluation.
    pub value: f64,
    /// Since when it is in this state, ns since 1970.
    pub since_ns: i64,
    /// Annotation `summary`, if there is one.
    pub summary: String,
    /// Where its lines are shown.
    pub link: String,
}

/// Where alerts come from: the rules, plugged in by the binary.
pub trait AlertList: Send + Sync + 'static {
    /// All alerts, worst first.
    fn alerts(&self) -> Vec<AlertRow>;
}

/// No rules run in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAlerts;

impl AlertList for NoAlerts {
    fn alerts(&self) -> Vec<AlertRow> {
        Vec::new()
    }
}

/// What the page needs.
#[derive(Clone)]
pub struct PageState {
    /// The index, for what is missing from it.
    pub store: Arc<dyn EventStore>,
    /// Answers queries.
    pub engine: Arc<Engine>,
    /// Lists alerts and their state.
    pub alerts: Arc<dyn AlertList>,
    /// What "the last hour" is measured by.
    pub clock: SharedClock,
    /// Where the queries of a page begin.
    pub queries: Queries,
}
