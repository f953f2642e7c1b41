//! A login that was begun and has not come back from the provider: bound to one browser, for ten minutes, for one use.
//!
//! The browser keeps a random id, where it wanted to go and the session that is renewed, signed, in a cookie. State,
//! nonce and PKCE verifier are made of the id by HMAC, so that none of them can be had from the others, and nothing is
//! kept here but the ids of those that came back. (The cookie of a session is `SameSite=Strict`. This one is `Lax`: it has to come along when the
//! provider, another site, sends the browser back by a link.)
//!
//! In: where to go after the login; cookie and state as they come back. Out: the same, and what the provider is sent.
//! Touches the system's source of randomness.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::access::ended::{Ended, Id};
use crate::access::hash::{HashError, is_equal, random};
use crate::access::session::SessionRef;

/// Name of the cookie.
pub const COOKIE: &str = "millrace_login";
/// How long the provider may take.
pub const LASTS_MS: i64 = 10 * 60 * 1000;
/// Logins that came back and are remembered.
const MAX_RETURNED: usize = 65_536;
/// Longest place to go to, with the session that is renewed: the cookie must fit into 4 KiB.
const MAX_NEXT: usize = 2000;

/// Why a login that comes back is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// Another browser began it, or none.
    #[error("it was not begun in this browser, or it was begun anew in another window")]
    Foreign,
    /// Too late.
    #[error("it took longer than 10 minutes")]
    Late,
    /// A second time.
    #[error("it was completed before")]
    Repeated,
}

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where to go afterwards.
    pub next: String,
    /// The session that it renews: the provider must not ask the person anything.
    pub renews: Option<SessionRef>,
    /// Comes back as it was sent.
    pub state: String,
    /// Stands in the ID token.
    pub nonce: String,
    /// Proves that whoever redeems the code began the login (PKCE).
    pub verifier: String,
}

impl Attempt {
    /// What the provider is sent of the verifier.
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()))
    }
}

/// Begins logins, and knows them again.
pub struct Attempts {
    key: hmac::Key,
    returned: Ended,
}

impl Attempts {
    /// With a new key.
    pub fn new() -> Result<Self, HashError> {
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?), returned: Ended::new(MAX_RETURNED) })
    }

    /// A new login with the value of its cookie.
    pub fn begin(&self, next: &str, renews: Option<&SessionRef>, now_ms: i64) -> Result<(String, Attempt), HashError> {
        let session = renews.map(ToString::to_string).unwrap_or_default();
        let next = if next.len() + session.len() > MAX_NEXT || next.contains('\n') { "/" } else { next };
        let id = random::<16>()?;
        let end_ms = now_ms.saturating_add(LASTS_MS);
        // No place to go to has a line end.
        let text = format!("{}:{end_ms}:{next}\n{session}", URL_SAFE_NO_PAD.encode(id));
        let value = format!("{}.{}", URL_SAFE_NO_PAD.encode(&text), self.made_of("cookie", text.as_bytes()));
        Ok((value, self.attempt(id, renews.cloned(), next)))
    }

    /// The login that comes back with a cookie and a state: once.
    pub fn returned(&self, cookie: &str, state: &str, now_ms: i64) -> Result<Attempt, AttemptError> {
        let (id, end_ms, renews, next) = self.read(cookie).ok_or(AttemptError::Foreign)?;
        let attempt = self.attempt(id, renews, &next);
        if !is_equal(attempt.state.as_bytes(), state.as_bytes()) {
            return Err(AttemptError::Foreign);
        }
        if now_ms >= end_ms {
            return Err(AttemptError::Late);
        }
        if self.returned.end(id, end_ms, now_ms) { Ok(attempt) } else { Err(AttemptError::Repeated) }
    }

    fn read(&self, cookie: &str) -> Option<(Id, i64, Option<SessionRef>, String)> {
        let (text, signature) = cookie.split_once('.')?;
        let text = URL_SAFE_NO_PAD.decode(text).ok()?;
        if !is_equal(self.made_of("cookie", &text).as_bytes(), signature.as_bytes()) {
            return None;
        }
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.splitn(3, ':');
        let id = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?.try_into().ok()?;
        let end_ms = parts.next()?.parse().ok()?;
        let (next, session) = parts.next()?.split_once('\n')?;
        let renews = if session.is_empty() { None } else { Some(SessionRef::read(session)?) };
        Some((id, end_ms, renews, next.to_owned()))
    }

    fn attempt(&self, id: Id, renews: Option<SessionRef>, next: &str) -> Attempt {
        Attempt {
            next: next.to_owned(),
            renews,
            state: self.made_of("state", &id),
            nonce: self.made_of("nonce", &id),
            verifier: self.made_of("verifier", &id),
        }
    }

    fn made_of(&self, what: &str, bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &[what.as_bytes(), b" ", bytes].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_comes_back_once_to_its_own_browser_in_time() {
        let (attempts, others) = (Attempts::new().unwrap(), Attempts::new().unwrap());
        let session = SessionRef::read("p:7:AAAAAAAAAAAAAAAAAAAAAA:0.12:oidc:a:b").unwrap();
        let (cookie, attempt) = attempts.begin("/?query=a:b", Some(&session), 0).unwrap();
        let (other_cookie, other) = attempts.begin("/", None, 0).unwrap();
        assert_eq!((attempt.renews.as_ref(), &*attempt.next, &other.renews), (Some(&session), "/?query=a:b", &None));
        let all = [&attempt.state, &attempt.nonce, &attempt.verifier, &attempt.challenge(), &other.state];
        assert!(all.iter().enumerate().all(|(at, one)| one.len() == 43 && !all[..at].contains(one)));
        let (text, signature) = cookie.split_once('.').unwrap();
        let changed = format!("{}.{signature}", URL_SAFE_NO_PAD.encode("AAAAAAAAAAAAAAAAAAAAAA:99999999999:/\n"));
        for (attempts, cookie, state, now_ms, want) in [
            (&attempts, "", attempt.state.as_str(), 1, AttemptError::Foreign),
            (&attempts, &cookie, "", 1, AttemptError::Foreign),
            (&attempts, &cookie, &other.state, 1, AttemptError::Foreign),
            (&attempts, &other_cookie, &attempt.state, 1, AttemptError::Foreign),
            (&attempts, text, &attempt.state, 1, AttemptError::Foreign),
            (&attempts, &changed, &attempt.state, 1, AttemptError::Foreign),
            (&others, &cookie, &attempt.state, 1, AttemptError::Foreign),
            (&attempts, &cookie, &attempt.state, LASTS_MS, AttemptError::Late),
        ] {
            assert_eq!(attempts.returned(cookie, state, now_ms), Err(want), "{cookie} {state} {now_ms}");
        }
        assert_eq!(attempts.returned(&cookie, &attempt.state, 1), Ok(attempt.clone()));
        assert_eq!(attempts.returned(&cookie, &attempt.state, 2), Err(AttemptError::Repeated));
        let (long, attempt) = attempts.begin(&format!("/?q={}", "x".repeat(3000)), Some(&session), 0).unwrap();
        assert!(long.len() < 3500 && attempt.next == "/" && attempt.renews == Some(session));
    }
}
