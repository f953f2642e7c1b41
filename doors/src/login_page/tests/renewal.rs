//! Sessions that the login provider renews, those that it ends, and those that go on while it is down.

use std::time::Duration;

use super::*;

/// The page of a session that is due sends the browser here, and from there to the provider.
const BEGINS: &str = "/login/oidc?silent=1&next=/%3Fquery%3Dx";

impl Browser {
    /// Time goes by, for the process as well.
    async fn later(&self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.clock.advance(time);
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    /// Whether the page is shown, and to whom.
    async fn shown(&self) -> Option<String> {
        let page = self.get("/?query=x").await.text;
        page.starts_with("oidc:").then(|| page.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    /// Whether the page sends the browser to the provider: by a page of its own, as the request may be a form, whose
    /// redirects browsers keep on this host.
    async fn is_due(&self) -> bool {
        let page = self.get("/?query=x").await;
        let refresh = format!("content=\"0; url={}\"", BEGINS.replace('&', "&amp;"));
        page.status == 200 && page.location.is_empty() && page.text.contains(&refresh)
    }

    /// A request that another site sent the browser to: it leaves out the cookies that are `SameSite=Strict`.
    async fn led_to(&self, target: &str) -> Answer {
        let strict: Vec<_> = self.cookies.lock().extract_if(.., |(name, _)| name != "millrace_login").collect();
        let answer = self.get(target).await;
        let is_set = |name: &str| answer.set_cookies.iter().any(|cookie| cookie.starts_with(&format!("{name}=")));
        self.cookies.lock().extend(strict.into_iter().filter(|(name, _)| !is_set(name)));
        answer
    }

    /// The provider sends back a browser whose session is due, with what it says of the person now.
    async fn renew(&self, fake: &Fake, back: &str, claims: Json) -> Answer {
        assert!(self.is_due().await);
        let begun = self.get(BEGINS).await;
        assert!(begun.status == 303 && begun.location.contains("&prompt=none"), "{}", begun.location);
        if let Some(code) = back.strip_prefix("code=") {
            fake.logs_in(&begun.location, code, claims);
        }
        let url = url::Url::parse(&begun.location).unwrap();
        let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        self.led_to(&format!("/login/oidc/callback?{back}&state={state}")).await
    }

    /// The provider is down from now on, or answers again, and that is seen.
    async fn set_down(&self, fake: &Fake, is_down: bool) {
        fake.set_down(is_down);
        self.access.oidc().unwrap().provider.refresh(Duration::ZERO).await;
    }
}

fn nobody() -> Json {
    json!({"groups": [], "preferred_username": "ann"})
}

#[tokio::test]
async fn sessions_are_renewed_by_the_provider_and_follow_its_groups() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    browser.logged_in(&fake, "c1", ann()).await;
    browser.events();
    let due = async || {
        browser.later(899).await;
        assert!(browser.shown().await.is_some(), "nobody is asked yet");
        browser.later(1).await;
        // Programs and scripts are told so; people are sent to the provider, and see nothing of it.
        let csrf = browser.csrf();
        assert_eq!(browser.send("POST", "/change", &[("x-csrf-token", csrf.as_str())], "").await.status, 401);
    };
    due().await;
    let renewed = browser.renew(&fake, "code=c2", ann()).await;
    assert!(renewed.status == 200 && renewed.text.contains("content=\"0; url=/?query=x\""), "{}", renewed.text);
    assert_eq!(browser.shown().await.as_deref(), Some("oidc:ann [Admin]"));
    assert_eq!(browser.events(), [("login", "oidc:ann".to_owned(), "subject 17, renewed".to_owned())]);

    // Another group at the provider: other rights at once.
    due().await;
    let fewer = json!({"groups": ["pay"], "preferred_username": "ann", "sub": "17"});
    assert_eq!(browser.renew(&fake, "code=c3", fewer).await.status, 200);
    let page = browser.get("/").await;
    assert!(page.text.starts_with(r#"oidc:ann [Read] Some("{team=\"pay\"}")"#), "{}", page.text);

    // No group at all.
    due().await;
    browser.events();
    let refused = browser.renew(&fake, "code=c4", nobody()).await;
    assert_eq!((refused.status, browser.cookies.lock().is_empty()), (403, true), "{}", refused.text);
    let events = browser.events();
    assert!(events.len() == 1 && events[0].0 == "login_failed" && events[0].1 == "oidc:ann", "{events:?}");
    assert_eq!(browser.get("/").await.location, "/login?next=/");

    // Logged out at the provider: the form, without an error and without another attempt.
    for error in ["login_required", "interaction_required"] {
        browser.logged_in(&fake, error, ann()).await;
        due().await;
        browser.events();
        let unknown = browser.renew(&fake, &format!("error={error}"), ann()).await;
        assert_eq!((unknown.status, unknown.location.as_str()), (303, "/login?next=/%3Fquery%3Dx"), "{error}");
        assert!(browser.cookies.lock().is_empty(), "{error}");
        assert_eq!(browser.get("/").await.location, "/login?next=/");
        let detail = format!("not renewed by the login provider: {error}");
        assert_eq!(browser.events(), [("logout", "oidc:ann".to_owned(), detail)]);
    }

    // Somebody else at the provider: a login as any other.
    browser.logged_in(&fake, "c5", ann()).await;
    due().await;
    browser.events();
    let bob = json!({"groups": ["dev"], "preferred_username": "bob", "sub": "18"});
    browser.renew(&fake, "code=c6", bob).await;
    assert_eq!(browser.shown().await.as_deref(), Some("oidc:bob [Read]"));
    assert_eq!(browser.events(), [("login", "oidc:bob".to_owned(), "subject 18".to_owned())]);

    // Whoever logs out while the session is due is out for good.
    due().await;
    let (csrf, kept) = (browser.csrf(), browser.cookies.lock().clone());
    assert_eq!(browser.send("POST", "/logout", &[], &format!("csrf={csrf}")).await.status, 200);
    *browser.cookies.lock() = kept;
    assert_eq!(browser.get("/").await.location, "/login?next=/");

    // Another interval by a reload counts at once.
    browser.logged_in(&fake, "c7", ann()).await;
    browser.later(60).await;
    let mut shorter = config(&fake);
    shorter.oidc.as_mut().unwrap().recheck = millrace_log::value::Span::secs(60);
    assert!(browser.shown().await.is_some());
    browser.access.replace(&shorter).unwrap();
    assert!(browser.is_due().await);
}

#[tokio::test]
async fn cookies_of_people_who_were_turned_away_or_lost_rights_stay_out_while_the_provider_is_down() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    for (name, back, claims) in [
        ("fewer groups", "code=c", json!({"groups": ["pay"], "preferred_username": "ann", "sub": "17"})),
        ("no group", "code=c", nobody()),
        ("logged out there", "error=login_required", ann()),
        ("refused", "error=access_denied", ann()),
        ("somebody else", "code=c", json!({"groups": ["sre"], "preferred_username": "bob", "sub": "18"})),
    ] {
        browser.cookies.lock().clear();
        browser.logged_in(&fake, "first", ann()).await;
        let kept = browser.cookies.lock().clone();
        browser.later(900).await;
        browser.renew(&fake, back, claims).await;
        *browser.cookies.lock() = kept;
        browser.set_down(&fake, true).await;
        assert_eq!(browser.shown().await, None, "{name}");
        browser.later(3600).await;
        assert_eq!(browser.shown().await, None, "{name}");
        browser.set_down(&fake, false).await;
    }
}

#[tokio::test]
async fn sessions_that_were_not_due_when_the_provider_went_down_go_on_without_it() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    // An outage is seen five minutes late.
    for (age, goes_on) in [(0, true), (899, true), (1199, true), (1200, false), (10_000, false)] {
        browser.cookies.lock().clear();
        browser.logged_in(&fake, "c", ann()).await;
        browser.later(age).await;
        browser.set_down(&fake, true).await;
        for _ in 0..2 {
            assert_eq!((browser.shown().await.is_some(), browser.is_due().await), (goes_on, !goes_on), "{age} s");
            // Nobody is sent to a provider that is down.
            let begun = browser.get(BEGINS).await;
            let is_told = begun.status == 503 && begun.text.contains("content=\"10; url=/?query=x\"");
            assert_eq!((is_told, begun.location == "/?query=x"), (!goes_on, goes_on), "{age} s: {}", begun.text);
            browser.later(3600).await;
        }
        browser.set_down(&fake, false).await;
        assert!(browser.is_due().await, "{age} s");
        browser.set_down(&fake, true).await;
        browser.later(11 * 3600).await;
        assert_eq!(browser.get("/").await.location, "/login?next=/", "{age} s: no session lasts longer");
        browser.set_down(&fake, false).await;
    }
}

#[tokio::test]
async fn links_of_other_sites_end_no_session() {
    let fake = Fake::start().await;
    let user = UserConfig {
        name: "alice".to_owned(),
        hash: Secret::new(hash_password("hunter2").unwrap()),
        roles: vec![Role::Admin],
        tenants: vec!["default".to_owned()],
        selector: String::new(),
    };
    let browser = Browser::new(&AccessConfig { users: vec![user], ..config(&fake) }, true);
    for who in ["alice", "oidc:ann"] {
        browser.cookies.lock().clear();
        match who {
            "alice" => drop(browser.send("POST", "/login", &[], "user=alice&password=hunter2").await),
            _ => drop(browser.logged_in(&fake, "c", ann()).await),
        }
        let before = browser.cookies.lock().clone();
        let led = browser.led_to(BEGINS).await;
        assert_eq!((led.location.as_str(), led.set_cookies.len()), ("/login?next=/%3Fquery%3Dx", 0), "{who}");
        // By a link of this host: nothing is to be renewed.
        let led = browser.get(BEGINS).await;
        assert_eq!((led.location.as_str(), led.set_cookies.len()), ("/?query=x", 0), "{who}");
        assert_eq!(*browser.cookies.lock(), before, "{who}");
        assert!(browser.get("/").await.text.starts_with(who));
    }
}

#[tokio::test]
async fn no_session_is_refused_because_the_provider_fails_at_its_logins() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    for back in ["error=temporarily_unavailable", "error=server_error", "code=c"] {
        for (age, goes_on) in [(900, true), (1200, false)] {
            browser.cookies.lock().clear();
            browser.logged_in(&fake, "first", ann()).await;
            browser.later(age).await;
            browser.events();
            // Description and keys are known; the code can't be redeemed.
            fake.set_down(true);
            let answer = browser.renew(&fake, back, ann()).await;
            let (status, refresh) = if goes_on { (200, "0") } else { (503, "10") };
            assert_eq!(answer.status, status, "{back} {age}: {}", answer.text);
            assert!(answer.text.contains(&format!("content=\"{refresh}; url=/?query=x\"")), "{}", answer.text);
            assert_eq!(browser.events(), [], "{back}: nobody's login failed");
            assert_eq!(browser.shown().await.is_some(), goes_on, "{back} {age}");
            assert!(browser.access.notice().unwrap().contains("the login provider"), "{back}");
            // As soon as it answers again, the session is renewed.
            browser.set_down(&fake, false).await;
            assert_eq!(browser.renew(&fake, "code=again", ann()).await.status, 200, "{back} {age}");
            assert!(browser.shown().await.is_some(), "{back} {age}");
        }
    }
    // All places are taken: the browser comes again by itself.
    browser.later(900).await;
    browser.events();
    let places = browser.access.redeeming().acquire_many(16).await.unwrap();
    assert!(browser.is_due().await);
    let begun = browser.get(BEGINS).await.location;
    let state =
        url::Url::parse(&begun).unwrap().query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    tokio::time::pause();
    let answer = browser.led_to(&format!("/login/oidc/callback?code=c&state={state}")).await;
    tokio::time::resume();
    drop(places);
    assert!(answer.status == 503 && answer.text.contains("too many logins at once"), "{}", answer.text);
    assert_eq!((browser.events(), browser.access.notice()), (vec![], None));
    assert_eq!(browser.renew(&fake, "code=c", ann()).await.status, 200);
}
