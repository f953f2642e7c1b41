//! Defence against web pages: a browser on this host reaches loopback, whatever page it shows.
//!
//! Names of the endpoint are checked against DNS rebinding (a page of `evil.example` whose name points to 127.0.0.1),
//! `Origin` against pages that open WebSockets or post from elsewhere, content types against forms that need no leave
//! of the server (the "simple requests" of the Fetch standard).
//!
//! In: heads of requests. Out: refusals with 421, 403 or 415. Touches nothing.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::refusal::Refusal;

/// What bodies of requests that change something may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// Whatever the handler takes, also plain text.
    Any,
    /// Nothing that a web page can send to another host without its leave.
    NoForms,
    /// JSON only.
    Json,
}

impl Bodies {
    /// Refuses a body of the wrong type.
    pub(crate) fn check(self, headers: &HeaderMap) -> Result<(), Refusal> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_form =
            matches!(kind.as_str(), "text/plain" | "multipart/form-data" | "application/x-www-form-urlencoded");
        let (is_fine, wanted) = match self {
            Self::Any => (true, ""),
            Self::NoForms => (!is_form, "the content type of the API, e.g. application/json"),
            Self::Json => (kind == "application/json", "application/json"),
        };
        if is_fine {
            return Ok(());
        }
        let text = format!("unsupported content type `{kind}`: send the header `Content-Type: {wanted}`");
        let text = if self == Self::Json { text } else { format!("unsupported content type `{kind}`: send {wanted}") };
        Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
    }
}

/// Host and port of a request.
fn authority(head: &Parts) -> Option<String> {
    let header = head.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    header.map(str::to_owned).or_else(|| head.uri.authority().map(ToString::to_string))
}

/// The host of `host:port`, without the brackets of IPv6.
fn host(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn port(authority: &str) -> Option<u16> {
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after.rsplit_once(':')?.1.parse().ok()
}

fn is_listed(host: &str, listed: &[String]) -> bool {
    let host = host.trim_end_matches('.');
    listed.iter().any(|own| own.eq_ignore_ascii_case(host) || self::host(own).eq_ignore_ascii_case(host))
}

/// The name and port of this endpoint by which a request came, if it is one that the configuration knows: what links of
/// this endpoint may be made of.
pub(crate) fn own_authority(head: &Parts, is_loopback: bool, listed: &[String]) -> Option<String> {
    let authority = authority(head)?;
    // Without user information, and without anything that isn't a host.
    let parsed: http::uri::Authority = authority.parse().ok()?;
    let name = host(parsed.as_str());
    let is_local = || match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    };
    let is_own = !authority.contains('@') && (is_listed(name, listed) || is_loopback && is_local());
    is_own.then_some(authority)
}

/// Refuses requests that were sent to a name which isn't this endpoint's.
pub(crate) fn check_host(head: &Parts, is_loopback: bool, listed: &[String]) -> Result<(), Refusal> {
    if !is_loopback && listed.is_empty() {
        return Ok(());
    }
    // Clients without a host (HTTP/1.0) are no browsers.
    let Some(authority) = authority(head) else { return Ok(()) };
    let name = host(&authority);
    let is_own = match name.parse::<IpAddr>() {
        Ok(address) => !is_loopback || address.is_loopback(),
        Err(_) => name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    };
    if is_own || is_listed(name, listed) {
        return Ok(());
    }
    let text = format!(
        "unknown host `{}`: this endpoint is known as {}; add the name to `access.hosts`",
        name.chars().take(100).collect::<String>(),
        if is_loopback { "localhost and 127.0.0.1" } else { "its IP address and the names in `access.hosts`" }
    );
    Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text))
}

/// Whether a request changes something or opens a WebSocket: a page of another host must not.
pub(crate) fn is_sensitive(head: &Parts) -> bool {
    !matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS)
        || head.headers.contains_key(header::UPGRADE)
        || head.headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// Refuses requests that a page of another host sent. Programs send no `Origin`.
