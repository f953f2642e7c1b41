//! Logging in to a broker by SASL: PLAIN (RFC 4616), SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677).
//!
//! In: user, password, what the broker says. Out: what to say next. Touches nothing. The password is read when a login
//! begins, so that a changed file counts from the next connection on, and stays in no log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ring::{digest, hmac, pbkdf2};

use crate::value::{Secret, ValueError};

/// Rounds that a broker may ask for at most: each costs us time.
const MAX_ROUNDS: u32 = 1_000_000;

/// How to log in.
#[derive(Debug, Clone)]
pub(super) struct Login {
    kind: Kind,
    user: String,
    password: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Sha256,
    Sha512,
}

impl Login {
    /// By the mechanism's name; `None` if there is no such mechanism.
    pub fn new(mechanism: &str, user: &str, password: &Secret) -> Option<Self> {
        let kind = match mechanism {
            "PLAIN" => Kind::Plain,
            "SCRAM-SHA-256" => Kind::Sha256,
            "SCRAM-SHA-512" => Kind::Sha512,
            _ => return None,
        };
        Some(Self { kind, user: user.to_owned(), password: password.clone() })
    }

    /// Its name.
    pub fn mechanism(&self) -> &'static str {
        match self.kind {
            Kind::Plain => "PLAIN",
            Kind::Sha256 => "SCRAM-SHA-256",
            Kind::Sha512 => "SCRAM-SHA-512",
        }
    }
}

/// One login under way.
pub(super) struct Talk {
    kind: Kind,
    user: String,
    password: String,
    nonce: String,
    step: Step,
}

enum Step {
    First,
    /// The broker must prove with a signature of this text that it knows the password too.
    Final(hmac::Key, String),
    Done,
}

impl Talk {
    pub fn begin(login: &Login) -> Result<Self, ValueError> {
        let password = login.password.reveal()?.to_string();
        let nonce = BASE64.encode(rand::random::<[u8; 24]>());
        Ok(Self { kind: login.kind, user: login.user.clone(), password, nonce, step: Step::First })
    }

    /// What the client says first.
    pub fn first(&self) -> Bytes {
        match self.kind {
            Kind::Plain => format!("\0{}\0{}", self.user, self.password).into(),
            Kind::Sha256 | Kind::Sha512 => format!("n,,{}", self.bare()).into(),
        }
    }

    fn bare(&self) -> String {
        // RFC 5802: `,` and `=` would end the field.
        let user = self.user.replace('=', "=3D").replace(',', "=2C");
        format!("n={user},r={}", self.nonce)
    }

    /// What to say to the broker's words; `None` when the login is complete.
    pub fn next(&mut self, said: &[u8]) -> Result<Option<Bytes>, String> {
        if self.kind == Kind::Plain {
            return Ok(None);
        }
        let said = std::str::from_utf8(said).map_err(|e| e.to_string())?;
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::First => {
                let (message, server, all) = self.prove(said)?;
                self.step = Step::Final(server, all);
                Ok(Some(message))
            }
            Step::Final(server, all) => {
                let signature = field(said, "v").and_then(|v| BASE64.decode(v).ok());
                let proven = signature.is_some_and(|v| hmac::verify(&server, all.as_bytes(), &v).is_ok());
                if proven { Ok(None) } else { Err("the broker does not know the password itself".to_owned()) }
            }
            Step::Done => Err("the broker says more than the login has".to_owned()),
        }
    }

    /// The client's proof; the key and the text of the signature that the broker must answer with.
    fn prove(&self, said: &str) -> Result<(Bytes, hmac::Key, String), String> {
        let (nonce, salt, rounds) = match (field(said, "r"), field(said, "s"), field(said, "i")) {
            (Some(nonce), Some(salt), Some(rounds)) => (nonce, salt, rounds),
            _ => return Err("the broker's challenge is not complete".to_owned()),
        };
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the broker's challenge is not for this login".to_owned());
        }
        let salt = BASE64.decode(salt).map_err(|e| e.to_string())?;
        let rounds: u32 = rounds.parse().map_err(|_| "the broker's number of rounds is none".to_owned())?;
        let rounds = std::num::NonZeroU32::new(rounds).filter(|n| n.get() <= MAX_ROUNDS);
        let rounds = rounds.ok_or_else(|| format!("the broker asks for 0 or over {MAX_ROUNDS} rounds"))?;
        let (mac, sha, derive) = match self.kind {
            Kind::Sha512 => (hmac::HMAC_SHA512, &digest::SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
            Kind::Plain | Kind::Sha256 => (hmac::HMAC_SHA256, &digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
        };
        let mut salted = vec![0; sha.output_len()];
        pbkdf2::derive(derive, rounds, &salt, self.password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(mac, &salted);
        let client = hmac::sign(&salted, b"Client Key");
        let server = hmac::sign(&salted, b"Server Key");
        let stored = digest::digest(sha, client.as_ref());
        // `biws` is base64 of `n,,`: no channel is bound.
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{said},{without_proof}", self.bare());
        let signature = hmac::sign(&hmac::Key::new(mac, stored.as_ref()), all.as_bytes());
        let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let message = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((message.into(), hmac::Key::new(mac, server.as_ref()), all))
    }
}

fn field<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(kind: Kind, nonce: &str) -> Talk {
        Talk { kind, user: "user".into(), password: "pencil".into(), nonce: nonce.into(), step: Step::First }
    }

    /// The exchange that RFC 7677 gives as its example.
    #[test]
    fn scram_sha_256_says_what_the_rfc_says() {
        let mut talk = talk(Kind::Sha256, "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(talk.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(
            talk.next(challenge.as_bytes()).unwrap().unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(talk.next(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(None));
    }

    #[test]
    fn brokers_that_cheat_are_refused() {
        let cases = [
            ("r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "not for this login"),
            ("r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "not for this login"),
            ("r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0", "rounds"),
            ("r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=999999999", "rounds"),
            ("r=abcd,i=4096", "not complete"),
        ];
        for (challenge, want) in cases {
            let error = talk(Kind::Sha256, "abc").next(challenge.as_bytes()).unwrap_err();
            assert!(error.contains(want), "{challenge}: {error}");
        }
        let mut honest = talk(Kind::Sha512, "abc");
        honest.next(b"r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").unwrap();
        assert!(honest.next(b"v=AAAA").unwrap_err().contains("does not know"));
    }

    #[test]
    fn plain_says_user_and_password() {
        let mut talk = talk(Kind::Plain, "");
        assert_eq!(talk.first(), "\0user\0pencil");
        assert_eq!(talk.next(b""), Ok(None));
    }
}
