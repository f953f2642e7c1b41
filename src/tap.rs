//! `GET /api/v1/tap`: live records of this process's agent, as lines of JSON, for `millrace tap`.
//!
//! In: `stage` (`read`, `sent` or `dropped`; several times or left out), `source` (part of its name), `query` (a LogQL log
//! query: selector, filters, parsers), `limit` (records, then the answer ends). Out: one record in each line; a line
//! `{"missed": N}` where records were not shown because the client, or the filter, was too slow; an empty line every few
//! seconds, so that a client that has gone is noticed. Touches nothing: looking takes no record away.
//!
//! Records are what the log is for, so the door must ask who is there, or be on loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use millrace_agent::tap::{Stage, Tap, TapFilter, TapOptions, Taps};
use millrace_doors::identity::Identity;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_index::rows;
use millrace_log::record::{Labels, Tenant};
use millrace_logql::storage::StreamLabels;
use millrace_logql::{Expr, Pipeline};

/// How often something is sent although there is nothing to show.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Bytes put into one piece of the answer, about.
const PIECE: usize = 64 << 10;

/// Why a tap does not open.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("unknown parameter `{0}`: expected stage, source, query or limit")]
    Unknown(String),
    #[error("unknown stage `{0}`: expected read, sent or dropped")]
    Stage(String),
    #[error("invalid limit `{0}`: expected a number of records")]
    Limit(String),
    #[error("query `{query}`: {reason}")]
    Query { query: String, reason: String },
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    options: TapOptions,
    limit: Option<u64>,
}

impl Asked {
    fn read(query: &str) -> Result<Self, Refused> {
        let mut asked = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "stage" => asked.options.stages.push(match &*value {
                    "read" => Stage::Read,
                    "sent" => Stage::Sent,
                    "dropped" => Stage::Dropped,
                    _ => return Err(Refused::Stage(value.into_owned())),
                }),
                "source" => asked.options.source = value.into_owned(),
                "query" if value.trim().is_empty() => {}
                "query" => asked.options.filter = Some(filter(&value)?),
                "limit" => match value.parse() {
                    Ok(limit) => asked.limit = Some(limit),
                    Err(_) => return Err(Refused::Limit(value.into_owned())),
                },
                _ => return Err(Refused::Unknown(name.into_owned())),
            }
        }
        Ok(asked)
    }
}

/// A log query as a filter: what its stages make of a line is not shown, only whether the line passes.
fn filter(text: &str) -> Result<TapFilter, Refused> {
    let wrong = |reason: String| Refused::Query { query: text.to_owned(), reason };
    let Expr::Log(log) = millrace_logql::parse(text).map_err(|error| wrong(error.to_string()))? else {
        return Err(wrong("is a metric query: expected a log query such as {service=\"api\"} |= \"error\"".to_owned()));
    };
    let pipeline = Pipeline::new(&log).map_err(|error| wrong(error.to_string()))?;
    let matchers = log.matchers().map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(move |labels: &Labels, metadata: &Labels, time_ns, line: &[u8]| {
        if !rows::stream_matches(&matchers, labels) || !pipeline.passes(line) {
            return false;
        }
        let (labels, metadata): (StreamLabels, StreamLabels) = (labels.pairs().into(), metadata.pairs().into());
        pipeline.process(&labels, Some(&metadata), time_ns, line).is_some()
    }))
}

/// A filter that shows only streams of a selector.
fn confined(selector: &str, filter: Option<TapFilter>) -> Result<TapFilter, Refused> {
    let wrong = |reason: String| Refused::Query { query: selector.to_owned(), reason };
    let matchers = millrace_logql::selector_matchers(selector).map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(move |labels: &Labels, metadata: &Labels, time_ns, line: &[u8]| {
        rows::stream_matches(&matchers, labels)
            && filter.as_ref().is_none_or(|filter| filter(labels, metadata, time_ns, line))
    }))
}

/// Live records of the agent; `None` before it has started.
pub type CurrentTaps = Arc<dyn Fn() -> Option<Taps> + Send + Sync>;

/// The route; `open`: whether the door is private enough to show records.
pub fn tap_route(taps: Option<CurrentTaps>, open: bool) -> Routes {
    let tap =
        move |Extension(who): Extension<Identity>, tenant: Option<Extension<Tenant>>, RawQuery(query): RawQuery| {
            let tenant = tenant.map(|Extension(tenant)| tenant).unwrap_or_default();
            let taps = taps.as_ref().map(|taps| taps());
            async move {
                match taps {
                    Some(None) => {
                        let text = "the agent has not started yet: `/ready` says why\n";
                        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
                    }
                    taps => answer(taps.flatten(), open, (&who, tenant), query.as_deref()),
                }
            }
        };
    Routes::new().on(Need::Read, Methods::Get, "/api/v1/tap", tap)
}

