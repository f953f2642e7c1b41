//! What the page needs: the engine, the alerts, the clock.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use millrace_index::scan::EventStore;
use millrace_log::clock::SharedClock;
use millrace_log::record::Tenant;
use millrace_logql::Engine;

use crate::queries::Queries;

use crate::scope;

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
    /// All alerts of a tenant, worst first; none of others.
    fn alerts(&self, tenant: &Tenant) -> Vec<AlertRow>;
}

/// No rules run in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAlerts;

impl AlertList for NoAlerts {
    fn alerts(&self, _: &Tenant) -> Vec<AlertRow> {
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

impl PageState {
    /// Alerts that somebody sees who asks for this tenant: those of streams that they see.
    pub fn alerts_of(&self, tenant: &Tenant) -> Vec<AlertRow> {
        let confines = self.store.confines();
        let mut alerts = self.alerts.alerts(tenant);
        alerts.retain(|alert| {
            let value = |name: &str| alert.labels.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value);
            confines.iter().all(|matcher| matcher.matches(value(&matcher.name)))
        });
        alerts
    }
}

/// What is mounted: handlers get at it by way of [`Scoped`] only.
#[derive(Clone)]
pub(super) struct Mounted(pub(super) PageState);

/// What the page needs, with the streams only that whoever asks may see.
pub(super) struct Scoped(pub(super) PageState);

impl FromRequestParts<Mounted> for Scoped {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, mounted: &Mounted) -> Result<Self, Response> {
        let mut state = mounted.0.clone();
        scope::confine(parts, &mut state.store, &mut state.engine)?;
        Ok(Self(state))
    }
}
