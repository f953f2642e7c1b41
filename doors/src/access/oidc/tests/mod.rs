//! Tokens that are refused, keys that change, and a provider that is down.

/// A login provider on this host.
pub(crate) mod fake;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_log::value::Secret;
use serde_json::json;
use tokio::time::Duration;

use super::config::{GrantConfig, OidcConfig};
use super::keys::Keys;
use super::*;
use crate::identity::Role;
use fake::{Fake, SECRET, Signer, unsigned};

const ISSUER: &str = "https://id.test";
/// Of a key that was thrown away after these two tokens were signed.
const RSA_N: &str = "sgaakZXQqAvo_NU5sAc0ZHfm0xUqv69ai2_9clZELmI3CPUiii1xC6z2XWDJYN9XQLrmMUdf78MmlemLQw7EY834sv6qsvup53C7-c6ZRywlVFRpzNdi3SUOHNopwVH9zF0q5DV_6cVGXMbwOj-P5nY8oBXAW-KdLm8HVuNNk-iYDaZOXaK44qhVLzqJO8GfPs5MnC0zbAYh1gOodFpfh_r6nfhOBoVDn5pGImDj0VtDC2GXO28VK5_nk3lMtxR0U2dg1l5_4434CkXYhjNGztlHsUhBRUaltm7IBa_4YuFJoN9bnw7FNdH16lw0VB3j7Gc8_PLF2mU1Gm_O3H4NUQ";
const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLnRlc3QiLCJhdWQiOiJtaWxscmFjZSIsInN1YiI6IjEiLCJleHAiOjQxMDI0NDQ4MDB9.dXWHA0Ay7v8lz91Mhhkaqnj4RLX6HTwYX3TAc1mVhZxsDiO2T_UPqFyI0z-XwFP5BDLpyVt3Cwj_q-Yd4loWV517MdqfJlV0b5N_acH8rU6DG-IkN5ajkoOPAFOgH6theclHrb4D2oWNpzqysIB7bMj0lFo_68oH0zKvyicQm6hU3WUXWnNVvRubgdzg-8_Y7TdJUj3Qb5OzHVvY5ShCh97-6um1ml02Ruv1CBJlOo8SJnSHatvRSzZC1lpsxGm3-lL55aVjAaNzXt4ybrXmLmT5-LBNDwVGbl1SQsKPnXAXhW_0YP9KZvYsNjDZAvoaiE2lDJWnR6enEcFXw12b0A";
const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLnRlc3QiLCJhdWQiOiJtaWxscmFjZSIsInN1YiI6IjEiLCJleHAiOjQxMDI0NDQ4MDB9.SrLWy-l_XuoJG7vntfcy6mVRYxHYeIlekQOooyY98p1Pn9oUOwDLwarKvdIVuW2H_FEIIHs6umM5sc30myMyxnFNfsF-XQY9ZcEBXTgiMkkvVWdJxCfCnLS8fbCMnsnv1S9KKNMvyaKXlnTFies5dIw5_GQ2cwPCMd3KPv47e4mXzcB33xTDgEKvH-gC_PxqIiSuvNvCLFqi8udZ-xiemcJuVgTj6UoMEU3ymWjtwstbpZsfqFgcklq6fk_YpwQYJnx_raINN1upmHXWQnm_Wx_PbE1ioo0p2_7V4dv797FAXOVn5-rJLU_1M3A0WlXhneSqtsQgHYt-9wqU26AApQ";

