//! Parameters of requests, read as Loki reads them.
//!
//! In: query string and, for POST, the form body (which comes first, as in Go's `Form`). Out: times in ns, steps,
//! limits, with Loki's error texts. Touches nothing.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, header};
use millrace_log::value::Span;
use millrace_logql::Direction;

use super::error::LokiError;

/// Points that one series of a range query may have.
pub const MAX_POINTS: i64 = 11_000;
/// Entries of a log query if `limit` is absent.
pub const DEFAULT_LIMIT: usize = 100;
const SECOND: i64 = 1_000_000_000;
/// How far back queries go without `start` and `since`.
pub const QUERY_SINCE: i64 = 3600 * SECOND;
/// How far back label and series requests go without `start` and `since`.
pub const LABEL_SINCE: i64 = 6 * 3600 * SECOND;

/// All parameters of a request, in order; names may be repeated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query string and a form.
    pub fn new(query: &str, form: &[u8]) -> Self {
        let pairs = url::form_urlencoded::parse(form).chain(url::form_urlencoded::parse(query.as_bytes()));
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a name; "" if absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Start and end in ns; `now_ns` and `since_ns` are the defaults.
    pub fn bounds(&self, now_ns: i64, since_ns: i64) -> Result<(i64, i64), LokiError> {
        let since = match self.get("since") {
            "" => since_ns,
            text => duration(text).map_err(|e| LokiError::bad(format!("could not parse 'since' parameter: {e}")))?,
        };
        let end = time(self.get("end"), now_ns)
            .map_err(|e| LokiError::bad(format!("could not parse 'end' parameter: {e}")))?;
        // An end in the future must not move the default start there.
        let start = time(self.get("start"), end.min(now_ns).saturating_sub(since))
            .map_err(|e| LokiError::bad(format!("could not parse 'start' parameter: {e}")))?;
        Ok((start, end))
    }

    /// `limit`, 1 at least.
    pub fn limit(&self, default: usize) -> Result<usize, LokiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(default);
        }
        let limit: i64 =
            text.parse().map_err(|_| LokiError::bad(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?;
        match usize::try_from(limit) {
            Ok(limit) if limit > 0 => Ok(limit),
            _ => Err(LokiError::bad("limit must be a positive value")),
        }
    }

    /// `direction`, backward by default.
    pub fn direction(&self) -> Result<Direction, LokiError> {
        let text = self.get("direction");
        if text.is_empty() || text.eq_ignore_ascii_case("backward") {
            Ok(Direction::Backward)
        } else if text.eq_ignore_ascii_case("forward") {
            Ok(Direction::Forward)
        } else {
            Err(LokiError::bad(format!("invalid direction '{text}'")))
        }
    }

    /// `step` in ns, checked against the number of points; by default 250 points, at least a second.
    pub fn step(&self, start: i64, end: i64) -> Result<i64, LokiError> {
        let span = end.saturating_sub(start);
        let step = match self.get("step") {
            "" => (span / SECOND / 250).max(1) * SECOND,
            text => seconds_or_duration(text)?,
        };
        if step <= 0 {
            let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
            return Err(LokiError::bad(text));
        }
        if span / step > MAX_POINTS {
            return Err(LokiError::bad(
                "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
            ));
        }
        Ok(step)
    }

    /// `interval` in ns, 0 by default.
    pub fn interval(&self) -> Result<i64, LokiError> {
        match self.get("interval") {
            "" => Ok(0),
            text => match seconds_or_duration(text)? {
                negative if negative < 0 => Err(LokiError::bad("interval must be >= 0")),
                interval => Ok(interval),
            },
        }
    }
}

/// Forms are small: a query, some times, some matchers.
const MAX_FORM_BYTES: usize = 1 << 20;

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = LokiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, LokiError> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_form = request.headers().get(header::CONTENT_TYPE).is_some_and(|v| {
            v.to_str()
                .is_ok_and(|v| v.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"))
        });
        if request.method() != Method::POST || !is_form {
            return Ok(Self::new(&query, b""));
        }
        let form: Bytes = axum::body::to_bytes(request.into_body(), MAX_FORM_BYTES)
            .await
            .map_err(|e| LokiError::bad(format!("form of the request can't be read: {e}")))?;
        Ok(Self::new(&query, &form))
    }
}

/// A time in ns: seconds (up to ten digits), ns, seconds with a fraction (kept to the ms), or RFC 3339.
pub fn time(text: &str, default: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(default);
    }
    if text.contains('.')
        && let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        let whole = seconds.trunc();
        let ms = ((seconds - whole) * 1000.0).round();
        #[allow(clippy::cast_possible_truncation)] // `as` saturates, as wanted
        return Ok((whole as i64).saturating_mul(SECOND).saturating_add((ms as i64) * 1_000_000));
    }
    match text.parse::<i64>() {
        Ok(number) if text.len() <= 10 => Ok(number.saturating_mul(SECOND)),
        Ok(number) => Ok(number),
        Err(_) => match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => time.timestamp_nanos_opt().ok_or_else(|| format!("time {text:?} is not between 1677 and 2262")),
            Err(_) => Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
        },
    }
}

