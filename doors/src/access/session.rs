//! Sessions of people who logged in by the page: a signed cookie that names them, and a token against forged requests.
//!
//! The cookie is `kind:end:id:grants:name` in base64 and its HMAC. It grants nothing by itself: whoever it names must
//! still be allowed in. The signature covers the entry of the configuration by which the session began, so that it ends
//! when the hash, the roles or anything else there changes. The key lives as long as the process, so a restart ends all
//! sessions; those that were logged out are remembered until they would have ended.
//!
//! In: who has logged in, headers of later requests. Out: cookies, who comes back. Touches the system's source of
//! randomness.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use ring::hmac;

use super::ended::{Ended, Id};
use super::hash::{EntryDigest, HashError, is_equal, random};

/// Name of the cookie with the session.
pub const COOKIE: &str = "millrace_session";
/// Name of the cookie that scripts of the page read and send as [`CSRF_HEADER`].
pub const CSRF_COOKIE: &str = "millrace_csrf";
/// Header that requests of a session need if they change something.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// How long a session lasts.
pub const LASTS_MS: i64 = 12 * 3600 * 1000;
/// Sessions that were logged out and are remembered.
const MAX_ENDED: usize = 10_000;

/// By which kind of login a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A token of `access`.
    Token,
    /// A user of `access`.
    User,
    /// The login of the listener itself.
    Own,
    /// The login provider.
    Oidc,
}

/// On what a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// How they logged in.
    pub kind: Kind,
    /// Their name.
    pub name: String,
    /// Places of the entries of `access.oidc.grants` that matched.
    pub grants: Vec<usize>,
}

impl Basis {
    /// Of a login that has an entry of its own.
    pub fn of(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), grants: Vec::new() }
    }
}

/// Which session: what its cookie says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRef {
    /// Who they are.
    pub basis: Basis,
    id: Id,
    end_ms: i64,
}

impl SessionRef {
    /// When it began, ms since 1970.
    pub(crate) fn began_ms(&self) -> i64 {
        self.end_ms.saturating_sub(LASTS_MS)
    }

    /// What [`Display`](fmt::Display) wrote. Whoever reads it has checked a signature.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ':');
        let kind = match parts.next()? {
            "t" => Kind::Token,
            "u" => Kind::User,
            "o" => Kind::Own,
            "p" => Kind::Oidc,
            _ => return None,
        };
        let end_ms = parts.next()?.parse().ok()?;
        let id = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?.try_into().ok()?;
        let grants = parts.next()?.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok());
        let grants = grants.collect::<Option<Vec<usize>>>()?;
        Some(Self { basis: Basis { kind, name: parts.next()?.to_owned(), grants }, id, end_ms })
    }
}

/// `kind:end:id:grants:name`.
impl fmt::Display for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Basis { kind, name, grants } = &self.basis;
        let kind = match kind {
            Kind::Token => "t",
            Kind::User => "u",
            Kind::Own => "o",
            Kind::Oidc => "p",
        };
        let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
        write!(f, "{kind}:{}:{}:{}:{name}", self.end_ms, URL_SAFE_NO_PAD.encode(self.id), grants.join("."))
    }
}

/// Who came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Which session it is.
    pub of: SessionRef,
    /// Token that requests need if they change something.
    pub csrf: String,
}

/// Signs sessions, and ends them.
pub struct Sessions {
    key: hmac::Key,
    ended: Ended,
}

