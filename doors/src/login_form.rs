//! The login pages as HTML, with the cookies and redirects around them.
//!
//! In: what a page shows. Out: answers. Touches nothing. The style sheet is the page's own (`/static/page.css`); without
//! it the pages are plain. Everything that comes from outside is escaped.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

/// Nothing but the style sheet and the page's own empty icon is loaded, and forms go to this host only.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Seconds until a session that can't be renewed is tried again.
const AGAIN_SECS: u32 = 10;

/// From where a browser sends a cookie along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameSite {
    /// From pages of this host only.
    Strict,
    /// Also where another site sends the browser here by a link, as login providers do.
    Lax,
}

/// A cookie.
pub(crate) struct Cookie<'c> {
    pub name: &'c str,
    pub value: &'c str,
    /// Requests that it is sent with.
    pub path: &'c str,
    /// 0: the browser forgets it.
    pub seconds: i64,
    pub same_site: SameSite,
    /// Whether scripts can't read it.
    pub http_only: bool,
}

impl Cookie<'_> {
    /// As the header `Set-Cookie` has it.
    pub fn header(&self, is_tls: bool) -> String {
        let Self { name, value, path, seconds, .. } = self;
        let site = if self.same_site == SameSite::Strict { "Strict" } else { "Lax" };
        let hidden = if self.http_only { "; HttpOnly" } else { "" };
        let secure = if is_tls { "; Secure" } else { "" };
        format!("{name}={value}; Path={path}; Max-Age={seconds}; SameSite={site}{hidden}{secure}")
    }
}

/// Adds cookies to an answer.
pub(crate) fn with_cookies(mut answer: Response, cookies: &[String]) -> Response {
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::from_str(cookie).ok()) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

/// Sends the browser elsewhere.
pub(crate) fn redirect(to: &str) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(header::LOCATION, to);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A path of this host, or the page: `//evil.example` would be another host, and browsers leave out tabs and line ends.
pub(crate) fn local(next: &str) -> &str {
    let is_own =
        next.starts_with('/') && !next.starts_with("//") && !next.contains(|c: char| c == '\\' || c.is_control());
    if is_own { next } else { "/" }
}

/// The page on which people log in.
pub(crate) struct Form<'f> {
    /// Where to go afterwards.
    pub next: &'f str,
    /// What went wrong; empty: nothing yet.
    pub error: &'f str,
    /// Whether there are passwords or tokens.
    pub has_passwords: bool,
    /// Name of the login provider, if there is one.
    pub provider: Option<&'f str>,
}

/// The page on which people log in.
pub(crate) fn form(shown: &Form<'_>) -> Response {
    let mut text = String::new();
    if !shown.error.is_empty() {
        text.push_str(&alert(shown.error));
    }
    if let Some(provider) = shown.provider {
        // A link: the policy keeps forms, and where they are sent on to, on this host.
        text.push_str(&format!(
            "<p><a class=\"button\" href=\"/login/oidc?next={}\">Log in with {}</a></p>",
            encoded(shown.next),
            escaped(provider)
        ));
    }
    if shown.has_passwords || shown.provider.is_none() {
        text.push_str(&format!(
            "<form method=\"post\" action=\"/login\">\
             <input type=\"hidden\" name=\"next\" value=\"{}\">\
             <p><label>User (empty for a token) <input name=\"user\" autocomplete=\"username\"></label></p>\
             <p><label>Password or token <input name=\"password\" type=\"password\" autocomplete=\"current-password\" required autofocus></label></p>\
             <p><button>Log in</button></p></form>",
            escaped(shown.next)
        ));
    }
    whole("Log in", "", &text)
}

/// A login by the provider that failed.
pub(crate) fn failed(status: StatusCode, error: &str, next: &str) -> Response {
    let again = format!("<p><a href=\"/login?next={}\">Back to the login</a></p>", encoded(local(next)));
    let mut answer = whole("Login failed", "", &format!("{}{again}", alert(error)));
    *answer.status_mut() = status;
    answer
}

