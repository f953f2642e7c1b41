//! JSON Web Tokens of a login provider: signature, issuer, audience and times.
//!
//! In: tokens, keys, the time. Out: claims, or why a token is refused. Touches nothing. Only asymmetric algorithms are
//! accepted: no `none`, no HMAC.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::{Map, Value as Json};

use super::keys::Keys;

/// Claims of a token.
pub(super) type Claims = Map<String, Json>;

/// How far clocks may differ.
const LEEWAY_MS: i64 = 60_000;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its parts, its header or its claims can't be read.
    #[error("the token can't be read")]
    Unreadable,
    /// `none`, HMAC, or what its key is not for.
    #[error("the algorithm of the token's signature is not allowed")]
    Algorithm,
    /// It is of a kind that must not be used as a login.
    #[error("tokens of this kind can't be used to log in: {0}")]
    Kind(&'static str),
    /// Nobody known has signed it.
    #[error("the provider has no key `{id}`")]
    UnknownKey {
        /// Id of the key.
        id: String,
    },
    /// It was changed, or somebody else signed it.
    #[error("the signature of the token is wrong")]
    Signature,
    /// Another provider made it.
    #[error("the token is of another issuer")]
    Issuer,
    /// It was made for others.
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing or has another type.
    #[error("claim `{0}` of the token is missing or invalid")]
    Claim(&'static str),
    /// `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    Early,
}

/// Whether it may be a token of a provider.
pub(crate) fn is_token(text: &str) -> bool {
    text.len() <= MAX_TOKEN && text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The claims of a token that this issuer signed for one of these audiences and that is valid now.
pub(super) fn verify(
    token: &str,
    keys: &Keys,
    issuer: &str,
    audiences: &[String],
    now_ms: i64,
) -> Result<Claims, TokenError> {
    if !is_token(token) {
        return Err(TokenError::Unreadable);
    }
    // Algorithms that the library does not know, `none` above all, can't be read.
    let header = decode_header(token).map_err(|_| TokenError::Unreadable)?;
    if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
        return Err(TokenError::Algorithm);
    }
    check_type(&header)?;
    let id = header.kid.as_deref();
    if let Some(id) = id.filter(|id| !keys.has(id)) {
        return Err(TokenError::UnknownKey { id: id.chars().take(100).collect() });
    }
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // Times are compared with the clock of the process below.
    validation.validate_exp = false;
    // Without a key that fits, the algorithm is not one of the key.
    let mut refused = TokenError::Algorithm;
    for key in keys.fitting(id, header.alg) {
        refused = match decode::<Claims>(token, key, &validation) {
            Ok(data) => return check(data.claims, issuer, now_ms),
            Err(error) => refusal(error.kind()),
        };
        if refused != TokenError::Signature {
            break;
        }
    }
    Err(refused)
}

/// Tokens of an issuer that are for something else: logout tokens, those of DPoP, security events.
fn check_type(header: &Header) -> Result<(), TokenError> {
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    if matches!(kind, "jwt" | "at+jwt" | "id+jwt") { Ok(()) } else { Err(TokenError::Kind("its header `typ`")) }
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claim(match claim.as_str() {
            "exp" => "exp",
            "iss" => "iss",
            "aud" => "aud",
            _ => "sub",
        }),
        _ => TokenError::Unreadable,
    }
}

fn check(claims: Claims, issuer: &str, now_ms: i64) -> Result<Claims, TokenError> {
    // The library takes lists, too.
    if claims.get("iss").and_then(Json::as_str) != Some(issuer) {
        return Err(TokenError::Issuer);
    }
    // Seconds, which may have a fraction.
    let ms = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        #[allow(clippy::cast_possible_truncation)] // saturates
        Some(value) => value.as_f64().map(|seconds| Some((seconds * 1000.0) as i64)).ok_or(TokenError::Claim(name)),
    };
    let end = ms("exp")?.ok_or(TokenError::Claim("exp"))?;
    if now_ms >= end.saturating_add(LEEWAY_MS) {
        return Err(TokenError::Expired);
    }
    if ms("nbf")?.is_some_and(|start| now_ms.saturating_add(LEEWAY_MS) < start) {
        return Err(TokenError::Early);
    }
    // Logout tokens and security events have the issuer and the audience of logins.
    if claims.contains_key("events") {
        return Err(TokenError::Kind("it has the claim `events`"));
    }
    // Bound to a key of the client (DPoP, mutual TLS), which nobody here has checked.
    if claims.contains_key("cnf") {
        return Err(TokenError::Kind("it has the claim `cnf`"));
    }
    if claims.get("sub").and_then(Json::as_str).is_none_or(str::is_empty) {
        return Err(TokenError::Claim("sub"));
    }
    Ok(claims)
}
