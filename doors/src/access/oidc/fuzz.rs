//! Fuzz target `token`: tokens that anybody may send, and key sets of a provider.
//!
//! In: any bytes. Out: a panic if a promise is broken: a token is refused with a text, or it says what the provider signed. See
//! [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_fuzzing::memory;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value as Json, json};

use super::keys::Keys;
use super::signature::install;
use super::token::{Claims, TokenError, verify};

const ISSUER: &str = "https://login.example.com";
const AUDIENCE: &str = "millrace";
const NOW_MS: i64 = 1_772_366_400_000;
/// Memory of a key set or of a token.
const HELD: u64 = 1 << 20;

/// A provider with one key, which signs the same in every run.
struct Signer {
    pair: Ed25519KeyPair,
    set: String,
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    install();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let set = json!({"keys": [
        {"kty": "oct", "k": "AQ", "kid": "shared"},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one", "use": "sig", "alg": "EdDSA"},
        {"kty": "EC", "crv": "P-256", "kid": "two", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    ]});
    Signer { pair, set: set.to_string() }
});

impl Signer {
    fn token(&self, header: &Json, claims: &Json) -> String {
        let head =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(head.as_bytes())))
    }
}

fn header() -> Json {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": "one"})
}

fn claims() -> Json {
    json!({"iss": ISSUER, "aud": [AUDIENCE, "x"], "sub": "anna", "exp": NOW_MS / 1000 + 60, "groups": ["ops"]})
}

fn check(token: &str, keys: &Keys) -> Result<Claims, TokenError> {
    let (got, held) = memory::most(|| verify(token, keys, ISSUER, &[AUDIENCE.to_owned()], NOW_MS));
    assert!(held <= HELD, "{held} bytes held for {token}");
    got
}

/// A key set if it begins with a brace, else a token.
pub(crate) fn token(bytes: &[u8]) {
    let signer = &*SIGNER;
    let good = signer.token(&header(), &claims());
    if bytes.first() == Some(&b'{') {
        let (keys, held) = memory::most(|| Keys::read(bytes));
        assert!(held <= HELD + 300 * bytes.len() as u64, "{held} bytes held for {}", String::from_utf8_lossy(bytes));
        if let Some(keys) = keys {
            assert!(keys.len() <= 50);
            // Only this key has signed it.
            let read = check(&good, &keys);
            let x = URL_SAFE_NO_PAD.encode(signer.pair.public_key());
            let shown = String::from_utf8_lossy(bytes);
            assert!(read.is_err() || x.get(..40).is_some_and(|x| shown.contains(x)), "{shown}");
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let keys = Keys::read(signer.set.as_bytes()).unwrap();
    match check(text, &keys) {
        Ok(read) => {
            assert_eq!(text.split('.').take(2).collect::<Vec<_>>(), good.split('.').take(2).collect::<Vec<_>>());
            assert_eq!(Json::Object(read), claims(), "{text}");
        }
        Err(error) => assert!(!error.to_string().is_empty(), "{text}"),
    }
}

/// Tokens that are signed, by this key, for others, of another kind, and key sets.
pub(crate) fn token_seeds(_: u64) -> Vec<Vec<u8>> {
    let signer = &*SIGNER;
    let with = |name: &str, value: Json| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let tokens = [
        (header(), claims()),
        (json!({"alg": "none"}), claims()),
        (json!({"alg": "HS256", "kid": "shared"}), claims()),
        (json!({"alg": "ES256", "kid": "two", "typ": "at+jwt"}), claims()),
        (json!({"alg": "EdDSA", "typ": "dpop+jwt"}), claims()),
        (header(), with("exp", json!(1.5))),
        (header(), with("nbf", json!(NOW_MS))),
        (header(), with("aud", json!({"a": [1]}))),
        (header(), with("cnf", json!({}))),
        (header(), with("sub", json!(""))),
        (header(), with("iss", json!(["https://login.example.com"]))),
    ];
    let mut seeds: Vec<Vec<u8>> =
        tokens.iter().map(|(header, claims)| signer.token(header, claims).into_bytes()).collect();
    seeds.push(signer.set.clone().into_bytes());
    seeds.push(br#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS256", "kid": "r", "x5c": ["AA=="]}, 1, {"kty": "EC"}]}"#.to_vec());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seed_is_accepted() {
        let keys = Keys::read(SIGNER.set.as_bytes()).unwrap();
        let token = String::from_utf8(token_seeds(0).swap_remove(0)).unwrap();
        assert_eq!(check(&token, &keys).map(Json::Object), Ok(claims()));
    }
}
