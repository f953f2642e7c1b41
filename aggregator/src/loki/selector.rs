//! Stream selectors of requests that are no queries: `{app="api"}` and nothing behind it.
//!
//! In: text. Out: matchers for a plan. Touches nothing. Leaves the grammar to `millrace_logql`.

use millrace_log::record::Tenant;
use millrace_logql::Expr;
use millrace_logql::storage::LabelMatcher;

use super::error::LokiError;
use millrace_index::scan::{Budget, Kind, Order, Plan};

/// Reads a selector; an empty text or `{}` means all streams.
pub(super) fn parse(text: &str) -> Result<Vec<LabelMatcher>, LokiError> {
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if bare.is_empty() || bare == "{}" {
        return Ok(Vec::new());
    }
    match millrace_logql::parse(text).map_err(|e| LokiError::Query(e.into()))? {
        Expr::Log(log) if log.stages.is_empty() => log
            .selector
            .matchers
            .into_iter()
            .map(|m| LabelMatcher::new(m.name, m.op, m.value).map_err(|e| LokiError::Bad(format!("parse error : {e}"))))
            .collect(),
        _ => Err(LokiError::bad("only label matchers are supported")),
    }
}

/// A plan for all events of some streams.
pub(super) fn plan(
    tenant: &Tenant,
    matchers: Vec<LabelMatcher>,
    (start_ns, end_ns): (i64, i64),
    budget: Budget,
) -> Plan {
    Plan {
        tenant: tenant.clone(),
        matchers,
        start_ns,
        // What stands at the very end counts in requests for labels and sizes.
        end_ns: end_ns.saturating_add(1),
        needles: Vec::new(),
        kind: Kind::All,
        order: Order::Any,
        expect: None,
        budget,
    }
}