impl Sessions {
    /// With a new key.
    pub fn new() -> Result<Self, HashError> {
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?), ended: Ended::new(MAX_ENDED) })
    }

    /// Value of the cookie of somebody who logged in just now, and the token against forged requests.
    pub fn begin(&self, basis: &Basis, entry: &EntryDigest, now_ms: i64) -> Result<(String, String), HashError> {
        let end_ms = now_ms.saturating_add(LASTS_MS);
        let text = SessionRef { basis: basis.clone(), id: random::<16>()?, end_ms }.to_string();
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &signed(text.as_bytes(), entry)));
        let value = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(text));
        let csrf = self.csrf(&value);
        Ok((value, csrf))
    }

    /// Who shows a cookie that is signed, not over and not logged out. `entry`: what the configuration has now for them.
    pub fn of(
        &self,
        headers: &HeaderMap,
        now_ms: i64,
        entry: impl FnOnce(Kind, &str) -> Option<EntryDigest>,
    ) -> Option<Session> {
        let value = cookie(headers, COOKIE)?;
        let (text, signature) = value.split_once('.')?;
        let (text, signature) = (URL_SAFE_NO_PAD.decode(text).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?);
        let text = String::from_utf8(text).ok()?;
        let of = SessionRef::read(&text)?;
        let entry = entry(of.basis.kind, &of.basis.name)?;
        hmac::verify(&self.key, &signed(text.as_bytes(), &entry), &signature).ok()?;
        let is_over = now_ms >= of.end_ms || self.ended.has(of.id, of.end_ms);
        (!is_over).then(|| Session { of, csrf: self.csrf(value) })
    }

    /// Ends a session before its time.
    pub fn end(&self, session: &SessionRef, now_ms: i64) {
        self.ended.end(session.id, session.end_ms, now_ms);
    }

    /// Whether a request of a session carries its token.
    pub fn is_own(&self, session: &Session, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF_HEADER).map(http::HeaderValue::as_bytes).unwrap_or_default();
        is_equal(session.csrf.as_bytes(), given)
    }

    fn csrf(&self, value: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, format!("csrf {value}").as_bytes()))
    }
}

/// What is signed.
fn signed(text: &[u8], entry: &EntryDigest) -> Vec<u8> {
    [b"session ".as_slice(), entry.bytes(), text].concat()
}

/// Value of a cookie.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
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
        let entry = EntryDigest::of(["hash", "read"]);
        let known = |kind: Kind, name: &str| (kind == Kind::User && name == "alice").then_some(entry);
        let (value, csrf) = sessions.begin(&Basis::of(Kind::User, "alice"), &entry, 1000).unwrap();
        let good = headers(&value, &csrf);
        let session = sessions.of(&good, 1000, known).unwrap();
        assert_eq!(session.of.basis, Basis::of(Kind::User, "alice"));
        assert!(sessions.is_own(&session, &good));
        assert!(!sessions.is_own(&session, &headers(&value, "")) && !sessions.is_own(&session, &headers(&value, "x")));
        assert_eq!(sessions.of(&good, 1000 + LASTS_MS, known), None, "over");
        assert_eq!(others.of(&good, 1000, known), None, "another key");
        assert_eq!(sessions.of(&good, 1000, |_, _| None), None, "the user is gone");
        let changed = EntryDigest::of(["other hash", "read"]);
        assert_eq!(sessions.of(&good, 1000, |_, _| Some(changed)), None, "the entry has changed");
        let id = URL_SAFE_NO_PAD.encode([0; 16]);
        let forged = URL_SAFE_NO_PAD.encode(format!("u:{}:{id}::alice", i64::MAX));
        let (_, signature) = value.split_once('.').unwrap();
        for wrong in ["", "x", &forged, &format!("{forged}.{signature}"), &format!("{forged}.")] {
            assert_eq!(sessions.of(&headers(wrong, ""), 1000, known), None, "{wrong}");
        }
    }

    #[test]
    fn sessions_that_were_logged_out_stay_so() {
        let (sessions, entry) = (Sessions::new().unwrap(), EntryDigest::of(["x"]));
        let basis = Basis { kind: Kind::Oidc, name: "oidc:a:b".to_owned(), grants: vec![0, 12] };
        let begin = || headers(&sessions.begin(&basis, &entry, 0).unwrap().0, "");
        let (one, other) = (begin(), begin());
        let known = |headers: &HeaderMap| sessions.of(headers, 1, |_, _| Some(entry));
        let session = known(&one).unwrap();
        assert_eq!(session.of.basis, basis);
        sessions.end(&session.of, 1);
        assert_eq!(known(&one), None);
        assert!(known(&other).is_some(), "another session of the same user goes on");
    }
}
