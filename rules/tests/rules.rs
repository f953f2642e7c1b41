//! Rules at work with answers by script: turns, restarts, reloads, failures, and what the APIs tell of them.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use millrace_doors::identity::{Identity, Rights, Role, Tenants};
use millrace_log::alert::{AlertSink, NewAlert, SinkError};
use millrace_log::clock::SharedClock;
use millrace_log::value::Span;
use millrace_logql::storage::QueryLimits;
use millrace_notify::{Inbox, Notifier, NotifyError};
use millrace_rules::{Evaluator, Health, Rules, RulesConfig, State};
use prometheus_client::registry::Registry;
use support::*;
use tower::ServiceExt;

const EXPR: &str = r#"sum by (service) (rate({env="demo"} |= "error" [1m])) > 1"#;
const SLOW: &str = r#"sum(rate({env="slow"} [1m])) > 1"#;
const ROUTE: &str = "group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h";

struct Stage {
    folder: tempfile::TempDir,
    clock: SharedClock,
    pager: Pager,
    answers: Arc<Answers>,
}

struct Up {
    rules: Arc<Rules>,
    notifier: Arc<Notifier>,
    run_rules: Running<millrace_rules::RulesError>,
    run_notifier: Running<NotifyError>,
}

impl Stage {
    fn new(groups: &str) -> Self {
        let clock = TokioClock::shared();
        let own = Self {
            folder: tempfile::tempdir().unwrap(),
            pager: Pager::new(&clock),
            clock,
            answers: Arc::new(Answers::default()),
        };
        own.write(groups);
        own
    }

    fn write(&self, groups: &str) {
        std::fs::write(self.folder.path().join("rules.yaml"), format!("groups:\n{groups}")).unwrap();
    }

    fn config(&self) -> RulesConfig {
        RulesConfig {
            files: vec![self.folder.path().join("*.yaml").to_string_lossy().into_owned()],
            interval: Span::secs(1),
            timeout: Span::secs(5),
            max_delay: Span::secs(10),
            ..RulesConfig::default()
        }
    }

    fn up(&self) -> Up {
        self.up_with(self.config(), &mut Registry::default())
    }

    fn up_with(&self, config: RulesConfig, registry: &mut Registry) -> Up {
        let notifier = open(self.folder.path(), ROUTE, &self.pager);
        let sink: Arc<dyn AlertSink> = Arc::new(Inbox(notifier.clone()));
        let evaluator: Arc<dyn Evaluator> = self.answers.clone();
        let rules = once_free(|| {
            let (evaluator, sink, clock) = (evaluator.clone(), sink.clone(), self.clock.clone());
            Rules::open(config.clone(), self.folder.path(), evaluator, sink, clock, registry)
        });
        Up {
            run_rules: Running::start(|token| rules.clone().run(token)),
            run_notifier: Running::start(|token| notifier.clone().run(token)),
            rules,
            notifier,
        }
    }

    fn errors(&self, services: &[&str]) {
        let series = services.iter().map(|s| (set(&[("service", s)]), 2.5)).collect();
        self.answers.set(EXPR, Answer::Series(series));
    }