/// The section `access.oidc` for a provider.
pub(crate) fn config(issuer: &str) -> OidcConfig {
    let grant = |group: &str, roles: &[Role], selector: &str| GrantConfig {
        group: group.to_owned(),
        roles: roles.to_vec(),
        tenants: vec!["default".to_owned()],
        selector: selector.to_owned(),
    };
    OidcConfig {
        issuer: issuer.to_owned(),
        client_id: "millrace".to_owned(),
        client_secret: Secret::new(SECRET),
        roles_claim: "groups".to_owned(),
        name_claim: "preferred_username".to_owned(),
        scopes: vec!["openid".to_owned(), "groups".to_owned()],
        redirect_url: String::new(),
        ca_file: String::new(),
        audience: Vec::new(),
        recheck: millrace_log::value::Span::secs(900),
        grants: vec![
            grant("sre", &[Role::Admin], ""),
            grant("dev", &[Role::Read], ""),
            grant("pay", &[Role::Read], r#"{team="pay"}"#),
        ],
    }
}

fn oidc(config: &OidcConfig) -> Oidc {
    Oidc::new(Arc::new(Plan::read(config).unwrap()), None, &HttpMetrics::default())
}

fn keys(list: Json) -> Keys {
    Keys::read(json!({"keys": list}).to_string().as_bytes()).unwrap()
}

#[test]
fn tokens_are_those_that_the_issuer_signed_for_us_and_that_are_valid_now() {
    signature::install();
    let (signer, other) = (Signer::new(), Signer::new());
    let known = keys(json!([signer.jwk("one"), {"kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB"}]));
    let header = json!({"alg": "ES256", "kid": "one"});
    let claims = json!({"iss": ISSUER, "aud": ["other", "millrace"], "sub": "1", "exp": 1000, "nbf": 500});
    let with = |name: &str, value: Json| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let sign = |header: &Json, claims: &Json| signer.token(header, claims);
    let good = sign(&header, &claims);
    let (text, signature) = good.rsplit_once('.').unwrap();
    let hmac = |key: &[u8], id: &str| {
        let text = unsigned(&json!({"alg": "HS256", "kid": id}), &claims);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
    };
    let none = |alg: &str| unsigned(&json!({"alg": alg, "kid": "one"}), &claims);
    let changed = unsigned(&header, &with("sub", json!("2")));
    for (name, token, now_s, want) in [
        ("good", good.clone(), 700, Ok(())),
        ("its last moment, clocks differ", good.clone(), 1059, Ok(())),
        ("its first moment, clocks differ", good.clone(), 440, Ok(())),
        ("expired", good.clone(), 1060, Err(TokenError::Expired)),
        ("too early", good.clone(), 439, Err(TokenError::Early)),
        ("rsa", RS256.to_owned(), 700, Ok(())),
        ("rsa, pss", PS256.to_owned(), 700, Ok(())),
        ("no key id", sign(&json!({"alg": "ES256"}), &claims), 700, Ok(())),
        ("access token", sign(&json!({"alg": "ES256", "kid": "one", "typ": "at+jwt"}), &claims), 700, Ok(())),
        ("none", format!("{}.", none("none")), 700, Err(TokenError::Unreadable)),
        ("None", format!("{}.", none("None")), 700, Err(TokenError::Unreadable)),
        ("none with a signature", format!("{}.{signature}", none("none")), 700, Err(TokenError::Unreadable)),
        ("hmac with the public key", hmac(signer.point(), "one"), 700, Err(TokenError::Algorithm)),
        ("hmac with the modulus", hmac(RSA_N.as_bytes(), "rsa"), 700, Err(TokenError::Algorithm)),
        ("hmac with nothing", hmac(b"x", "one"), 700, Err(TokenError::Algorithm)),
        ("claims changed", format!("{changed}.{signature}"), 700, Err(TokenError::Signature)),
        ("signature gone", format!("{text}."), 700, Err(TokenError::Signature)),
        ("another signer", other.token(&header, &claims), 700, Err(TokenError::Signature)),
        ("another signer, no id", other.token(&json!({"alg": "ES256"}), &claims), 700, Err(TokenError::Signature)),
        (
            "the key of another algorithm",
            sign(&json!({"alg": "ES256", "kid": "rsa"}), &claims),
            700,
            Err(TokenError::Algorithm),
        ),
        (
            "an algorithm of another key",
            sign(&json!({"alg": "RS256", "kid": "one"}), &claims),
            700,
            Err(TokenError::Algorithm),
        ),
        ("another curve", sign(&json!({"alg": "ES384", "kid": "one"}), &claims), 700, Err(TokenError::Algorithm)),
        (
            "unknown key",
            sign(&json!({"alg": "ES256", "kid": "x"}), &claims),
            700,
            Err(TokenError::UnknownKey { id: "x".to_owned() }),
        ),
        (
            "a key of its own",
            other.token(&json!({"alg": "ES256", "jwk": other.jwk("one")}), &claims),
            700,
            Err(TokenError::Signature),
        ),
        (
            "unknown critical header",
            sign(&json!({"alg": "ES256", "kid": "one", "crit": ["x"], "x": 1}), &claims),
            700,
            Err(TokenError::Unreadable),
        ),
        (
            "logout token",
            sign(&json!({"alg": "ES256", "kid": "one", "typ": "logout+jwt"}), &claims),
            700,
            Err(TokenError::Kind("its header `typ`")),
        ),
        ("event", sign(&header, &with("events", json!({}))), 700, Err(TokenError::Kind("it has the claim `events`"))),
        (
            "bound to a key",
            sign(&header, &with("cnf", json!({"jkt": "x"}))),
            700,
            Err(TokenError::Kind("it has the claim `cnf`")),
        ),
        ("another issuer", sign(&header, &with("iss", json!("https://id.test/"))), 700, Err(TokenError::Issuer)),
        ("another audience", sign(&header, &with("aud", json!("other"))), 700, Err(TokenError::Audience)),
        ("no audience", sign(&header, &without("aud")), 700, Err(TokenError::Claim("aud"))),
        ("no issuer", sign(&header, &without("iss")), 700, Err(TokenError::Claim("iss"))),
        ("no end", sign(&header, &without("exp")), 700, Err(TokenError::Claim("exp"))),
        ("an end as text", sign(&header, &with("exp", json!("1000"))), 700, Err(TokenError::Claim("exp"))),
        ("nobody", sign(&header, &with("sub", json!(""))), 700, Err(TokenError::Claim("sub"))),
        ("two parts", text.to_owned(), 700, Err(TokenError::Unreadable)),
        ("nonsense", "eyJ.eyJ.x".to_owned(), 700, Err(TokenError::Unreadable)),
        ("too long", format!("{good}{}", "A".repeat(20_000)), 700, Err(TokenError::Unreadable)),
    ] {
        let found = verify(&token, &known, ISSUER, &["millrace".to_owned()], now_s * 1000).map(|_| ());
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn keys_that_can_not_check_signatures_are_left_out() {
    let key = Signer::new().jwk("a");
    let with = |name: &str, value: Json| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    for (list, want) in [
        (json!([key]), 1),
        (json!([key, 7, {"kty": "new"}, {"kty": "oct", "k": "AAAA", "kid": "a"}]), 1),
        (json!([with("use", json!("enc"))]), 0),
        (json!([with("alg", json!("HS256"))]), 0),
        (json!([with("alg", json!("ECDH-ES"))]), 0),
        (json!([with("crv", json!("P-521"))]), 0),
        (json!([with("crv", json!("secp256k1"))]), 0),
        (json!(vec![key.clone(); 60]), 50),
    ] {
        assert_eq!(keys(list.clone()).len(), want, "{list}");
    }
    for wrong in ["", "[]", "{}", r#"{"keys": 1}"#] {
        assert!(Keys::read(wrong.as_bytes()).is_none(), "{wrong}");
    }
}

#[tokio::test]
async fn groups_of_a_token_decide_what_it_may_do() {
    let fake = Fake::start().await;
    let oidc = oidc(&config(&fake.issuer()));
    for (claims, want) in [
        (json!({"groups": ["sre"], "preferred_username": "ann"}), Ok(("oidc:ann", Role::Admin, None))),
        (json!({"groups": ["dev", "x"]}), Ok(("oidc:1", Role::Read, None))),
        (json!({"groups": ["sre", "pay"]}), Ok(("oidc:1", Role::Read, Some(r#"{team="pay"}"#)))),
        (json!({"groups": ["x"]}), Err(403)),
        (json!({"groups": []}), Err(403)),
        (json!({}), Err(403)),
        (json!({"groups": ["sre"], "aud": "other"}), Err(401)),
        (json!({"groups": ["sre"], "exp": 1}), Err(401)),
    ] {
        let found = oidc.bearer(&fake.token(&claims), 100_000).await;
        match (&found, want) {
            (Ok(known), Ok((name, role, selector))) => {
                let rights = &known.identity.rights;
                assert_eq!(
                    (&*known.name, &rights.roles[..], rights.selector.as_deref()),
                    (name, &[role][..], selector)
                );
                assert_eq!(oidc.returning(&known.name, &known.grants).as_ref(), Some(&known.identity), "{claims}");
            }
            (Err(failed), Err(status)) => assert_eq!(failed.status.as_u16(), status, "{claims}"),
            _ => panic!("{claims}: {found:?}"),
        }
    }
    assert_eq!(oidc.returning("oidc:ann", &[]), None);
    assert_eq!(oidc.returning("oidc:ann", &[99]), None);
    let api = OidcConfig { audience: vec!["api".to_owned()], ..config(&fake.issuer()) };
    let api = self::oidc(&api);
    for (audience, want) in [("api", true), ("millrace", false)] {
        let token = fake.token(&json!({"groups": ["dev"], "aud": audience}));
        assert_eq!(api.bearer(&token, 100_000).await.is_ok(), want, "{audience}");
    }
}

#[tokio::test]
async fn keys_are_fetched_again_for_unknown_ids_and_stay_while_the_provider_is_down() {
    let fake = Fake::start().await;
    let oidc = oidc(&config(&fake.issuer()));
    let claims = json!({"groups": ["dev"]});
    let ask =
        async |token: &str| oidc.bearer(token, 100_000).await.map(|known| known.name).map_err(|f| f.status.as_u16());
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(provider::PAUSE + Duration::from_secs(1)).await;
        tokio::time::resume();
    };
    // Down at the start: the process runs, tokens can't be checked.
    fake.set_down(true);
    let first = fake.token(&claims);
    assert_eq!(ask(&first).await, Err(503));
    assert!(oidc.notice().unwrap().contains("nobody can log in by it"), "{:?}", oidc.notice());
    fake.set_down(false);
    assert_eq!(ask(&first).await, Err(503), "it was asked a moment ago");
    later().await;
    assert_eq!(ask(&first).await.as_deref(), Ok("oidc:1"));
    assert_eq!((oidc.notice(), fake.fetches()), (None, 1));

    // A new key: at once when the last fetch is some time ago, and no more often, whoever sends what.
    fake.rotate("two");
    let second = fake.token(&claims);
    assert_eq!(ask(&second).await, Err(401), "fetched a moment ago");
    later().await;
    assert_eq!(ask(&second).await.as_deref(), Ok("oidc:1"));
    assert_eq!(ask(&first).await, Err(401), "the provider has given up its first key");
    for _ in 0..20 {
        assert_eq!(ask(&first).await, Err(401));
    }
    assert_eq!(fake.fetches(), 2);

    // Down: known keys go on, others can't be told from wrong ones.
    later().await;
    fake.set_down(true);
    assert_eq!(ask(&first).await, Err(503));
    assert_eq!(ask(&second).await.as_deref(), Ok("oidc:1"));
    assert!(oidc.notice().unwrap().contains("1 known keys remain valid"), "{:?}", oidc.notice());
    // It is asked again by itself, although it was a token that found it down; while it answers, seldom.
    oidc.look_after().await;
    assert!(oidc.notice().is_some());
    fake.set_down(false);
    let before = fake.fetches();
    oidc.look_after().await;
    oidc.look_after().await;
    assert_eq!((oidc.notice(), fake.fetches() - before), (None, 1));
    assert_eq!((oidc.notice(), ask(&second).await.as_deref()), (None, Ok("oidc:1")));
}

#[tokio::test]
async fn keys_stay_over_a_reload_unless_the_provider_is_another() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    let before = oidc(&config(&fake.issuer()));
    before.look_after().await;
    let plan = |config: &OidcConfig| Arc::new(Plan::read(config).unwrap());
    let changed = OidcConfig { client_id: "other".to_owned(), ..config(&fake.issuer()) };
    let after = Oidc::new(plan(&changed), Some(&before), &HttpMetrics::default());
    assert!(Arc::ptr_eq(&before.provider, &after.provider));
    let moved = Oidc::new(plan(&config(&other.issuer())), Some(&before), &HttpMetrics::default());
    assert!(!Arc::ptr_eq(&before.provider, &moved.provider) && moved.provider.known().is_none());
}

#[tokio::test]
async fn a_provider_by_another_name_is_refused() {
    let fake = Fake::start().await;
    let oidc = oidc(&config(&format!("{}/", fake.issuer())));
    oidc.look_after().await;
    let notice = oidc.notice().unwrap();
    assert!(notice.contains(&format!("it names itself `{}`", fake.issuer())), "{notice}");
}