/// `1h30m` in ns.
pub fn duration(text: &str) -> Result<i64, String> {
    Span::parse(text)
        .ok()
        .and_then(|span| i64::try_from(span.0.as_nanos()).ok())
        .ok_or_else(|| format!("not a valid duration string: {text:?}"))
}

/// Seconds as a number, or a duration, in ns.
pub fn seconds_or_duration(text: &str) -> Result<i64, LokiError> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ns = seconds * 1e9;
        #[allow(clippy::cast_precision_loss)]
        if !ns.is_finite() || ns.abs() > i64::MAX as f64 {
            return Err(LokiError::bad(format!("cannot parse {text:?} to a valid duration. It overflows int64")));
        }
        #[allow(clippy::cast_possible_truncation)]
        return Ok(ns as i64);
    }
    duration(text).map_err(|_| LokiError::bad(format!("cannot parse {text:?} to a valid duration")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_loki_reads_them() {
        for (text, want) in [
            ("", Ok(7)),
            ("1772370000", Ok(1_772_370_000 * SECOND)),
            ("1772370000000", Ok(1_772_370_000_000)),
            ("1772366400000000001", Ok(1_772_366_400_000_000_001)),
            ("1772366519.5", Ok(1_772_366_519_500_000_000)),
            ("1772366519.1234", Ok(1_772_366_519_123_000_000)),
            ("-1.5", Ok(-1_500_000_000)),
            ("2026-03-01T13:00:00Z", Ok(1_772_370_000 * SECOND)),
            ("2026-03-01T14:00:00+01:00", Ok(1_772_370_000 * SECOND)),
            ("2026-03-01T13:05:00.000000001+01:00", Ok(1_772_366_700_000_000_001)),
            ("abc", Err("strconv.ParseInt: parsing \"abc\": invalid syntax")),
            ("1e9", Err("strconv.ParseInt: parsing \"1e9\": invalid syntax")),
            ("9999-01-01T00:00:00Z", Err("time \"9999-01-01T00:00:00Z\" is not between 1677 and 2262")),
        ] {
            assert_eq!(time(text, 7), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn bounds_steps_and_limits_have_loki_s_defaults_and_errors() {
        let now = 10_000 * SECOND;
        let hour = 3600 * SECOND;
        for (query, want) in [
            ("", Ok((now - hour, now))),
            ("since=10s", Ok((now - 10 * SECOND, now))),
            ("end=9000", Ok((9000 * SECOND - hour, 9000 * SECOND))),
            ("end=20000", Ok((now - hour, 20_000 * SECOND))),
            ("start=1&end=2&since=5m", Ok((SECOND, 2 * SECOND))),
            ("start=abc", Err("could not parse 'start' parameter: strconv.ParseInt: parsing \"abc\": invalid syntax")),
            ("end=x", Err("could not parse 'end' parameter: strconv.ParseInt: parsing \"x\": invalid syntax")),
            ("since=x", Err("could not parse 'since' parameter: not a valid duration string: \"x\"")),
        ] {
            let got = Params::new(query, b"").bounds(now, QUERY_SINCE).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{query}");
        }
        for (query, want) in [
            ("", Ok(14 * SECOND)),
            ("step=10m", Ok(600 * SECOND)),
            ("step=900", Ok(900 * SECOND)),
            ("step=1200.5", Ok(1_200_500_000_000)),
            (
                "step=100ms",
                Err(
                    "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
                ),
            ),
            ("step=-5", Err("zero or negative query resolution step widths are not accepted. Try a positive integer")),
            ("step=0", Err("zero or negative query resolution step widths are not accepted. Try a positive integer")),
            ("step=x", Err("cannot parse \"x\" to a valid duration")),
            ("step=1e30", Err("cannot parse \"1e30\" to a valid duration. It overflows int64")),
        ] {
            let got = Params::new(query, b"").step(0, hour).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{query}");
        }
        assert_eq!(Params::default().step(0, SECOND).unwrap(), SECOND);
        for (query, want) in [
            ("", Ok(100)),
            ("limit=5", Ok(5)),
            ("limit=0", Err("limit must be a positive value")),
            ("limit=-1", Err("limit must be a positive value")),
            ("limit=ten", Err("strconv.Atoi: parsing \"ten\": invalid syntax")),
        ] {
            let got = Params::new(query, b"").limit(DEFAULT_LIMIT).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{query}");
        }
        for (query, want) in [
            ("", Ok(0)),
            ("interval=1m", Ok(60 * SECOND)),
            ("interval=-1", Err("interval must be >= 0")),
            ("interval=abc", Err("cannot parse \"abc\" to a valid duration")),
        ] {
            let got = Params::new(query, b"").interval().map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{query}");
        }
        assert_eq!(Params::new("direction=FORWARD", b"").direction().unwrap(), Direction::Forward);
        let error = Params::new("direction=sideways", b"").direction().unwrap_err();
        assert_eq!(error.to_string(), "invalid direction 'sideways'");
    }

    #[test]
    fn the_form_comes_before_the_query_string_and_names_repeat() {
        let params = Params::new("query=b&match[]=c", b"query=a&match[]=x+y");
        assert_eq!(params.get("query"), "a");
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["x y", "c"]);
    }
}
