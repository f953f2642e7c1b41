//! The Loki HTTP API over the index and the way in.
//!
//! In: HTTP requests; the tenant as request extension `Tenant` (absent: the default one), or `SeveralTenants`, which queries
//! join. Out: Loki's answers, byte for byte where clients parse them. Touches nothing itself. Leaves authentication, request
//! limits and compression of answers to the binary, LogQL to the engine, durability to [`crate::ingest`].

use millrace_doors::browser::Bodies;
use millrace_doors::routes::{Methods, Need, Routes};

/// What went wrong, as Loki says it.
pub mod error;
/// Parameters of requests.
pub mod params;
/// Answers of queries.
pub mod json;
/// What the handlers share.
mod state;
/// `/push`
mod push;
/// Stream selectors of requests that are no queries.
mod selector;
/// `/query`
mod query;
/// `/query_range`
mod query_range;
/// `/labels`, `/label/<name>/values`
mod labels;
/// `/series`
mod series;
/// `/index/stats`
mod stats;
/// `/index/volume`, `/index/volume_range`
mod volume;
/// `/detected_labels`, `/detected_fields`, `/detected_field/<name>/values`
mod detected;
/// `/format_query`
mod format;
/// `/status/buildinfo`, `/flush`, `/services`
mod status;
/// `/tail`
mod tail;

pub use error::LokiError;
use state::Mounted;
pub use state::{LokiLimits, LokiState};

/// All routes of the Loki API, `/flush` and `/services` among them.
pub fn router(state: LokiState) -> Routes {
    use Methods::{Get, GetPost, Post};
    use Need::{LoginJoined, Read, ReadJoined, Write};
    let api = Routes::new()
        .on(Write(Bodies::NoForms), Post, "/push", push::push)
        .on(ReadJoined, GetPost, "/query", query::query)
        .on(ReadJoined, GetPost, "/query_range", query_range::query_range)
        .on(ReadJoined, GetPost, "/labels", labels::names)
        .on(ReadJoined, GetPost, "/label", labels::names)
        .on(ReadJoined, GetPost, "/label/{name}/values", labels::values)
        .on(ReadJoined, GetPost, "/series", series::series)
        .on(ReadJoined, GetPost, "/index/stats", stats::stats)
        .on(ReadJoined, GetPost, "/index/volume", volume::volume)
        .on(ReadJoined, GetPost, "/index/volume_range", volume::volume_range)
        .on(ReadJoined, GetPost, "/detected_labels", detected::labels)
        .on(ReadJoined, GetPost, "/detected_fields", detected::fields)
        .on(ReadJoined, GetPost, "/detected_field/{name}/values", detected::values)
        .on(LoginJoined, GetPost, "/format_query", format::format_query)
        .on(Read, Get, "/tail", tail::tail)
        .on(LoginJoined, Get, "/status/buildinfo", status::build_info)
        .fallback(LoginJoined, status::not_found);
    // What has no route here may belong to the page: only paths of the API get Loki's own 404.
    Routes::new()
        .nest("/loki/api/v1", api)
        .on(LoginJoined, GetPost, "/flush", status::flush)
        .on(LoginJoined, Get, "/services", status::services)
        .with_state(Mounted(state))
}

#[cfg(test)]
mod tests;
