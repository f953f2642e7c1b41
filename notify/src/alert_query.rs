//! Which alerts a request of Alertmanager's API asks for.
//!
//! In: the query of a request, and who asks. Out: an [`AlertQuery`], or the answer that refuses it. Touches nothing.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_doors::identity::Identity;
use millrace_logql::storage::LabelMatcher;

use crate::matcher::{Matcher, anchored};
use crate::silence::Silence;
use crate::silencing::AlertView;

/// Filters of one request at most.
const MAX_FILTERS: usize = 64;

/// What a request asks of alerts.
#[derive(Debug)]
pub(crate) struct AlertQuery {
    filters: Vec<Matcher>,
    receiver: Option<regex::bytes::Regex>,
    active: bool,
    silenced: bool,
    inhibited: bool,
    muted: bool,
    /// Forced by who asks.
    confines: Vec<LabelMatcher>,
}

/// Matchers of the selector that whoever asks is confined to.
fn confines(who: &Identity) -> Result<Vec<LabelMatcher>, Response> {
    let Some(text) = &who.rights.selector else { return Ok(Vec::new()) };
    millrace_logql::selector_matchers(text)
        .map_err(|error| (StatusCode::FORBIDDEN, Json(error.to_string())).into_response())
}

impl AlertQuery {
    pub(crate) fn parse(query: Option<&str>, who: &Identity) -> Result<Self, Response> {
        let bad = |message: String| (StatusCode::BAD_REQUEST, Json(message)).into_response();
        let mut own = Self {
            filters: Vec::new(),
            receiver: None,
            active: true,
            silenced: true,
            inhibited: true,
            muted: true,
            confines: confines(who)?,
        };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let flag = match &*name {
                "filter" if own.filters.len() >= MAX_FILTERS => {
                    return Err(bad(format!("too many filters: {MAX_FILTERS} are allowed")));
                }
                "filter" => {
                    own.filters.push(Matcher::parse(&value).map_err(bad)?);
                    continue;
                }
                "receiver" => {
                    let regex = anchored(&value).map_err(|e| bad(format!("failed to parse receiver param: {e}")))?;
                    own.receiver = Some(regex);
                    continue;
                }
                "active" => &mut own.active,
                "silenced" => &mut own.silenced,
                "inhibited" => &mut own.inhibited,
                "muted" => &mut own.muted,
                // No alert waits to be looked at: `unprocessed` leaves none out.
                _ => continue,
            };
            // As in Alertmanager: what is not one of these words means no, and nothing means nothing.
            if !value.is_empty() {
                *flag = ["true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"]
                    .iter()
                    .any(|word| value.eq_ignore_ascii_case(word));
            }
        }
        Ok(own)
    }

    /// Whether groups of a receiver are asked for.
    pub(crate) fn wants_receiver(&self, receiver: &str) -> bool {
        self.receiver.as_ref().is_none_or(|regex| regex.is_match(receiver.as_bytes()))
    }

    /// Whether groups are asked for that time intervals mute.
    pub(crate) fn wants_muted(&self) -> bool {
        self.muted
    }

    /// Whether an alert is asked for, wherever it goes.
    pub(crate) fn wants(&self, view: &AlertView) -> bool {
        let (labels, by) = (&view.alert.labels, &view.suppression);
        (self.active || by.is_suppressed())
            && (self.silenced || by.silenced_by.is_empty())
            && (self.inhibited || by.inhibited_by.is_none())
            && self.filters.iter().all(|filter| filter.matches(labels))
            && self.confines.iter().all(|m| m.matches(labels.get(&m.name).map_or("", String::as_str)))
    }

    /// Whether a silence is asked for: it has matchers as the filters are written. Who is confined to streams sees those that
    /// silence nothing else.
    pub(crate) fn wants_silence(&self, silence: &Silence) -> bool {
        let equals = |m: &LabelMatcher| {
            let own = silence.matchers.iter().filter(|own| own.name == m.name && own.operator.is_equal());
            own.filter(|own| !own.operator.is_regex()).any(|own| m.matches(&own.value))
        };
        self.filters.iter().all(|filter| silence.matchers.contains(filter)) && self.confines.iter().all(equals)
    }
}
