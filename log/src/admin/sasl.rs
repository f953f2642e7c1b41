//! The client's side of a login: PLAIN (RFC 4616) and SCRAM (RFC 5802, without channel binding).
//!
//! In: user, password and mechanism of the connection. Out: a connection that is logged in. Touches the network.

use std::collections::HashMap;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use ring::{digest, hmac, pbkdf2};

use super::connection::Connection;
use super::{AdminError, text};
use crate::client::ConnectionConfig;

/// Iterations above this are an attempt to keep the client busy.
const MAX_ITERATIONS: u32 = 1_000_000;

pub(super) async fn log_in(connection: &mut Connection, config: &ConnectionConfig) -> Result<(), AdminError> {
    let address = connection.address().to_owned();
    let refused = |reason: String| AdminError::Login {
        address: address.clone(),
        user: config.sasl_username.clone(),
        mechanism: config.sasl_mechanism.clone(),
        reason,
    };
    let password = config.sasl_password.reveal()?;
    let handshake = SaslHandshakeRequest::default().with_mechanism(text(&config.sasl_mechanism));
    let answer = connection.ask(&handshake, 1).await?;
    if answer.error_code != 0 {
        let known: Vec<&str> = answer.mechanisms.iter().map(|m| m.as_str()).collect();
        return Err(refused(format!("the listener takes {}", known.join(", "))));
    }
    match Scram::new(&config.sasl_mechanism) {
        None => {
            let token = format!("\0{}\0{password}", config.sasl_username);
            step(connection, token.into_bytes()).await?.map_err(refused)?;
        }
        Some(scram) => {
            let nonce = BASE64.encode(rand::random::<[u8; 24]>());
            let first = format!("n={},r={nonce}", config.sasl_username.replace('=', "=3D").replace(',', "=2C"));
            let challenge = step(connection, format!("n,,{first}").into_bytes()).await?.map_err(&refused)?;
            let (last, expected) = scram.answer(&password, &nonce, &first, &challenge).map_err(&refused)?;
            let verdict = step(connection, last.into_bytes()).await?.map_err(&refused)?;
            if verdict != format!("v={}", BASE64.encode(expected)).as_bytes() {
                return Err(refused("the broker can't prove that it knows the password".to_owned()));
            }
        }
    }
    Ok(())
}

/// One message and its answer; the inner error is the broker's refusal.
async fn step(connection: &mut Connection, token: Vec<u8>) -> Result<Result<Bytes, String>, AdminError> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(token));
    let answer = connection.ask(&request, 2).await?;
    if answer.error_code == 0 {
        return Ok(Ok(answer.auth_bytes));
    }
    let message = answer.error_message.map(|m| m.to_string()).filter(|m| !m.is_empty());
    Ok(Err(message.unwrap_or_else(|| format!("code {}", answer.error_code))))
}

/// One of the two hashes.
#[derive(Clone, Copy)]
struct Scram {
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Scram {
    fn new(mechanism: &str) -> Option<Self> {
        match mechanism {
            "SCRAM-SHA-256" => {
                Some(Self { hmac: hmac::HMAC_SHA256, digest: &digest::SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 })
            }
            "SCRAM-SHA-512" => {
                Some(Self { hmac: hmac::HMAC_SHA512, digest: &digest::SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 })
            }
            _ => None,
        }
    }

    fn sign(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac, key), message).as_ref().to_vec()
    }

    /// The client's last message and the signature that the server must show.
    fn answer(self, password: &str, nonce: &str, first: &str, challenge: &[u8]) -> Result<(String, Vec<u8>), String> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| "its challenge is no text".to_owned())?;
        let parts: HashMap<&str, &str> = challenge.split(',').filter_map(|part| part.split_once('=')).collect();
        let part = |name: &str| parts.get(name).copied().ok_or_else(|| format!("its challenge lacks `{name}`"));
        let (server_nonce, salt, iterations) = (part("r")?, part("s")?, part("i")?);
        if !server_nonce.starts_with(nonce) {
            return Err("its challenge is not meant for this login".to_owned());
        }
        let salt = BASE64.decode(salt).map_err(|error| format!("its salt can't be read: {error}"))?;
        let iterations = iterations.parse().ok().and_then(NonZeroU32::new).filter(|n| n.get() <= MAX_ITERATIONS);
        let iterations = iterations.ok_or_else(|| "its number of iterations is out of bounds".to_owned())?;
        let mut salted = vec![0; self.digest.output_len()];
        pbkdf2::derive(self.pbkdf2, iterations, &salt, password.as_bytes(), &mut salted);
        let client_key = self.sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.digest, &client_key);
        let without_proof = format!("c=biws,r={server_nonce}");
        let message = format!("{first},{challenge},{without_proof}");
        let signature = self.sign(stored_key.as_ref(), message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let expected = self.sign(&self.sign(&salted, b"Server Key"), message.as_bytes());
        Ok((format!("{without_proof},p={}", BASE64.encode(proof)), expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_login_of_the_standard() {
        let scram = Scram::new("SCRAM-SHA-256").unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = scram.answer("pencil", nonce, "n=user,r=rOprNGfwEbeRWgbNEkqO", challenge).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(BASE64.encode(expected), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(scram.answer("pencil", "other", "n=user,r=other", challenge).is_err());
    }
}
