//! SCRAM (RFC 5802, RFC 7677): what is kept of a password, and the server's side of one exchange.
//!
//! In: the client's two messages. Out: the server's two, and whose they are. Touches nothing. The hash functions are
//! those of `ring`; proofs are compared in constant time. A user that does not exist is answered like one that does,
//! with a salt that stays the same, so that nobody learns names by trying.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

use crate::protocol::config::listener::Mechanism;

/// Rounds for passwords that are salted here; clients that salt themselves say their own number.
pub(crate) const ITERATIONS: u32 = 4096;
/// Bounds of Kafka for rounds.
pub(crate) const ITERATION_RANGE: std::ops::RangeInclusive<i32> = 4096..=16_384;
/// Longest part of a message taken: names and nonces.
const MAX_PART: usize = 512;

/// The hash function of a mechanism.
#[derive(Clone, Copy)]
struct Hash {
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.digest)
    }
}

impl Hash {
    /// `None` where the mechanism salts nothing.
    fn of(mechanism: Mechanism) -> Option<Self> {
        match mechanism {
            Mechanism::Plain => None,
            Mechanism::Scram256 => {
                Some(Self { hmac: hmac::HMAC_SHA256, digest: &digest::SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 })
            }
            Mechanism::Scram512 => {
                Some(Self { hmac: hmac::HMAC_SHA512, digest: &digest::SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 })
            }
        }
    }

    fn sign(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac, key), text)
    }
}

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub salt: Vec<u8>,
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
    pub iterations: u32,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({} rounds)", self.iterations)
    }
}

impl Credential {
    /// From a password salted by the client. `None` for PLAIN and for lengths that can't be.
    pub fn from_salted(mechanism: Mechanism, salt: &[u8], salted: &[u8], iterations: u32) -> Option<Self> {
        let hash = Hash::of(mechanism)?;
        if salt.is_empty() || salted.len() != hash.digest.output_len() {
            return None;
        }
        let client_key = hash.sign(salted, b"Client Key");
        Some(Self {
            salt: salt.to_vec(),
            stored_key: digest::digest(hash.digest, client_key.as_ref()).as_ref().to_vec(),
            server_key: hash.sign(salted, b"Server Key").as_ref().to_vec(),
            iterations,
        })
    }

    /// From a password as it is: takes a millisecond or two. `None` for PLAIN.
    pub fn from_password(mechanism: Mechanism, password: &str, salt: &[u8], iterations: u32) -> Option<Self> {
        let hash = Hash::of(mechanism)?;
        let mut salted = vec![0; hash.digest.output_len()];
        pbkdf2::derive(hash.pbkdf2, NonZeroU32::new(iterations)?, salt, password.as_bytes(), &mut salted);
        Self::from_salted(mechanism, salt, &salted, iterations)
    }
}

/// Why an exchange failed; never told in detail to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramFault {
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the user asks to act as another one")]
    OtherUser,
    #[error("the user does not exist")]
    UnknownUser,
    #[error("the password is wrong")]
    WrongPassword,
}

/// An exchange after the server's first message.
#[derive(Debug)]
pub(crate) struct Exchange {
    hash: Hash,
    pub user: String,
    credential: Credential,
    is_known: bool,
    gs2_header: String,
    first_bare: String,
    server_first: String,
    server_nonce: String,
}

fn part<'a>(parts: &mut std::str::Split<'a, char>, name: &'static str) -> Result<&'a str, ScramFault> {
    let part = parts.next().and_then(|part| part.strip_prefix(name)).and_then(|rest| rest.strip_prefix('='));
    part.filter(|value| !value.is_empty() && value.len() <= MAX_PART).ok_or(ScramFault::Malformed(name))
}

/// A name with `=2C` and `=3D` for comma and equals sign.
fn unescape(name: &str) -> Result<String, ScramFault> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        rest = if let Some(rest) = after.strip_prefix("2C") {
            out.push(',');
            rest
        } else if let Some(rest) = after.strip_prefix("3D") {
            out.push('=');
            rest
        } else {
            return Err(ScramFault::Malformed("name"));
        };
    }
    out.push_str(rest);
    Ok(out)
}

impl Exchange {
    /// Reads the client's first message; the server's first message is [`Self::challenge`].
    /// `find` gives what is kept of a user, and whether the user exists.
    pub fn start(
        mechanism: Mechanism,
        message: &[u8],
        server_nonce: &str,
        find: impl FnOnce(&str) -> (Credential, bool),
    ) -> Result<Self, ScramFault> {
        let hash = Hash::of(mechanism).ok_or(ScramFault::Malformed("mechanism"))?;
        let message = std::str::from_utf8(message).map_err(|_| ScramFault::Malformed("encoding"))?;
        // Header: no channel binding (`n`, or `y`: not seen at the server), perhaps a user to act as.
        let bare_at = message.match_indices(',').nth(1).map(|(at, _)| at + 1);
        let (gs2_header, bare) =
            bare_at.and_then(|at| message.split_at_checked(at)).ok_or(ScramFault::Malformed("header"))?;
        let mut header = gs2_header.split(',');
        if !matches!(header.next(), Some("n" | "y")) {
            return Err(ScramFault::Malformed("channel binding"));
        }
        let acts_as = match header.next() {
            Some("") => None,
            Some(part) => Some(unescape(part.strip_prefix("a=").ok_or(ScramFault::Malformed("header"))?)?),
            None => return Err(ScramFault::Malformed("header")),
        };
        let mut parts = bare.split(',');
        let user = unescape(part(&mut parts, "n")?)?;
        let nonce = part(&mut parts, "r")?;
        if parts.any(|extension| extension.starts_with("tokenauth")) {
            return Err(ScramFault::Malformed("delegation tokens are not served"));
        }
        if acts_as.is_some_and(|other| other != user) {
            return Err(ScramFault::OtherUser);
        }
        let (credential, is_known) = find(&user);
        let server_first =
            format!("r={nonce}{server_nonce},s={},i={}", BASE64.encode(&credential.salt), credential.iterations);
        let (gs2_header, first_bare) = (gs2_header.to_owned(), bare.to_owned());
        let server_nonce = server_nonce.to_owned();
        Ok(Self { hash, user, credential, is_known, gs2_header, first_bare, server_first, server_nonce })
    }