fn answer(taps: Option<Taps>, open: bool, (who, tenant): (&Identity, Tenant), query: Option<&str>) -> Response {
    let Some(taps) = taps else {
        return (StatusCode::NOT_FOUND, "there is no agent in this process: query one with the section `agent`\n")
            .into_response();
    };
    if !open {
        let text = "records are shown on loopback only, unless the endpoint requires a login: configure `access`\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let mut asked = match Asked::read(query.unwrap_or_default()) {
        Ok(asked) => asked,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    asked.options.tenant = tenant;
    if let Some(selector) = &who.rights.selector {
        match confined(selector, asked.options.filter.take()) {
            Ok(filter) => asked.options.filter = Some(filter),
            Err(why) => return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
        }
    }
    match taps.open(asked.options) {
        Ok(tap) => {
            let shown = Shown { tap, left: asked.limit, ended: false };
            let body = Body::from_stream(stream::unfold(shown, |shown| shown.next()));
            ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body)
                .into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// The answer, as it comes.
struct Shown {
    tap: Tap,
    left: Option<u64>,
    ended: bool,
}

impl Shown {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.ended || self.left == Some(0) {
            return None;
        }
        let mut out = Vec::new();
        match tokio::time::timeout(SIGN_OF_LIFE, self.tap.next()).await {
            Err(_) => out.push(b'\n'),
            Ok(first) => {
                let mut next = first;
                loop {
                    let Some(seen) = next else {
                        self.ended = true;
                        break;
                    };
                    // A record holds text and numbers only: this does not fail.
                    if serde_json::to_writer(&mut out, &seen).is_ok() {
                        out.push(b'\n');
                    }
                    self.left = self.left.map(|left| left - 1);
                    if self.left == Some(0) || out.len() >= PIECE {
                        break;
                    }
                    // What is there already goes along.
                    next = match tokio::time::timeout(Duration::ZERO, self.tap.next()).await {
                        Ok(next) => next,
                        Err(_) => break,
                    };
                }
            }
        }
        let missed = self.tap.missed();
        if missed > 0 {
            out.extend_from_slice(format!("{{\"missed\":{missed}}}\n").as_bytes());
        }
        Some((Ok(out.into()), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let asked = Asked::read("stage=read&stage=dropped&source=a%2Fb&limit=7").unwrap();
        assert_eq!(asked.options.stages, [Stage::Read, Stage::Dropped]);
        assert_eq!((asked.options.source.as_str(), asked.limit), ("a/b", Some(7)));
        assert!(Asked::read("").unwrap().options.filter.is_none());
        for (query, want) in [
            ("stage=all", "unknown stage `all`"),
            ("limit=-1", "invalid limit `-1`"),
            ("stages=read", "unknown parameter `stages`"),
            ("query=%7Ba", "query `{a`"),
            ("query=rate(%7Ba%3D%22b%22%7D%5B1m%5D)", "metric query"),
        ] {
            let text = Asked::read(query).err().unwrap().to_string();
            assert!(text.contains(want), "{query}: {text}");
        }
    }

    #[test]
    fn a_query_filters_by_labels_metadata_and_line() {
        let labels = Labels::new([("service".to_owned(), "api".to_owned())]);
        let metadata = Labels::new([("trace".to_owned(), "7".to_owned())]);
        for (query, want) in [
            (r#"{service="api"}"#, true),
            (r#"{service=~"a.+"} |= "timeout""#, true),
            (r#"{service="api"} != "timeout""#, false),
            (r#"{service="web"}"#, false),
            (r#"{service="api", host=""}"#, true),
            (r#"{service="api"} | trace="7""#, true),
            (r#"{service="api"} | logfmt | ms > 50"#, true),
            (r#"{service="api"} | logfmt | ms > 500"#, false),
        ] {
            let filter = filter(query).unwrap();
            assert_eq!(filter(&labels, &metadata, 0, b"msg=timeout ms=70"), want, "{query}");
        }
    }

    fn ask(taps: Option<Taps>, open: bool, query: Option<&str>) -> Response {
        answer(taps, open, (&Identity::unlimited("root"), Tenant::default()), query)
    }

    #[test]
    fn a_forced_selector_holds_whatever_is_asked_for() {
        let pay = Labels::new([("team".to_owned(), "pay".to_owned())]);
        let ops = Labels::new([("team".to_owned(), "ops".to_owned())]);
        for (query, want) in
            [(None, [true, false]), (Some(r#"{team=~".+"}"#), [true, false]), (Some(r#"{team="ops"}"#), [false, false])]
        {
            let asked = query.map(|query| filter(query).unwrap());
            let confined = confined(r#"{team="pay"}"#, asked).unwrap();
            let found = [&pay, &ops].map(|labels| confined(labels, &Labels::default(), 0, b"x"));
            assert_eq!(found, want, "{query:?}");
        }
        assert!(confined("{team", None).is_err());
    }

    #[tokio::test]
    async fn only_a_private_door_of_an_agent_shows_records() {
        for (taps, open, want) in [
            (None, true, StatusCode::NOT_FOUND),
            (Some(Taps::default()), false, StatusCode::FORBIDDEN),
            (Some(Taps::default()), true, StatusCode::OK),
        ] {
            assert_eq!(ask(taps, open, None).status(), want);
        }
        assert_eq!(ask(Some(Taps::default()), true, Some("x=1")).status(), StatusCode::BAD_REQUEST);
        let taps = Taps::default();
        let open: Vec<Response> = (0..16).map(|_| ask(Some(taps.clone()), true, None)).collect();
        assert_eq!(ask(Some(taps.clone()), true, None).status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(open);
        assert_eq!(ask(Some(taps), true, None).status(), StatusCode::OK);
    }
}
