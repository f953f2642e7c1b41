//! Logins of all listeners together: every way in, its end, and those who guess.

use http::{HeaderMap, HeaderValue};
use millrace_log::clock::ManualClock;
use millrace_log::record::Tenant;
use millrace_log::value::Secret;

use super::config::{CertificateConfig, ProxyConfig, TokenConfig, UserConfig};
use super::hash::{TokenHash, hash_password};
use super::*;
use crate::identity::{Role, Tenants};

const READER: &str = "mlr_reader";

fn token(name: &str, token: &str, expires: &str) -> TokenConfig {
    TokenConfig {
        name: name.to_owned(),
        hash: Secret::new(TokenHash::of(token).to_string()),
        roles: vec![Role::Read],
        tenants: vec!["pay".to_owned()],
        selector: r#"{team="pay"}"#.to_owned(),
        expires: expires.to_owned(),
    }
}

fn config() -> AccessConfig {
    let certificate = |name: &str, subject: &str, san: &str| CertificateConfig {
        name: name.to_owned(),
        subject: subject.to_owned(),
        san: san.to_owned(),
        roles: vec![Role::Write],
        tenants: vec!["*".to_owned()],
        selector: String::new(),
    };
    let user = |name: &str, hash: String| UserConfig {
        name: name.to_owned(),
        hash: Secret::new(hash),
        roles: vec![Role::Admin],
        tenants: vec!["*".to_owned()],
        selector: String::new(),
    };
    AccessConfig {
        tokens: vec![token("reader", READER, ""), token("old", "mlr_old", "1970-01-02")],
        users: vec![user("alice", hash_password("hunter2").unwrap()), user("by-proxy", String::new())],
        certificates: vec![certificate("agent", "CN=agent-7", ""), certificate("shipper", "", "ship.example")],
        proxy: Some(ProxyConfig {
            addresses: vec!["10.0.0.0/24".to_owned()],
            header: "X-Forwarded-User".to_owned(),
            roles: vec![Role::Read],
            tenants: vec!["default".to_owned()],
        }),
        ..AccessConfig::default()
    }
}