    /// Pages without their times.
    fn pages(&self) -> Vec<String> {
        self.pager.pages().iter().map(|p| p.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

impl Up {
    async fn kill(self) {
        self.run_rules.kill().await;
        self.run_notifier.kill().await;
        drop((self.rules, self.notifier));
    }

    async fn stop(self) {
        self.run_rules.stop().await;
        self.run_notifier.stop().await;
    }
}

fn group(keys: &str) -> String {
    format!(
        "- {{name: g, rules: [{{alert: A, expr: '{EXPR}', labels: {{n: '{{{{ $labels.service }}}}'}}, annotations: {{summary: '{{{{ $labels.service }}}}: {{{{ $value }}}}'}}, {keys}}}]}}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_burst_pages_and_its_end_resolves() {
    let stage = Stage::new(&group("for: 0s"));
    let up = stage.up();
    until(&stage.clock, 5.0).await;
    assert_eq!(stage.pages(), [""; 0]);
    stage.errors(&["api"]);
    until(&stage.clock, 7.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    let message = stage.pager.got.lock()[0].1.clone();
    let alert = &message.alerts[0].alert;
    assert_eq!(alert.annotations["summary"], "api: 2.5");
    let link = &alert.generator_url;
    assert!(
        link.starts_with("http://127.0.0.1:3100/?query=%7B") && link.contains("&from=") && link.contains("&to="),
        "{link}"
    );
    assert_eq!(up.rules.alerts()[0].state, State::Firing);
    stage.errors(&[]);
    until(&stage.clock, 12.0).await;
    assert_eq!(stage.pages(), ["Aapi!", "Aapi."]);
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_while_firing_pages_once_and_while_pending_goes_on_counting() {
    let stage = Stage::new(&group("for: 10s"));
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 6.0).await;
    assert_eq!(up.rules.alerts()[0].state, State::Pending);
    up.kill().await;
    let up = stage.up();
    until(&stage.clock, 9.0).await;
    assert_eq!(stage.pages(), [""; 0]);
    until(&stage.clock, 14.0).await;
    assert_eq!(stage.pages(), ["Aapi!"], "`for` went on over the kill");
    up.kill().await;
    let up = stage.up();
    until(&stage.clock, 30.0).await;
    assert_eq!(stage.pages(), ["Aapi!"], "no second page");
    up.kill().await;
    // Over while everything was down.
    stage.errors(&[]);
    until(&stage.clock, 60.0).await;
    let up = stage.up();
    until(&stage.clock, 70.0).await;
    assert_eq!(stage.pages(), ["Aapi!", "Aapi."]);
    up.kill().await;
    let up = stage.up();
    until(&stage.clock, 90.0).await;
    assert_eq!(stage.pages(), ["Aapi!", "Aapi."]);
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_query_keeps_the_state_and_is_told() {
    let stage = Stage::new(&group("for: 0s"));
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 3.0).await;
    stage.answers.set(EXPR, Answer::Fails("index is being rebuilt"));
    // Longer than a report is good for: it is repeated although nobody can ask.
    until(&stage.clock, 900.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    let health = up.rules.groups()[0].rules[0].health.clone();
    assert_eq!(health, Health::Failed("query failed: index is being rebuilt".into()));
    stage.errors(&["api"]);
    until(&stage.clock, 905.0).await;
    assert_eq!((stage.pages().len(), &up.rules.groups()[0].rules[0].health), (1, &Health::Good));
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_blocks_no_other_and_its_missed_turns_are_counted() {
    let slow = format!("- {{name: slow, rules: [{{alert: S, expr: '{SLOW}'}}]}}\n");
    let stage = Stage::new(&(slow + &group("for: 0s")));
    stage.answers.set(SLOW, Answer::Slow(Duration::from_secs(60)));
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 31.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    let asked = stage.answers.asked.lock().clone();
    let count = |expr: &str| asked.iter().filter(|(e, _)| e == expr).count();
    assert!(count(EXPR) >= 29, "{}", count(EXPR));
    // Five seconds allowed for each, four turns left out after each.
    assert!((5..=7).contains(&count(SLOW)), "{}", count(SLOW));
    let groups = up.rules.groups();
    let Health::Failed(text) = &groups[0].rules[0].health else { panic!("healthy") };
    assert!(text.ends_with("longer than 5s: make its range or selector narrower, or raise `rules.timeout`"), "{text}");
    // What else limits queries may be less.
    for (secs, at, set_by) in [(5, 45.0, "`rules.timeout` and `query.timeout`"), (2, 60.0, "`query.timeout`")] {
        *stage.answers.limits.lock() =
            Some(QueryLimits { timeout: Duration::from_secs(secs), ..QueryLimits::default() });
        until(&stage.clock, at).await;
        let groups = up.rules.groups();
        let Health::Failed(text) = &groups[0].rules[0].health else { panic!("healthy") };
        assert!(text.contains(&format!("longer than {secs}s")) && text.ends_with(&format!("raise {set_by}")), "{text}");
    }
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_stands_still_is_named_meanwhile() {
    let slow = format!("- {{name: slow, interval: 10s, rules: [{{alert: S, expr: '{SLOW}'}}]}}\n");
    let stage = Stage::new(&(slow + &group("for: 0s")));
    stage.answers.set(SLOW, Answer::Slow(Duration::from_secs(3600)));
    let mut registry = Registry::default();
    let config = RulesConfig { timeout: Span::secs(60), ..stage.config() };
    let up = stage.up_with(config, &mut registry);
    let state = async || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let metric = |group: &str| {
            let name = format!("millrace_rules_overdue_seconds{{group=\"{group}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
            line.unwrap_or_else(|| panic!("{text}")).parse::<f64>().unwrap()
        };
        let rules: serde_json::Value = serde_json::from_str(&ask(&up.rules, "/prometheus/api/v1/rules").await).unwrap();
        let health = |group: usize| {
            let rule = &rules["data"]["groups"][group]["rules"][0];
            (rule["health"].as_str().unwrap().to_owned(), rule["lastError"].as_str().unwrap().to_owned())
        };
        (up.rules.notices(), metric("slow"), metric("g"), health(0), health(1))
    };
    // It is due within its interval, then has its interval.
    until(&stage.clock, 10.0).await;
    let (notices, slow, good, _, _) = state().await;
    assert_eq!((notices.len(), slow, good), (0, 0.0, 0.0), "{notices:?}");
    until(&stage.clock, 31.0).await;
    let (notices, slow, good, of_slow, of_good) = state().await;
    let overdue = format!(
        "evaluation is overdue: it was due {} s ago and waits for the query of alert `S`",
        Duration::from_secs_f64(slow).as_secs()
    );
    let file = stage.folder.path().join("rules.yaml");
    let notice = format!("rule group `slow` of {}: {overdue}; until then its alerts stay as they are", file.display());
    assert_eq!(notices, [notice]);
    let public = up.rules.public_notices();
    assert!(public.len() == 1 && public[0].starts_with("rule group `slow`: evaluation is overdue"), "{public:?}");
    assert!(!public[0].contains("rules.yaml") && !public[0].contains("`S`"), "{public:?}");
    assert!((20.0..=31.0).contains(&slow), "{slow}");
    assert_eq!((of_slow, good, of_good), (("err".to_owned(), overdue), 0.0, ("ok".to_owned(), String::new())));
    // It is over when the query has ended: the next one is in time.
    stage.answers.set(SLOW, Answer::Series(Vec::new()));
    until(&stage.clock, 85.0).await;
    let (notices, slow, _, of_slow, _) = state().await;
    assert_eq!((notices.len(), slow, of_slow), (0, 0.0, ("ok".to_owned(), String::new())), "{notices:?}");
    up.stop().await;
}

/// Never answers, as a notifier whose disk hangs.
struct Hangs;

#[async_trait::async_trait]
impl AlertSink for Hangs {
    async fn send(&self, _: Vec<NewAlert>) -> Result<(), SinkError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_first_report_hangs_is_overdue() {
    // Of an alert of its own; of one whose rule was deleted, before any group begins.
    for (groups, waits_for) in
        [(group("for: 0s"), "the notifier"), (group("for: 0s").replace("alert: A", "alert: B"), "its turn")]
    {
        let stage = Stage::new(&group("for: 0s"));
        stage.errors(&["api"]);
        let up = stage.up();
        until(&stage.clock, 3.0).await;
        assert_eq!(up.rules.alerts()[0].state, State::Firing);
        up.kill().await;
        stage.write(&groups);
        let rules = once_free(|| {
            let (evaluator, clock) = (stage.answers.clone(), stage.clock.clone());
            let folder = stage.folder.path();
            Rules::open(stage.config(), folder, evaluator, Arc::new(Hangs), clock, &mut Registry::default())
        });
        let run = Running::start(|token| rules.clone().run(token));
        until(&stage.clock, 7.0).await;
        assert_eq!(rules.notices(), [""; 0], "it has some seconds");
        until(&stage.clock, 15.0).await;
        let notices = rules.notices();
        assert!(notices.len() == 1 && notices[0].contains(&format!("waits for {waits_for};")), "{notices:?}");
        run.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_lines_are_waited_for_within_a_bound() {
    let stage = Stage::new(&group("for: 0s"));
    *stage.answers.watermark.lock() = Some(T0 + 3 * SECOND);
    let up = stage.up();
    until(&stage.clock, 30.0).await;
    let times: Vec<i64> = stage.answers.asked.lock().iter().map(|(_, at)| (at - T0) / SECOND).collect();
    assert!(times.is_sorted());
    assert!(times.contains(&3) && times.iter().max() <= Some(&20), "{times:?}");
    assert!(times.last() >= Some(&18), "it does not wait for ever: {times:?}");
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reload_keeps_states_resolves_what_is_gone_and_refuses_faults() {
    let stage = Stage::new(&group("for: 0s"));
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 3.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    stage.write("- {name: g, rulez: []}\n");
    let faults = up.rules.reload().unwrap_err();
    assert!(faults[0].to_string().contains("unknown key `rulez`"), "{}", faults[0]);
    // Another `for`: the alert goes on firing.
    stage.write(&group("for: 1m"));
    assert_eq!(up.rules.reload().unwrap(), 1);
    until(&stage.clock, 10.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    assert_eq!(up.rules.alerts()[0].state, State::Firing);
    stage.write("  []\n");
    assert_eq!(up.rules.reload().unwrap(), 0);
    until(&stage.clock, 15.0).await;
    assert_eq!(stage.pages(), ["Aapi!", "Aapi."]);
    up.kill().await;
    let up = stage.up();
    until(&stage.clock, 30.0).await;
    assert_eq!(stage.pages().len(), 2);
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_keeps_the_states_as_they_were() {
    let text = group("for: 0s").replace("name: g,", "name: g, limit: 1,");
    let stage = Stage::new(&text);
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 3.0).await;
    stage.errors(&["api", "web", "db"]);
    until(&stage.clock, 10.0).await;
    assert_eq!(stage.pages(), ["Aapi!"]);
    let Health::Failed(text) = up.rules.groups()[0].rules[0].health.clone() else { panic!("healthy") };
    assert!(text.starts_with("the rule results in 3 alerts, but the group's `limit` is 1"), "{text}");
    up.stop().await;
}

#[tokio::test(start_paused = true)]
async fn faulty_files_stop_the_start_with_every_fault() {
    let stage = Stage::new("- {name: g, intervall: 1m, rules: [{alert: A}]}\n");
    let notifier = open(stage.folder.path(), ROUTE, &stage.pager);
    let error = Rules::open(
        stage.config(),
        stage.folder.path(),
        stage.answers.clone(),
        Arc::new(Inbox(notifier)),
        stage.clock.clone(),
        &mut Registry::default(),
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("did you mean `interval`?") && text.contains("needs `expr`"), "{text}");
}

async fn ask(rules: &Arc<Rules>, path: &str) -> String {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = rules.router().open_for_tests().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_apis_tell_rules_and_alerts_as_prometheus_does() {
    let stage = Stage::new(&group("for: 10s"));
    stage.errors(&["api"]);
    let up = stage.up();
    until(&stage.clock, 5.0).await;
    let times = regex::Regex::new(r"20\d\d-[0-9T:.-]+Z").unwrap();
    let folder = stage.folder.path().to_string_lossy().into_owned();
    let clean = |text: String| times.replace_all(&text.replace(&folder, "FOLDER"), "TIME").into_owned();
    let alerts = clean(ask(&up.rules, "/prometheus/api/v1/alerts").await);
    let rules = clean(ask(&up.rules, "/prometheus/api/v1/rules?type=alert").await);
    let files = clean(ask(&up.rules, "/loki/api/v1/rules").await);
    insta::assert_snapshot!(format!("{alerts}\n\n{rules}\n\n{files}"));
    let read_back = files.replace("rules.yaml:", "groups:");
    assert!(millrace_rules::file::parse(Path::new("f"), &read_back).is_ok(), "{files}");
    up.stop().await;
}

async fn ask_as(rules: &Arc<Rules>, path: &str, selector: Option<&str>) -> String {
    let rights = Rights { roles: [Role::Read].into(), tenants: Tenants::All, selector: selector.map(Into::into) };
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(Identity { name: "x".into(), rights });
    let answer = rules.router().open_for_tests().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_login_with_a_selector_sees_rules_that_read_nothing_else_and_its_own_alerts() {
    const PAY: &str = r#"sum by (app) (rate({team="pay"}[1m])) > 1"#;
    const OPS: &str = r#"sum by (app) (rate({team="ops"} |= "hidden words" [1m])) > 1"#;
    const ALL: &str = r#"sum by (team) (rate({team=~".+"} |= "of everybody" [1m])) > 1"#;
    let rule = |name: &str, expr: &str| {
        format!("{{alert: {name}, expr: '{expr}', annotations: {{summary: 'text of {name}'}}}}")
    };
    let stage = Stage::new(&format!(
        "- {{name: mixed, rules: [{}, {}]}}\n- {{name: others, rules: [{}]}}\n",
        rule("Pay", PAY),
        rule("Ops", OPS),
        rule("All", ALL)
    ));
    stage.answers.set(PAY, Answer::Series(vec![(set(&[("app", "cards")]), 2.0)]));
    stage.answers.set(OPS, Answer::Series(vec![(set(&[("app", "pager")]), 2.0)]));
    let of_teams = [("team", "pay"), ("team", "ops")].map(|label| (set(&[label]), 2.0));
    stage.answers.set(ALL, Answer::Series(of_teams.into()));
    let up = stage.up_with(RulesConfig { timeout: Span::secs(60), ..stage.config() }, &mut Registry::default());
    until(&stage.clock, 5.0).await;
    let pay = Some(r#"{team="pay"}"#);
    for (path, selector, shown, hidden) in [
        ("/prometheus/api/v1/rules", None, vec!["Pay", "Ops", "All", "cards", "pager", "hidden words"], vec![]),
        ("/loki/api/v1/rules", None, vec!["Pay", "Ops", "All"], vec![]),
        ("/prometheus/api/v1/alerts", None, vec!["cards", "pager", "text of All"], vec![]),
        (
            "/prometheus/api/v1/rules",
            pay,
            vec!["mixed", "cards", "text of Pay", "\"state\":\"firing\""],
            vec!["Ops", "others", "All", "hidden", "inactive"],
        ),
        ("/loki/api/v1/rules", pay, vec!["mixed", "alert: Pay"], vec!["Ops", "others", "All", "hidden", "everybody"]),
        ("/api/prom/rules", pay, vec!["alert: Pay"], vec!["Ops", "All"]),
        (
            "/prometheus/api/v1/alerts",
            pay,
            vec!["cards", "text of All", "\"team\":\"pay\""],
            vec!["pager", "ops", "text of Ops"],
        ),
        ("/prometheus/api/v1/rules", Some(r#"{team="none"}"#), vec![r#""groups":[]"#], vec!["Pay"]),
        ("/loki/api/v1/rules", Some(r#"{team="none"}"#), vec!["no rule groups found"], vec!["Pay"]),
        ("/prometheus/api/v1/alerts", Some(r#"{team="none"}"#), vec![r#""alerts":[]"#], vec!["Pay"]),
    ] {
        let text = ask_as(&up.rules, path, selector).await;
        for part in shown {
            assert!(text.contains(part), "{path} for {selector:?} should have {part}: {text}");
        }
        for part in hidden {
            assert!(!text.contains(part), "{path} for {selector:?} should not have {part}: {text}");
        }
    }
    // What a group waits for is named to those who see that rule.
    stage.answers.set(OPS, Answer::Slow(Duration::from_secs(3600)));
    until(&stage.clock, 25.0).await;
    for (selector, waits_for) in [(None, "alert `Ops`"), (pay, "another rule of its group")] {
        let text = ask_as(&up.rules, "/prometheus/api/v1/rules", selector).await;
        assert!(text.contains(&format!("waits for the query of {waits_for}\"")), "{selector:?}: {text}");
        assert_eq!(text.contains("Ops"), selector.is_none(), "{text}");
    }
    up.stop().await;
}