pub(crate) fn check_origin(head: &Parts, listed: &[String]) -> Result<(), Refusal> {
    if !is_sensitive(head) {
        return Ok(());
    }
    let Some(origin) = head.headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let is_own = || {
        let uri: Uri = origin.parse().ok()?;
        let own = authority(head)?;
        let usual = match uri.scheme_str()? {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            _ => return None,
        };
        let of = uri.authority()?.as_str();
        let is_same =
            host(of).eq_ignore_ascii_case(host(&own)) && port(of).unwrap_or(usual) == port(&own).unwrap_or(usual);
        Some(is_same || is_listed(host(of), listed))
    };
    if is_own() == Some(true) {
        return Ok(());
    }
    let text = format!(
        "requests from the web page `{}` are refused: open this endpoint itself, or add the page's host to `access.hosts`",
        origin.chars().take(100).collect::<String>()
    );
    Err(Refusal::new(StatusCode::FORBIDDEN, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = http::Request::builder().method(method).uri("/");
        let builder = headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value));
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn loopback_is_known_by_its_own_names_only() {
        let listed = ["logs.example.org".to_owned()];
        for (host, on_loopback, elsewhere) in [
            ("localhost", true, true),
            ("localhost:3100", true, true),
            ("LOCALHOST.:3100", true, true),
            ("127.0.0.1:3100", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:3100", true, true),
            ("logs.example.org:3100", true, true),
            ("Logs.Example.org", true, true),
            ("evil.example:3100", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("10.0.0.1:3100", false, true),
            ("", false, false),
        ] {
            let head = head("GET", &[("host", host)]);
            assert_eq!(check_host(&head, true, &listed).is_ok(), on_loopback, "{host}");
            assert_eq!(check_host(&head, false, &listed).is_ok(), elsewhere, "{host}");
            assert!(check_host(&head, false, &[]).is_ok(), "{host}");
        }
        assert!(check_host(&head("GET", &[]), true, &listed).is_ok());
        let refusal = check_host(&head("GET", &[("host", "evil.example")]), true, &[]).unwrap_err();
        assert!(refusal.status == 421 && refusal.text.contains("access.hosts"), "{}", refusal.text);
    }

    #[test]
    fn pages_of_other_hosts_change_nothing_and_open_no_websocket() {
        let listed = ["logs.example.org".to_owned()];
        let socket = [("upgrade", "websocket"), ("host", "localhost:3100")];
        for (origin, want) in [
            ("http://localhost:3100", true),
            ("https://localhost:3100", true),
            ("https://logs.example.org", true),
            ("http://localhost:8080", false),
            ("http://localhost", false),
            ("http://127.0.0.1:3100", false),
            ("https://evil.example", false),
            ("https://evil.example:3100", false),
            ("null", false),
            ("", false),
            ("file://", false),
        ] {
            for (head, is_checked) in [
                (head("GET", &[&socket[..], &[("origin", origin)]].concat()), true),
                (head("POST", &[("host", "localhost:3100"), ("origin", origin)]), true),
                (head("DELETE", &[("host", "localhost:3100"), ("origin", origin)]), true),
                (head("GET", &[("host", "localhost:3100"), ("origin", origin)]), false),
            ] {
                let is_fine = check_origin(&head, &listed).is_ok();
                assert_eq!(is_fine, want || !is_checked, "{} {origin}", head.method);
            }
        }
        assert!(check_origin(&head("POST", &[("host", "localhost:3100")]), &listed).is_ok(), "a program");
        let usual = [("host", "logs.example"), ("origin", "http://logs.example:80")];
        assert!(check_origin(&head("POST", &usual), &[]).is_ok());
    }

    #[test]
    fn bodies_that_forms_can_send_are_refused() {
        for (kind, no_forms, json) in [
            (Some("application/json"), true, true),
            (Some("Application/JSON; charset=utf-8"), true, true),
            (Some("application/x-protobuf"), true, false),
            (Some("application/x-ndjson"), true, false),
            (Some("text/plain"), false, false),
            (Some("text/plain;application/json"), false, false),
            (Some("multipart/form-data; boundary=x"), false, false),
            (Some("application/x-www-form-urlencoded"), false, false),
            (None, true, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(kind.map(|kind| (header::CONTENT_TYPE, kind.parse().unwrap())));
            let found = [Bodies::Any, Bodies::NoForms, Bodies::Json].map(|bodies| bodies.check(&headers).is_ok());
            assert_eq!(found, [true, no_forms, json], "{kind:?}");
        }
    }
}
