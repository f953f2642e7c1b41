//! Rules and notifier killed at random moments: each beginning and each end of an alert is told once, none is forgotten.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::alert::AlertSink;
use millrace_log::value::Span;
use millrace_notify::{Inbox, NotifyError};
use millrace_rules::{Rules, RulesConfig, RulesError};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use support::*;

const EXPR: &str = r#"sum by (n) (rate({env="demo"} [1m])) > 1"#;
const ROUTE: &str = "group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 100h";

#[derive(Debug, Clone)]
enum Act {
    /// The series that are there from now on.
    Series(Vec<bool>),
    /// The query fails from now on.
    Fail,
    /// Time passes, in milliseconds.
    Wait(u32),
    /// Both are killed, are down for some seconds and start again.
    Kill { down_secs: u32 },
    /// So many attempts to deliver fail.
    Dead(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop::collection::vec(any::<bool>(), 3).prop_map(Act::Series),
        1 => Just(Act::Fail),
        4 => (0u32..8000).prop_map(Act::Wait),
        1 => (100_000u32..1_000_000).prop_map(Act::Wait),
        3 => prop_oneof![Just(0u32), 1u32..20, 600u32..2000].prop_map(|down_secs| Act::Kill { down_secs }),
        1 => (1usize..5).prop_map(Act::Dead),
    ]
}

struct Up {
    rules: Running<RulesError>,
    notifier: Running<NotifyError>,
}

fn up(folder: &std::path::Path, pager: &Pager, answers: &Arc<Answers>) -> Up {
    let notifier = open(folder, ROUTE, pager);
    let sink: Arc<dyn AlertSink> = Arc::new(Inbox(notifier.clone()));
    let config = RulesConfig {
        files: vec![folder.join("rules.yaml").to_string_lossy().into_owned()],
        interval: Span::secs(1),
        ..RulesConfig::default()
    };
    let clock = pager.clock.clone();
    let rules = Rules::open(config, folder, answers.clone(), sink, clock, &mut Registry::default()).unwrap();
    Up { rules: Running::start(|token| rules.run(token)), notifier: Running::start(|token| notifier.run(token)) }
}

fn series(there: &[bool]) -> Answer {
    let numbers = there.iter().enumerate().filter(|(_, there)| **there);
    Answer::Series(numbers.map(|(n, _)| (set(&[("n", &n.to_string())]), 2.0)).collect())
}

async fn play(acts: Vec<Act>) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let rule = format!("groups: [{{name: g, rules: [{{alert: A, expr: '{EXPR}'}}]}}]\n");
    std::fs::write(folder.path().join("rules.yaml"), rule).unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let answers = Arc::new(Answers::default());
    let mut now = vec![false; 3];
    let mut running = up(folder.path(), &pager, &answers);
    for act in acts {
        match act {
            Act::Series(there) => {
                answers.set(EXPR, series(&there));
                now = there;
            }
            Act::Fail => answers.set(EXPR, Answer::Fails("index is away")),
            Act::Wait(ms) => tokio::time::sleep(std::time::Duration::from_millis(ms.into())).await,
            Act::Kill { down_secs } => {
                running.rules.kill().await;
                running.notifier.kill().await;
                tokio::time::sleep(std::time::Duration::from_secs(down_secs.into())).await;
                running = up(folder.path(), &pager, &answers);
            }
            Act::Dead(attempts) => {
                let again = millrace_notify::integration::Outcome::Again { reason: "refused".into() };
                *pager.script.lock() = vec![again; attempts];
            }
        }
    }
    // Everything works again: what is true must have been told soon.
    answers.set(EXPR, series(&now));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    running.rules.stop().await;
    running.notifier.stop().await;

    let mut told: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (_, message) in pager.got.lock().iter() {
        for alert in &message.alerts {
            told.entry(alert.alert.labels["n"].clone()).or_default().push(!alert.resolved);
        }
    }
    for (n, there) in now.iter().enumerate() {
        let story = told.remove(&n.to_string()).unwrap_or_default();
        let turns = story.iter().enumerate().all(|(at, fires)| *fires == (at % 2 == 0));
        prop_assert!(turns, "alert {} was told {:?}: beginnings and ends must take turns", n, story);
        prop_assert_eq!(story.last().copied().unwrap_or(false), *there, "alert {} was last told {:?}", n, story);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn kills_neither_double_nor_swallow_a_page(acts in prop::collection::vec(act(), 1..16)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(acts))?;
    }
}