    /// The server's first message.
    pub fn challenge(&self) -> &str {
        &self.server_first
    }

    /// Reads the client's last message; gives the server's last one.
    pub fn finish(&self, message: &[u8]) -> Result<String, ScramFault> {
        let message = std::str::from_utf8(message).map_err(|_| ScramFault::Malformed("encoding"))?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramFault::Malformed("p"))?;
        let mut parts = without_proof.split(',');
        if part(&mut parts, "c")? != BASE64.encode(&self.gs2_header) {
            return Err(ScramFault::Malformed("channel binding"));
        }
        // As Kafka: librdkafka before 2.4 writes its own part twice.
        if !part(&mut parts, "r")?.ends_with(&self.server_nonce) {
            return Err(ScramFault::Malformed("nonce"));
        }
        let proof = BASE64.decode(proof).map_err(|_| ScramFault::Malformed("p"))?;
        let signed = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let signature = self.hash.sign(&self.credential.stored_key, signed.as_bytes());
        if proof.len() != signature.as_ref().len() {
            return Err(ScramFault::Malformed("p"));
        }
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let shown = digest::digest(self.hash.digest, &client_key);
        let is_right = is_equal(shown.as_ref(), &self.credential.stored_key);
        match (self.is_known, is_right) {
            (true, true) => {
                let verifier = self.hash.sign(&self.credential.server_key, signed.as_bytes());
                Ok(format!("v={}", BASE64.encode(verifier.as_ref())))
            }
            (true, false) => Err(ScramFault::WrongPassword),
            (false, _) => Err(ScramFault::UnknownUser),
        }
    }
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
    hmac::verify(&key, one, hmac::sign(&key, other).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn the_exchange_of_the_rfc() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let kept = Credential::from_password(Mechanism::Scram256, "pencil", &salt, 4096).unwrap();
        let start = |is_known| {
            Exchange::start(
                Mechanism::Scram256,
                b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
                |user| {
                    assert_eq!(user, "user");
                    (kept.clone(), is_known)
                },
            )
            .unwrap()
        };
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(start(true).challenge(), first);
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(start(true).finish(last.as_bytes()).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(start(false).finish(last.as_bytes()), Err(ScramFault::UnknownUser));
        let wrong = last.replace("p=dHz", "p=dHy");
        assert_eq!(start(true).finish(wrong.as_bytes()), Err(ScramFault::WrongPassword));
        for broken in [
            "",
            "c=biws",
            "c=biws,r=x,p=eA==",
            &last.replace("biws", "eSws"),
            last.strip_suffix("zjfMHgsqmmiz7AndVQ=").expect("is there"),
            "\u{7f}",
        ] {
            assert!(matches!(start(true).finish(broken.as_bytes()), Err(ScramFault::Malformed(_))), "{broken}");
        }
    }

    #[test]
    fn first_messages() {
        let kept = Credential::from_password(Mechanism::Scram512, "p", b"salt", 4096).unwrap();
        for (message, want) in [
            ("n,,n=a=2Cb=3D,r=x", Ok("a,b=")),
            ("y,,n=user,r=x,ext=1", Ok("user")),
            ("n,a=user,n=user,r=x", Ok("user")),
            ("n,a=root,n=user,r=x", Err(ScramFault::OtherUser)),
            ("p=tls-unique,,n=user,r=x", Err(ScramFault::Malformed("channel binding"))),
            ("n,,n=us=er,r=x", Err(ScramFault::Malformed("name"))),
            ("n,,n=,r=x", Err(ScramFault::Malformed("n"))),
            ("n,,r=x", Err(ScramFault::Malformed("n"))),
            ("n,,n=user", Err(ScramFault::Malformed("r"))),
            ("n,", Err(ScramFault::Malformed("header"))),
            ("", Err(ScramFault::Malformed("header"))),
        ] {
            let got = Exchange::start(Mechanism::Scram512, message.as_bytes(), "s", |_| (kept.clone(), true));
            assert_eq!(got.map(|e| e.user), want.map(str::to_owned), "{message}");
        }
    }

    #[test]
    fn salted_passwords_of_a_wrong_length_are_refused() {
        assert!(Credential::from_salted(Mechanism::Scram256, b"s", &[1; 31], 4096).is_none());
        assert!(Credential::from_salted(Mechanism::Scram256, b"", &[1; 32], 4096).is_none());
        assert!(Credential::from_salted(Mechanism::Scram512, b"s", &[1; 64], 4096).is_some());
        assert!(Credential::from_salted(Mechanism::Plain, b"s", &[1; 32], 4096).is_none());
    }
}
