//! Sessions of people who logged in by the page: a signed cookie that names them, and a token against forged requests.
//!
//! The cookie is `kind:name:end` in base64 and its HMAC. It grants nothing by itself: whoever it names must still be
//! allowed in. The key lives as long as the process, so a restart ends all sessions.
//!
//! In: who has logged in, headers of later requests. Out: cookies, who comes back. Touches nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use ring::hmac;

use super::hash::{HashError, random};

/// Name of the cookie with the session.
pub const COOKIE: &str = "millrace_session";
/// Name of the cookie that scripts of the page read and send as [`CSRF_HEADER`].
pub const CSRF_COOKIE: &str = "millrace_csrf";
/// Header that requests of a session need if they change something.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// How long a session lasts.
pub const LASTS_MS: i64 = 12 * 3600 * 1000;

/// By which kind of login a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A token of `access`.
    Token,
    /// A user of `access`.
    User,
    /// The login of the listener itself.
    Own,
}

/// Who came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// How they logged in.
    pub kind: Kind,
    /// Their name.
    pub name: String,
    /// Token that requests need if they change something.
    pub csrf: String,
}

/// Signs sessions.
pub struct Sessions(hmac::Key);

impl Sessions {
    /// With a new key.
    pub fn new() -> Result<Self, HashError> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?)))
    }

    /// Value of the cookie of somebody who logged in just now, and the token against forged requests.
    pub fn begin(&self, kind: Kind, name: &str, now_ms: i64) -> (String, String) {
        let kind = match kind {
            Kind::Token => "t",
            Kind::User => "u",
            Kind::Own => "o",
        };
        let text = format!("{kind}:{name}:{}", now_ms.saturating_add(LASTS_MS));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, text.as_bytes()));
        let value = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(text));
        let csrf = self.csrf(&value);
        (value, csrf)
    }

    /// Who shows a cookie that is signed and not over.
    pub fn of(&self, headers: &HeaderMap, now_ms: i64) -> Option<Session> {
        let value = cookie(headers, COOKIE)?;
        let (text, signature) = value.split_once('.')?;
        let (text, signature) = (URL_SAFE_NO_PAD.decode(text).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?);
        hmac::verify(&self.0, &text, &signature).ok()?;
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.splitn(3, ':');
        let kind = match parts.next()? {
            "t" => Kind::Token,
            "u" => Kind::User,
            "o" => Kind::Own,
            _ => return None,
        };
        let (name, end) = (parts.next()?, parts.next()?.parse::<i64>().ok()?);
        (now_ms < end).then(|| Session { kind, name: name.to_owned(), csrf: self.csrf(value) })
    }

    /// Whether a request of a session carries its token.
    pub fn is_own(&self, session: &Session, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF_HEADER).map(http::HeaderValue::as_bytes).unwrap_or_default();
        given.len() == session.csrf.len()
            && given.iter().zip(session.csrf.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }

    fn csrf(&self, value: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, format!("csrf {value}").as_bytes()))
    }
}

/// Value of a cookie.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str, csrf: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("a=b; {COOKIE}={cookie}; c=d").parse().unwrap());
        headers.insert(CSRF_HEADER, csrf.parse().unwrap());
        headers
    }

    #[test]
    fn sessions_are_those_that_were_signed_and_end() {
        let (sessions, others) = (Sessions::new().unwrap(), Sessions::new().unwrap());
        let (value, csrf) = sessions.begin(Kind::User, "alice", 1000);
        let good = headers(&value, &csrf);
        let session = sessions.of(&good, 1000).unwrap();
        assert_eq!((session.kind, session.name.as_str()), (Kind::User, "alice"));
        assert!(sessions.is_own(&session, &good));
        assert!(!sessions.is_own(&session, &headers(&value, "")) && !sessions.is_own(&session, &headers(&value, "x")));
        assert_eq!(sessions.of(&good, 1000 + LASTS_MS), None, "over");
        assert_eq!(others.of(&good, 1000), None, "another key");
        let forged = URL_SAFE_NO_PAD.encode(format!("u:root:{}", i64::MAX));
        let (_, signature) = value.split_once('.').unwrap();
        for wrong in ["", "x", &forged, &format!("{forged}.{signature}"), &format!("{forged}.")] {
            assert_eq!(sessions.of(&headers(wrong, ""), 1000), None, "{wrong}");
        }
    }
}
