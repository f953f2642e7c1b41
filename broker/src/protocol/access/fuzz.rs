//! Fuzz target `scram`: the two messages of a login by SCRAM.
//!
//! In: any bytes. Out: a panic if a promise is broken: nobody is let in without the password, and a challenge has the nonces of
//! both sides. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use super::scram::{Credential, Exchange};
use crate::protocol::config::listener::Mechanism;

/// The first message, then behind the first line end the last one.
pub(crate) fn scram(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (first, last) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    for (mechanism, length) in [(Mechanism::Scram256, 32), (Mechanism::Scram512, 64)] {
        let credential = Credential::from_salted(mechanism, b"salt", &vec![7; length], 4096).unwrap();
        let started = Exchange::start(mechanism, first, "servernonce", |_| (credential, true));
        match started {
            Err(fault) => assert!(!fault.to_string().is_empty(), "{first:?}"),
            Ok(exchange) => {
                assert!(!exchange.user.is_empty() && exchange.user.len() <= first.len(), "{:?}", exchange.user);
                let (nonce, rest) = exchange.challenge().strip_prefix("r=").unwrap().split_once(',').unwrap();
                assert!(nonce.ends_with("servernonce") && rest == "s=c2FsdA==,i=4096", "{}", exchange.challenge());
                let finished = exchange.finish(last);
                assert!(finished.is_err(), "{last:?} is let in");
            }
        }
    }
}

/// Logins as clients begin and end them.
pub(crate) fn scram_seeds(_: u64) -> Vec<Vec<u8>> {
    let proof = "p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    millrace_fuzzing::texts(&[
        &format!("n,,n=anna,r=clientnonce\nc=biws,r=clientnonceservernonce,{proof}"),
        &format!("y,a=a=2Cb=3D,n=a=2Cb=3D,r=x,ext=1\nc=eSxhPWE9MkNiPTNELA==,r=xservernonce,{proof}"),
        "p=tls-unique,,n=a,r=x",
        "n,,m=1,n=a,r=x\nc=biws",
        "n,,n=a,r=x,tokenauth=true",
    ])
}
