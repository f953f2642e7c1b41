//! What the tests of this crate share: a clock that follows tokio's paused time, receivers by script.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part; it ends where something is not as it should be"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::alert::{LabelSet, NewAlert};
use millrace_log::clock::{Clock, SharedClock};
use millrace_notify::integration::{Integration, Message, Outcome};
use millrace_notify::routing::Routing;
use millrace_notify::{Notifier, NotifyConfig};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub const SECOND: i64 = 1_000_000_000;
/// 2030-01-01T00:00:00Z
pub const T0: i64 = 1_893_456_000 * SECOND;

/// A clock that moves as tokio's time does: with paused time, as fast as the test has nothing to do.
pub struct TokioClock(Instant);

impl TokioClock {
    pub fn shared() -> SharedClock {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now_ns(&self) -> i64 {
        T0 + i64::try_from(self.0.elapsed().as_nanos()).unwrap()
    }
}

/// Sleeps until seconds after T0.
pub async fn until(clock: &SharedClock, secs: f64) {
    let wait = T0 + (secs * 1e9) as i64 - clock.now_ns();
    tokio::time::sleep(Duration::from_nanos(u64::try_from(wait).unwrap_or(0))).await;
}

pub fn set(pairs: &[(&str, &str)]) -> LabelSet {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

pub fn alert(pairs: &[(&str, &str)]) -> NewAlert {
    NewAlert { labels: set(pairs), ..NewAlert::default() }
}

/// What a receiver got, and when, in tenths of a second after T0.
#[derive(Clone)]
pub struct Pager {
    pub clock: SharedClock,
    pub got: Arc<Mutex<Vec<(i64, Message)>>>,
    pub script: Arc<Mutex<Vec<Outcome>>>,
    pub resolved: bool,
}

impl Pager {
    pub fn new(clock: &SharedClock) -> Self {
        Self { clock: clock.clone(), got: Arc::default(), script: Arc::default(), resolved: true }
    }

    /// Messages as `at status name+name`, alerts marked by `!` when firing and `.` when resolved.
    pub fn pages(&self) -> Vec<String> {
        self.got
            .lock()
            .iter()
            .map(|(at, message)| {
                let alerts: Vec<String> = message
                    .alerts
                    .iter()
                    .map(|told| {
                        let mark = if told.resolved { "." } else { "!" };
                        let value = |name| told.alert.labels.get(name).map_or("", String::as_str);
                        format!("{}{}{mark}", value("alertname"), value("n"))
                    })
                    .collect();
                format!("{}.{} {}", at / 10, at % 10, alerts.join(" "))
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Integration for Pager {
    fn kind(&self) -> &'static str {
        "test"
    }
    fn sends_resolved(&self) -> bool {
        self.resolved
    }
    async fn attempt(&self, message: &Message) -> Outcome {
        let at = (self.clock.now_ns() - T0) / (SECOND / 10);
        let mut script = self.script.lock();
        let outcome = if script.is_empty() { Outcome::Sent } else { script.remove(0) };
        if outcome == Outcome::Sent {
            self.got.lock().push((at, message.clone()));
        }
        outcome
    }
}

/// A route, with what may stand behind it in lines of its own.
pub fn routing(route: &str) -> Routing {
    let (route, more) = route.split_once('\n').unwrap_or((route, ""));
    let text = format!("route: {{receiver: a, {route}}}\nreceivers: [{{name: a}}, {{name: b}}]\n{more}");
    Routing::parse(Path::new("alertmanager.yml"), &text).unwrap()
}

pub fn open(folder: &Path, route: &str, pager: &Pager) -> Arc<Notifier> {
    let config = NotifyConfig { external_url: "http://am".into(), ..NotifyConfig::default() };
    once_free(|| {
        let integrations: Vec<Arc<dyn Integration>> = vec![Arc::new(pager.clone())];
        let clock = pager.clock.clone();
        Notifier::open_with(config.clone(), routing(route), integrations, folder, clock, &mut Registry::default())
    })
}

/// Opens what locks a folder. Disk work of a part that was killed can't be cut short: it holds the lock until it is
/// done, in real time.
pub fn once_free<T, E: std::fmt::Display + std::fmt::Debug>(mut open: impl FnMut() -> Result<T, E>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match open() {
            Err(error)
                if error.to_string().contains("is in use by another process")
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// A running part that a test kills or stops.
pub struct Running<E> {
    pub token: CancellationToken,
    pub task: tokio::task::JoinHandle<Result<(), E>>,
}

impl<E: std::fmt::Debug + Send + 'static> Running<E> {
    #[allow(clippy::disallowed_methods)]
    pub fn start<F: Future<Output = Result<(), E>> + Send + 'static>(run: impl FnOnce(CancellationToken) -> F) -> Self {
        let token = CancellationToken::new();
        Self { task: tokio::spawn(run(token.clone())), token }
    }

    /// Ends it where it stands, as a kill does.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        // Blocking work that had begun holds the folder until it is done.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }
}