/// Sends the browser on by a page of this host. After a redirect that began at another site, browsers would leave the
/// cookies out that are `SameSite=Strict`.
pub(crate) fn entered(next: &str) -> Response {
    let next = escaped(local(next));
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"0; url={next}\">");
    whole("Logged in", &refresh, &format!("<p>You are logged in. <a href=\"{next}\">Continue</a></p>"))
}

/// Sends the browser to the provider by a page of this host. A redirect would be that of the request before, which may
/// be a form: browsers keep forms on the hosts of the page's policy, redirects included.
pub(crate) fn renewing(to: &str) -> Response {
    let to = escaped(to);
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"0; url={to}\">");
    whole("Log in", &refresh, &format!("<p>Your login is being renewed. <a href=\"{to}\">Continue</a></p>"))
}

/// A session that can't be renewed now: the browser comes again by itself.
pub(crate) fn postponed(error: &str, next: &str) -> Response {
    let next = local(next);
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"{AGAIN_SECS}; url={}\">", escaped(next));
    let text = format!(
        "{}<p>Your login can't be renewed now. This page tries again in {AGAIN_SECS} seconds. \
         <a href=\"/login?next={}\">Log in again</a></p>",
        alert(error),
        encoded(next)
    );
    let mut answer = whole("Login can't be renewed", &refresh, &text);
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// Asks whether to log out.
pub(crate) fn leave(name: &str, csrf: &str) -> Response {
    let text = format!(
        "<form method=\"post\" action=\"/logout\"><input type=\"hidden\" name=\"csrf\" value=\"{}\">\
         <p>You are logged in as {}.</p><p><button>Log out</button></p></form>",
        escaped(csrf),
        escaped(name)
    );
    whole("Log out", "", &text)
}

/// What stands after the end of a session; `elsewhere`: name of the provider, and where its own session is ended.
pub(crate) fn left(elsewhere: Option<(&str, &str)>) -> Response {
    let elsewhere = elsewhere
        .map(|(provider, url)| format!("<p><a href=\"{}\">Log out at {} too</a></p>", escaped(url), escaped(provider)));
    let text = format!(
        "<p role=\"status\">You are logged out.</p>{}<p><a href=\"/login\">Log in again</a></p>",
        elsewhere.unwrap_or_default()
    );
    whole("Logged out", "", &text)
}

fn alert(text: &str) -> String {
    format!("<p role=\"alert\" class=\"error\">{}</p>", escaped(text))
}

fn whole(title: &str, head: &str, body: &str) -> Response {
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - Millrace</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\">{head}\
         <link rel=\"stylesheet\" href=\"/static/page.css\"></head>\
         <body><main><h1>Millrace</h1>{body}</main></body></html>"
    );
    let mut answer = Response::new(Body::from(text));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Percent-encoding of everything but letters, digits and `/`.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A field of a form or a query.
pub(crate) fn parameter(text: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(text.as_bytes()).find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_escape_what_they_show() {
        assert_eq!(escaped("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
        assert_eq!(parameter("user=a%20b&next=%2Fx", "next").as_deref(), Some("/x"));
    }

    #[test]
    fn people_are_sent_to_paths_of_this_host_only() {
        for (next, want) in [
            ("/", "/"),
            ("/?query=x#y", "/?query=x#y"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("/\n/evil.example", "/"),
            ("https://evil.example", "/"),
            ("javascript:alert(1)", "/"),
            ("evil", "/"),
        ] {
            assert_eq!(local(next), want, "{next:?}");
        }
    }

    #[test]
    fn cookies_say_from_where_they_are_sent() {
        let cookie =
            |same_site, http_only| Cookie { name: "a", value: "b", path: "/x", seconds: 7, same_site, http_only };
        assert_eq!(
            cookie(SameSite::Strict, true).header(true),
            "a=b; Path=/x; Max-Age=7; SameSite=Strict; HttpOnly; Secure"
        );
        assert_eq!(cookie(SameSite::Lax, false).header(false), "a=b; Path=/x; Max-Age=7; SameSite=Lax");
    }
}
