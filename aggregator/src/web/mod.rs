//! The page at `/`: search, histogram, result lines, live tail, alerts. Rendered here, embedded in the binary, with no
//! need of a network: one style sheet, one small script, no fonts, no third-party code.
//!
//! In: a query in LogQL, or plain words, and a time range as parameters of the address (so that a page can be sent to a
//! colleague, or stand in an alert). Out: HTML. Touches nothing but the engine and the list of alerts. Live tail is Loki's
//! own WebSocket, read by the script.

/// What the page needs.
mod state;
/// What the search box says.
mod query;
/// Times and numbers for people.
mod text;
/// Parameters of the address, the time range that they name.
mod range;
/// What the engine finds for a page.
mod data;
/// Bars over time as SVG.
mod histogram;
/// The HTML.
mod page;

use std::slice;
use std::sync::Arc;

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_doors::identity::InSession;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_log::record::Tenant;
use millrace_logql::Expr;
use millrace_logql::storage::QueryLimits;

use data::QueryResult;
use page::Page;
use query::Asked;
use range::{Params, Range};
pub use state::{AlertList, AlertRow, NoAlerts, PageState};
use state::{Mounted, Scoped};

/// Routes of the page.
pub fn router(state: PageState) -> Routes {
    use Methods::Get;
    use Need::{Login, Public, Read};
    Routes::new()
        .on(Read, Get, "/", show)
        .on(Read, Get, "/alerts", alerts)
        .on(Login, Get, "/logql", logql)
        .on(Public, Get, "/static/page.css", async || fixed("text/css; charset=utf-8", include_str!("page.css")))
        .on(Public, Get, "/static/page.js", async || fixed("text/javascript; charset=utf-8", include_str!("page.js")))
        .with_state(Mounted(state))
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
    Scoped(state): Scoped,
    tenant: Option<Extension<Tenant>>,
    session: Option<Extension<InSession>>,
    Query(params): Query<Params>,
) -> Response {
    let session = session.as_ref().map(|Extension(session)| session);
    let tenant = tenant.map(|Extension(tenant)| tenant).unwrap_or_default();
    let now_ns = state.clock.now_ns();
    let (range, fault) = match Range::of(&params, now_ns) {
        Ok(range) => (range, None),
        Err(fault) => (Range::latest(now_ns), Some(fault)),
    };
    let asked = Asked::read(params.query());
    let found = match (&asked, fault) {
        (_, Some(fault)) => QueryResult { error: Some(fault), ..QueryResult::default() },
        (Err(fault), None) => QueryResult { error: Some(fault.clone()), ..QueryResult::default() },
        (Ok(Asked { expr: Some(expr), text, .. }), None) if !params.is_tail() => {
            find(&state, &tenant, (text, expr), &range, params.limit()).await
        }
        _ => QueryResult::default(),
    };
    let alerts = state.alerts_of(&tenant);
    let asked = asked.unwrap_or_default();
    let (params, found, alerts) = (&params, &found, &alerts);
    html(page::whole(&Page { params, asked: &asked, range: &range, found, alerts, session }))
}

/// Runs the queries of one page, all in one budget; the browser may go away before they are done.
async fn find(
    state: &PageState,
    tenant: &Tenant,
    (text, expr): (&str, &Arc<Expr>),
    range: &Range,
    limit: usize,
) -> QueryResult {
    let tenants = slice::from_ref(tenant);
    let limits = state.queries.limits(tenants);
    let limits = QueryLimits { max_entries: limits.max_entries.max(limit), ..limits };
    match state.queries.begin_within(tenants, limits).await {
        Ok(request) => data::find(state, tenant, text, expr, range, limit, request.budget()).await,
        Err(refused) => QueryResult { error: Some(refused.to_string()), ..QueryResult::default() },
    }
}

/// The list of alerts alone: the script asks for it every few seconds.
async fn alerts(Scoped(state): Scoped, tenant: Option<Extension<Tenant>>) -> Response {
    let tenant = tenant.map(|Extension(tenant)| tenant).unwrap_or_default();
    html(page::alert_list(&state.alerts_of(&tenant)))
}

/// What live tail asks the Loki API for: the log query that the text of the box means.
async fn logql(Query(params): Query<Params>) -> Response {
    match Asked::read(params.query()).and_then(Asked::into_tail) {
        Ok(asked) => Json(serde_json::json!({"query": asked.text, "marks": asked.marks})).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(serde_json::json!({"error": error}))).into_response(),
    }
}

#[cfg(test)]
mod tests;
