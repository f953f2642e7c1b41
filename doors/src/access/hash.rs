//! Hashes of tokens and passwords: made, read, compared.
//!
//! A token has 256 random bits, so a fast hash is enough: `sha256:` and 64 hex digits. Passwords are guessable: theirs is
//! Argon2id in the PHC format (`$argon2id$v=19$m=…,t=…,p=…$salt$hash`).
//!
//! In: tokens, passwords, hashes as text. Out: hashes, whether they match. Touches the system's source of randomness.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

/// What tokens begin with, so that scanners of repositories find them.
pub const PREFIX: &str = "mlr_";
/// What hashes of tokens begin with.
const SCHEME: &str = "sha256:";
/// Stands in the place of a hash where a token was revoked.
pub const REVOKED: &str = "revoked";

/// Why a hash can't be used, or a new token can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is no hash of a token.
    #[error("invalid hash of a token: expected sha256: and 64 hex digits, as `millrace token create` prints it")]
    Token,
    /// It is no hash of a password.
    #[error("invalid hash of a password: expected $argon2id$…, as `millrace token create --password` prints it")]
    Password,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Hash of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Reads `sha256:…`.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let hex = text.strip_prefix(SCHEME).filter(|hex| hex.len() == 64 && hex.is_ascii()).ok_or(HashError::Token)?;
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = hex.get(2 * at..2 * at + 2).ok_or(HashError::Token)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| HashError::Token)?;
        }
        Ok(Self(hash))
    }

    /// Compares in full whatever differs, so that the time says nothing.
    pub fn is(&self, other: &Self) -> bool {
        is_equal(&self.0, &other.0)
    }
}

impl std::fmt::Display for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(SCHEME)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Compares in full whatever differs, so that the time says nothing but the length.
pub(crate) fn is_equal(want: &[u8], given: &[u8]) -> bool {
    want.len() == given.len() && want.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Digest of an entry of the configuration by which somebody logs in. It stays in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryDigest([u8; 32]);

impl EntryDigest {
    /// Of everything that ends a session when it changes.
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p str>) -> Self {
        let mut all = Vec::new();
        for part in parts {
            all.extend_from_slice(&part.len().to_le_bytes());
            all.extend_from_slice(part.as_bytes());
        }
        let mut entry = [0; 32];
        entry.copy_from_slice(digest(&SHA256, &all).as_ref());
        Self(entry)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], HashError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| HashError::Random)?;
    Ok(bytes)
}

/// A new token.
pub fn new_token() -> Result<String, HashError> {
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// Argon2id of a password with a new salt. Takes some 20 ms and 19 MiB.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let salt = SaltString::encode_b64(&random::<16>()?).map_err(|_| HashError::Password)?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|_| HashError::Password)?;
    Ok(hash.to_string())
}

/// Hash of a password.
#[derive(Clone)]
pub struct PasswordDigest(String);

impl PasswordDigest {
    /// Reads `$argon2id$…`; one that would take more than 256 MiB or 20 passes is refused.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let hash = PasswordHash::new(text).map_err(|_| HashError::Password)?;
        let params = argon2::Params::try_from(&hash).map_err(|_| HashError::Password)?;
        let is_fine = hash.algorithm.as_str() == "argon2id"
            && hash.hash.is_some()
            && params.m_cost() <= 256 << 10
            && params.t_cost() <= 20;
        if is_fine { Ok(Self(text.to_owned())) } else { Err(HashError::Password) }
    }

    /// As it was read.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a password is the one. Takes as long as its parameters say.
    pub fn is_of(&self, password: &str) -> bool {
        PasswordHash::new(&self.0)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_match_their_own_hash_only() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert!(one.starts_with("mlr_") && one.len() == 4 + 43 && one != other, "{one}");
        let hash = TokenHash::parse(&TokenHash::of(&one).to_string()).unwrap();
        assert!(hash.is(&TokenHash::of(&one)) && !hash.is(&TokenHash::of(&other)));
        assert!(!hash.is(&TokenHash::of("")));
        for wrong in ["", "revoked", "sha256:", "sha256:00", &format!("sha256:{}", "g".repeat(64)), &one] {
            assert!(TokenHash::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords_match_their_own_hash_only() {
        let hash = hash_password("hunter2").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        let digest = PasswordDigest::parse(&hash).unwrap();
        assert!(digest.is_of("hunter2") && !digest.is_of("hunter3") && !digest.is_of(""));
        let greedy = hash.replace("m=19456", "m=4000000");
        for wrong in ["", "hunter2", "$argon2id$", "$2b$12$x", &hash.replace("argon2id", "argon2i"), &greedy] {
            assert!(PasswordDigest::parse(wrong).is_err(), "{wrong}");
        }
    }
}
