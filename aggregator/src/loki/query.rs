//! `/query`: a metric query at one moment.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use millrace_logql::{Answered, Direction, Expr, InstantQuery};

use super::error::LokiError;
use super::json;
use super::params::{DEFAULT_LIMIT, Params, time};
use super::state::{Scoped, Whose};

/// Header in which Grafana asks to keep labels of streams, metadata and parsers apart.
const ENCODING_FLAGS: &str = "X-Loki-Response-Encoding-Flags";
/// Entries above which an answer is written on a blocking thread.
const RENDER_INLINE: usize = 200;

pub(super) async fn query(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, LokiError> {
    let time_ns = time(params.get("time"), state.clock.now_ns()).map_err(LokiError::Bad)?;
    params.limit(DEFAULT_LIMIT)?;
    let direction = params.direction()?;
    let expr = Arc::new(parse(params.get("query"))?);
    if let Expr::Log(_) = *expr {
        return Err(LokiError::bad(
            "log queries are not supported as an instant query type, please change your query to a range query type",
        ));
    }
    let answered = state
        .run(&tenant, |budget| {
            let query = InstantQuery { tenant: tenant.as_str().to_owned(), query: Arc::clone(&expr), time_ns, budget };
            state.engine.query_instant(query)
        })
        .await?;
    let warnings = state.missing(&tenant, &expr, time_ns, time_ns.saturating_add(1));
    render(answered, direction, &headers, warnings).await
}

/// Reads a query; an absent one has Loki's own text.
pub(super) fn parse(text: &str) -> Result<Expr, LokiError> {
    if text.is_empty() {
        return Err(LokiError::bad("parse error : syntax error: unexpected $end"));
    }
    millrace_logql::parse(text).map_err(|e| LokiError::Query(e.into()))
}

/// Writes the answer; large ones away from the threads that serve connections.
pub(super) async fn render(
    answered: Answered,
    direction: Direction,
    headers: &HeaderMap,
    warnings: Vec<String>,
) -> Result<Response, LokiError> {
    let categorize = headers
        .get_all(ENCODING_FLAGS)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|flag| flag.trim() == "categorize-labels");
    let size = match &answered.value {
        millrace_logql::Answer::Streams(streams) => streams.iter().map(|s| s.entries.len()).sum(),
        millrace_logql::Answer::Matrix(series) => series.iter().map(|s| s.points.len()).sum(),
        millrace_logql::Answer::Vector(samples) => samples.len(),
        millrace_logql::Answer::Scalar(..) => 1,
    };
    let text = if size <= RENDER_INLINE {
        json::query(&answered, direction, categorize, &warnings)
    } else {
        tokio::task::spawn_blocking(move || json::query(&answered, direction, categorize, &warnings))
            .await
            .map_err(|_| LokiError::Stopping)?
    };
    Ok(json::answer(text))
}
