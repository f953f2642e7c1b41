//! The page at `/`: search, histogram, result lines, live tail, alerts. Rendered here, embedded in the binary, with no
//! need of a network: one style sheet, one small script, no fonts, no third-party code.
//!
//! In: a query in LogQL and a time range as parameters of the address (so that a page can be sent to a colleague).
//! Out: HTML. Touches nothing but the engine and the list of alerts. Live tail is Loki's own WebSocket, read by the script.

/// What the page shows, asked of engine and rules.
mod data;
/// Bars over time as SVG.
mod histogram;
/// The HTML.
mod page;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use millrace_log::clock::SharedClock;
use millrace_log::record::Tenant;
use millrace_logql::Engine;
use millrace_logql::storage::QueryLimits;
use tokio_util::sync::CancellationToken;

pub use data::{AlertList, AlertRow, NoAlerts};
use data::{Found, Params, Range};

/// What the page needs.
#[derive(Clone)]
pub struct PageState {
    /// Answers queries.
    pub engine: Arc<Engine>,
    /// Lists alerts and their state.
    pub alerts: Arc<dyn AlertList>,
    /// Tells what "the last hour" is.
    pub clock: SharedClock,
    /// What one page may cost.
    pub limits: QueryLimits,
}

/// Routes of the page.
pub fn router(state: PageState) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/alerts", get(alerts))
        .route("/static/page.css", get(|| async { fixed("text/css; charset=utf-8", include_str!("page.css")) }))
        .route("/static/page.js", get(|| async { fixed("text/javascript; charset=utf-8", include_str!("page.js")) }))
        .with_state(state)
}

fn fixed(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// Everything comes from this host: even a line that got past the escaping could load or send nothing.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

fn html(markup: maud::Markup) -> Response {
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::REFERRER_POLICY, "same-origin")];
    (headers, markup).into_response()
}

async fn show(
    State(state): State<PageState>,
    tenant: Option<Extension<Tenant>>,
    Query(params): Query<Params>,
) -> Response {
    let tenant = tenant.map(|Extension(tenant)| tenant).unwrap_or_default();
    let range = Range::of(&params, state.clock.now_ns());
    // Ends the queries when the browser goes away before they are done.
    let cancel = CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    let found = match params.query() {
        "" => Found::default(),
        query => data::find(&state, tenant.as_str(), query, &range, params.limit(), cancel).await,
    };
    drop(guard);
    html(page::whole(&params, &range, &found, &state.alerts.alerts()))
}

/// The list of alerts alone: the script asks for it every few seconds.
async fn alerts(State(state): State<PageState>) -> Response {
    html(page::alert_list(&state.alerts.alerts()))
}