fn access(clock: &Arc<ManualClock>) -> Access {
    let access = Access::new(Arc::clone(clock) as SharedClock).unwrap();
    access.replace(&config()).unwrap();
    access
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

fn peer(address: &str, subject: &str, name: &str) -> Peer {
    let names: Vec<String> = if name.is_empty() { Vec::new() } else { vec![name.to_owned()] };
    Peer {
        address: format!("{address}:1").parse().unwrap(),
        certificate: (!subject.is_empty()).then(|| subject.into()),
        is_tls: true,
        names: names.into(),
    }
}

#[tokio::test]
async fn every_way_in_names_its_own() {
    let clock = ManualClock::at_ns(0);
    let access = access(&clock);
    let alice = crate::login::basic("alice", "hunter2");
    let with_token = crate::login::basic("whoever", READER);
    let wrong = crate::login::basic("alice", "hunter3");
    let unknown = crate::login::basic("bob", "hunter2");
    let no_password = crate::login::basic("by-proxy", "");
    let here = || peer("192.0.2.1", "", "");
    let auth = |value: &str| headers(&[("authorization", value)]);
    for (headers, peer, want) in [
        (auth("Bearer mlr_reader"), here(), Ok("reader")),
        (auth("ApiKey mlr_reader"), here(), Ok("reader")),
        (auth(&with_token), here(), Ok("reader")),
        (auth("Bearer mlr_old"), here(), Ok("old")),
        (auth(&alice), here(), Ok("alice")),
        (auth(&wrong), here(), Err(Denied::Wrong)),
        (auth(&unknown), here(), Err(Denied::Wrong)),
        (auth(&no_password), here(), Err(Denied::Wrong)),
        (auth("Bearer mlr_other"), here(), Err(Denied::Wrong)),
        (auth("Bearer"), here(), Err(Denied::Wrong)),
        (headers(&[]), here(), Err(Denied::Nothing)),
        (headers(&[]), peer("192.0.2.1", "User:CN=agent-7", ""), Ok("agent")),
        (headers(&[]), peer("192.0.2.1", "User:CN=x", "ship.example"), Ok("shipper")),
        (headers(&[]), peer("192.0.2.1", "User:CN=agent-8", "other"), Err(Denied::Nothing)),
        // A token that is shown counts before the certificate.
        (auth("Bearer mlr_other"), peer("192.0.2.1", "User:CN=agent-7", ""), Err(Denied::Wrong)),
        (headers(&[("x-forwarded-user", "carol")]), peer("10.0.0.9", "", ""), Ok("carol")),
        (headers(&[("x-forwarded-user", "by-proxy")]), peer("10.0.0.9", "", ""), Ok("by-proxy")),
        (headers(&[("x-forwarded-user", "carol")]), here(), Err(Denied::Nothing)),
        (headers(&[("x-forwarded-user", "")]), peer("10.0.0.9", "", ""), Err(Denied::Wrong)),
    ] {
        let found = access.identify(&headers, &peer).await;
        let found = found.as_ref().map(|(_, who)| &*who.name).map_err(Clone::clone);
        assert_eq!(found, want, "{headers:?}");
    }
    let (_, reader) = access.identify(&auth("Bearer mlr_reader"), &here()).await.unwrap();
    assert_eq!(reader.rights.tenants, Tenants::Named(Arc::new([Tenant::new("pay").unwrap()])));
    assert_eq!(reader.rights.selector.as_deref(), Some(r#"{team="pay"}"#));
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(access.identify(&auth("Bearer mlr_old"), &here()).await, Err(Denied::Wrong), "expired");
    let notes = access.expiring_tokens();
    assert!(notes.len() == 1 && notes[0].starts_with("token `old` expired at "), "{notes:?}");
    access.replace(&AccessConfig { tokens: Vec::new(), ..config() }).unwrap();
    assert_eq!(access.identify(&auth("Bearer mlr_reader"), &here()).await, Err(Denied::Wrong), "removed");
}

#[tokio::test]
async fn guesses_are_slowed_down_and_those_who_know_are_not() {
    let access = access(&ManualClock::at_ns(0));
    let here = peer("192.0.2.1", "", "");
    let address = here.address.ip();
    let (right, wrong) = (crate::login::basic("alice", "hunter2"), crate::login::basic("alice", "hunter3"));
    let ask = |value: &str| {
        let (access, headers, here) = (access.clone(), headers(&[("authorization", value)]), here.clone());
        async move { access.identify(&headers, &here).await.map(|(_, who)| who.name.to_string()) }
    };
    assert_eq!(ask(&right).await.as_deref(), Ok("alice"));
    for _ in 0..6 {
        assert_eq!(ask(&wrong).await, Err(Denied::Wrong));
        access.failed("test", address, &headers(&[("authorization", &wrong)]));
    }
    assert!(matches!(ask(&wrong).await, Err(Denied::Wait(1..=2))));
    assert!(matches!(ask(&crate::login::basic("bob", "x")).await, Err(Denied::Wait(1..=2))));
    assert_eq!(ask(&right).await.as_deref(), Ok("alice"), "was right a moment ago");
    assert_eq!(ask("Bearer mlr_reader").await.as_deref(), Ok("reader"), "a token can't be guessed");
    let elsewhere = peer("192.0.2.2", "", "");
    let found = access.identify(&headers(&[("authorization", &wrong)]), &elsewhere).await;
    assert_eq!(found, Err(Denied::Wrong));
    let of = Of { listener: "test".to_owned() };
    assert_eq!(access.metrics().failed_logins.get_or_create(&of).get(), 6);
}

#[tokio::test]
async fn a_client_that_has_gone_leaves_its_place_taken_until_its_password_is_hashed() {
    let access = access(&ManualClock::at_ns(0));
    let asked = headers(&[("authorization", crate::login::basic("alice", "hunter3").as_str())]);
    let here = peer("192.0.2.1", "", "");
    let free = || (access.0.waiting.available_permits(), access.0.hashing.available_permits());
    {
        let asking = access.identify(&asked, &here);
        tokio::pin!(asking);
        assert!(futures::poll!(&mut asking).is_pending(), "the hashing takes its time");
        assert_eq!(free(), (WAITING - 1, HASHED_AT_ONCE - 1));
    }
    // All places at once: they are there again only when the hashing has ended.
    drop(access.0.hashing.acquire_many(HASHED_AT_ONCE as u32).await.unwrap());
    assert_eq!(free(), (WAITING, HASHED_AT_ONCE));
}

#[tokio::test]
async fn passwords_that_were_right_are_forgotten_with_their_logins() {
    let access = access(&ManualClock::at_ns(0));
    let asked = headers(&[("authorization", crate::login::basic("alice", "hunter2").as_str())]);
    let here = peer("192.0.2.1", "", "");
    let book = access.book();
    access.identify(&asked, &here).await.unwrap();
    let mut other = config();
    other.users[0].hash = Secret::new(hash_password("other").unwrap());
    access.replace(&other).unwrap();
    // A hashing that ends only now was asked of the logins before.
    let late = access.password(&book, here.address.ip(), "alice", "hunter2".to_owned()).await;
    assert!(late.is_ok());
    assert_eq!(access.identify(&asked, &here).await.map(|_| ()), Err(Denied::Wrong));
}

#[test]
fn clients_behind_the_proxy_are_told_apart() {
    let access = access(&ManualClock::at_ns(0));
    let forwarded = headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2")]);
    for (peer, headers, want) in [
        (peer("10.0.0.9", "", ""), &forwarded, "2.2.2.2"),
        (peer("10.0.0.9", "", ""), &HeaderMap::new(), "10.0.0.9"),
        (peer("192.0.2.1", "", ""), &forwarded, "192.0.2.1"),
    ] {
        assert_eq!(access.address(headers, &peer).to_string(), want);
    }
}
