//! Starts the agent: files and other sources to topics. One whose disk is full waits for room; the rest of the process goes on.
//!
//! In: the section `agent`. Out: a running agent; its ledger and its live records. Touches the agent's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_agent::tap::Taps;
use millrace_agent::{Agent, AgentConfig, AgentError, Ledger, LedgerHandle};
use millrace_doors::access::Access;
use millrace_log::client::BatchProducer;
use millrace_log::clock::SharedClock;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::failure::agent_failure;
use super::part::Part;
use super::site::Site;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

const ABORTED: &str = "opening the agent was aborted";
/// Wait between two attempts to open an agent whose disk is full.
const RETRY: Duration = Duration::from_secs(2);

/// The agent of the process: it runs, or waits for room on its disk. Cheap to clone.
#[derive(Clone)]
pub struct CurrentAgent(Arc<RwLock<State>>);

enum State {
    /// Of which folder, and why.
    Waits(PathBuf, String),
    Runs(LedgerHandle, Taps),
}

impl CurrentAgent {
    fn waiting(folder: &Path) -> Self {
        Self(Arc::new(RwLock::new(State::Waits(folder.to_owned(), "it was not opened yet".to_owned()))))
    }

    fn waits(&self, error: &AgentError) {
        if let State::Waits(_, why) = &mut *self.0.write() {
            *why = format!("{error}; the agent waits and starts by itself once there is room");
        }
    }

    fn runs(&self, agent: &Agent) {
        *self.0.write() = State::Runs(agent.ledger(), agent.taps());
    }

    /// Whether the log takes what the agent sends; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.0.read() {
            State::Waits(folder, why) => Err(format!("disk of {}: {why}", folder.display())),
            State::Runs(ledger, _) => ledger.ready(),
        }
    }

    /// Its counts.
    pub fn ledger(&self) -> Ledger {
        match &*self.0.read() {
            State::Waits(folder, why) => {
                let mut ledger = Ledger::default();
                ledger.condition.troubles.insert(format!("disk of {}", folder.display()), why.clone());
                ledger
            }
            State::Runs(ledger, _) => ledger.snapshot(),
        }
    }

    /// Its live records; `None` while it waits.
    pub fn taps(&self) -> Option<Taps> {
        match &*self.0.read() {
            State::Waits(..) => None,
            State::Runs(_, taps) => Some(taps.clone()),
        }
    }
}

/// What an agent is opened with, as often as it takes.
#[derive(Clone)]
struct Opening {
    config: AgentConfig,
    folder: PathBuf,
    producer: Arc<dyn BatchProducer>,
    access: Access,
    clock: SharedClock,
}

impl Opening {
    /// An agent with its metrics; no error: opening it panicked.
    async fn open(self) -> Result<(Agent, Registry), Option<AgentError>> {
        let Self { config, folder, producer, access, clock } = self;
        let opened = tokio::task::spawn_blocking(move || {
            let mut registry = Registry::default();
            let agent =
                Agent::open_with(config, &folder, producer, clock, &mut registry, Some(&access)).map_err(Some)?;
            Ok((agent, registry))
        });
        opened.await.unwrap_or(Err(None))
    }
}

fn failure(error: Option<AgentError>) -> Failure {
    match error {
        Some(error) => agent_failure(error),
        None => Failure::text(Code::Failed, ABORTED),
    }
}

/// Opens the agent and runs it.
pub async fn start(
    config: &AgentConfig,
    data_dir: &Path,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<CurrentAgent, Failure> {
    let producer = config.kafka.producer().map_err(|error| Failure::new(Code::Config, error))?;
    let (folder, clock) = (data_dir.join("agent"), Arc::clone(&site.clock));
    let current = CurrentAgent::waiting(&folder);
    let opening = Opening { config: config.clone(), folder, producer, access: site.access.clone(), clock };
    let open = move || opening.clone().open();
    let in_use = |error: &Option<AgentError>| match error {
        Some(error @ AgentError::InUse { .. }) => Some(error.to_string()),
        _ => None,
    };
    let (registries, shown) = (site.registries.clone(), current.clone());
    let begin = move |(agent, registry): (Agent, Registry)| {
        registries.put(Part::Agent.name(), registry);
        shown.runs(&agent);
        agent
    };
    let first = match site.open(&open, in_use).await {
        Ok(opened) => Some(begin(opened)),
        Err(Some(error)) if error.is_full_disk() => {
            tracing::error!(%error, "agent can't start on a full disk, waiting for room");
            current.waits(&error);
            None
        }
        Err(error) => return Err(failure(error)),
    };
    let waiting = current.clone();
    stages.start(Part::Agent, "agent", STOP_LIMIT, |token| async move {
        let agent = match first {
            Some(agent) => agent,
            None => match open_with_room(open, |error| waiting.waits(error), &token).await? {
                Some(opened) => {
                    tracing::info!("agent starts: its disk has room again");
                    begin(opened)
                }
                None => return Ok(()),
            },
        };
        Ok(agent.run(token).await?)
    });
    Ok(current)
}

/// Opens what a full disk stopped, again and again until it has room. `None`: cancelled before.
async fn open_with_room<T, F>(
    open: impl Fn() -> F,
    waits: impl Fn(&AgentError),
    token: &CancellationToken,
) -> Result<Option<T>, anyhow::Error>
where
    F: Future<Output = Result<T, Option<AgentError>>>,
{
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
        match open().await {
            Ok(opened) => return Ok(Some(opened)),
            // Its port may have been taken meanwhile, and what it opened before may hold its lock a moment longer.
            Err(Some(error))
                if error.may_pass() || matches!(error, AgentError::InUse { .. } | AgentError::Listen { .. }) =>
            {
                waits(&error);
            }
            Err(Some(error)) => return Err(error.into()),
            Err(None) => return Err(anyhow::anyhow!(ABORTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    fn full(kind: io::ErrorKind) -> Option<AgentError> {
        Some(AgentError::File { what: "creating", path: "/data/agent".into(), source: kind.into() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_waited_for_and_other_failures_are_not() {
        let (attempts, seen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let token = CancellationToken::new();
        let current = CurrentAgent::waiting(Path::new("/data/agent"));
        let waits = |error: &AgentError| {
            current.waits(error);
            seen.lock().push(current.ready().unwrap_err());
        };
        let open = || async {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(full(io::ErrorKind::StorageFull)),
                3 => Ok(()),
                _ => Err(None),
            }
        };
        assert!(open_with_room(open, waits, &token).await.unwrap().is_some());
        assert_eq!((attempts.load(Ordering::Relaxed), seen.lock().len()), (4, 3));
        let why = "disk of /data/agent: creating /data/agent failed: no storage space: check that the disk has room and the \
                   folder belongs to this user; the agent waits and starts by itself once there is room";
        assert_eq!(seen.lock()[0], why);
        let hop = crate::ledger::agent_hop(&current.ledger());
        assert!(hop.trouble.unwrap().contains("starts by itself once there is room"));
        assert!(open_with_room(open, waits, &token).await.is_err(), "it can't be opened");
        token.cancel();
        assert!(open_with_room(open, waits, &token).await.unwrap().is_none());
    }

    #[test]
    fn only_a_full_disk_is_waited_for_at_the_start() {
        for (kind, want) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::ReadOnlyFilesystem, false),
        ] {
            assert_eq!(full(kind).unwrap().is_full_disk(), want, "{kind}");
        }
    }
}
