//! Starts the agent: files and other sources to topics. One whose disk is full waits for room; the rest of the process goes on.
//!
//! In: the section `agent`. Out: a running agent; its ledger and its live records. Touches the agent's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_agent::tap::Taps;
use millrace_agent::{Agent, AgentConfig, AgentError, Ledger, LedgerHandle};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::failure::agent_failure;
use super::part::Part;
use super::site::{NotOpened, Site};
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Wait between two attempts to open an agent whose disk is full.
const RETRY: Duration = Duration::from_secs(2);

/// The agent of the process: it runs, or waits until it can be opened. Cheap to clone.
#[derive(Clone)]
pub struct CurrentAgent(Arc<RwLock<State>>);

enum State {
    Waits {
        folder: PathBuf,
        /// Whether it is for room on the disk of that.
        for_room: bool,
        why: String,
    },
    Runs(LedgerHandle, Taps),
}

impl CurrentAgent {
    fn waiting(folder: &Path) -> Self {
        let why = "it was not opened yet".to_owned();
        Self(Arc::new(RwLock::new(State::Waits { folder: folder.to_owned(), for_room: true, why })))
    }

    /// Waits because of this; says whether that is new.
    fn waits(&self, error: &AgentError) -> bool {
        let State::Waits { for_room, why, .. } = &mut *self.0.write() else { return false };
        let text = format!("{error}; the agent tries again every {} s", RETRY.as_secs());
        *for_room = error.is_full_disk();
        std::mem::replace(why, text) != *why
    }

    fn runs(&self, agent: &Agent) {
        *self.0.write() = State::Runs(agent.ledger(), agent.taps());
    }

    /// Whether the log takes what the agent sends; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.0.read() {
            State::Waits { folder, for_room: true, why } => Err(format!("disk of {}: {why}", folder.display())),
            State::Waits { why, .. } => Err(why.clone()),
            State::Runs(ledger, _) => ledger.ready(),
        }
    }

    /// Its counts.
    pub fn ledger(&self) -> Ledger {
        match &*self.0.read() {
            State::Waits { folder, for_room, why } => {
                let what = if *for_room { format!("disk of {}", folder.display()) } else { "start".to_owned() };
                let mut ledger = Ledger::default();
                ledger.condition.troubles.insert(what, why.clone());
                ledger
            }
            State::Runs(ledger, _) => ledger.snapshot(),
        }
    }

    /// Its live records; `None` while it waits.
    pub fn taps(&self) -> Option<Taps> {
        match &*self.0.read() {
            State::Waits { .. } => None,
            State::Runs(_, taps) => Some(taps.clone()),
        }
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
    let folder = data_dir.join("agent");
    let current = CurrentAgent::waiting(&folder);
    let (config, access, clock) = (config.clone(), site.access.clone(), Arc::clone(&site.clock));
    let make = Arc::new(move |registry: &mut Registry| {
        let (config, producer, clock) = (config.clone(), Arc::clone(&producer), Arc::clone(&clock));
        Agent::open_with(config, &folder, producer, clock, registry, Some(&access))
    });
    let in_use = |error: &AgentError| matches!(error, AgentError::InUse { .. });
    let first = match site.open_blocking(Part::Agent, Arc::clone(&make), in_use).await {
        Ok(agent) => Some(agent),
        Err(NotOpened::Failed(error)) if error.is_full_disk() => {
            tracing::error!(%error, "agent can't start on a full disk, waiting for room");
            current.waits(&error);
            None
        }
        Err(error) => return Err(error.failure(Part::Agent, agent_failure)),
    };
    if let Some(agent) = &first {
        current.runs(agent);
    }
    let (waiting, site) = (current.clone(), site.clone());
    stages.start(Part::Agent, "agent", STOP_LIMIT, |token| async move {
        let agent = match first {
            Some(agent) => agent,
            None => {
                let open = || site.open_once(Part::Agent, Arc::clone(&make));
                let waits = |error: &AgentError| {
                    if waiting.waits(error) {
                        tracing::warn!(%error, "agent still can't start, retrying every {} s", RETRY.as_secs());
                    }
                };
                let Some(agent) = open_with_room(open, waits, &token).await? else { return Ok(()) };
                tracing::info!("agent starts: its disk has room again");
                waiting.runs(&agent);
                agent
            }
        };
        Ok(agent.run(token).await?)
    });
    Ok(current)
}

/// Whether an attempt to open an agent whose disk was full may be repeated. Its port may have been taken meanwhile, and what it
/// opened before may hold its lock a moment longer; all else needs somebody to look, as at the start.
fn is_repeated(error: &AgentError) -> bool {
    error.is_full_disk() || matches!(error, AgentError::InUse { .. } | AgentError::Listen { .. })
}

/// Opens what a full disk stopped, again and again until it has room. `None`: cancelled before.
async fn open_with_room<T, F>(
    open: impl Fn() -> F,
    waits: impl Fn(&AgentError),
    token: &CancellationToken,
) -> Result<Option<T>, anyhow::Error>
where
    F: Future<Output = Result<T, NotOpened<AgentError>>>,
{
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
        match open().await {
            Ok(opened) => return Ok(Some(opened)),
            Err(NotOpened::Failed(error)) if is_repeated(&error) => waits(&error),
            Err(NotOpened::Failed(error)) => return Err(error.into()),
            Err(aborted @ NotOpened::Aborted) => return Err(anyhow::anyhow!("{aborted}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    fn full(kind: io::ErrorKind) -> AgentError {
        AgentError::File { what: "creating", path: "/data/agent".into(), source: kind.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_waited_for_and_other_failures_are_not() {
        let (attempts, seen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let token = CancellationToken::new();
        let current = CurrentAgent::waiting(Path::new("/data/agent"));
        let waits = |error: &AgentError| {
            let is_new = current.waits(error);
            seen.lock().push((is_new, current.ready().unwrap_err()));
        };
        let open = || async {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(NotOpened::Failed(full(io::ErrorKind::StorageFull))),
                3 => Ok(()),
                _ => Err(NotOpened::Aborted),
            }
        };
        assert!(open_with_room(open, waits, &token).await.unwrap().is_some());
        assert_eq!((attempts.load(Ordering::Relaxed), seen.lock().len()), (4, 3));
        let why = "disk of /data/agent: creating /data/agent failed: no storage space: check that the disk has room and the \
                   folder belongs to this user; the agent tries again every 2 s";
        // Logged once, not at each attempt.
        assert_eq!(*seen.lock(), [true, false, false].map(|is_new| (is_new, why.to_owned())));
        let hop = crate::ledger::agent_hop(&current.ledger());
        assert!(hop.trouble.unwrap().contains("tries again every 2 s"));
        assert!(open_with_room(open, waits, &token).await.is_err(), "it can't be opened");
        token.cancel();
        assert!(open_with_room(open, waits, &token).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_ends_the_wait_for_room() {
        let listen = || AgentError::Listen {
            name: "syslog[0]".to_owned(),
            key: "listen",
            address: "127.0.0.1:514".to_owned(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let in_use = || AgentError::InUse { path: "/data/agent".into() };
        let file = full;
        for (error, want) in [
            (
                file(io::ErrorKind::QuotaExceeded),
                Some("disk of /data/agent: creating /data/agent failed: quota exceeded"),
            ),
            (in_use(), Some("/data/agent is in use by another process: stop it")),
            (listen(), Some("source syslog[0] can't listen on 127.0.0.1:514: address in use: stop the process")),
            (file(io::ErrorKind::PermissionDenied), None),
            (file(io::ErrorKind::ReadOnlyFilesystem), None),
        ] {
            let (text, errors) = (error.to_string(), Mutex::new(vec![Ok(()), Err(NotOpened::Failed(error))]));
            let current = CurrentAgent::waiting(Path::new("/data/agent"));
            let open = || std::future::ready(errors.lock().pop().unwrap());
            let opened = open_with_room(
                open,
                |error| {
                    current.waits(error);
                },
                &CancellationToken::new(),
            )
            .await;
            assert_eq!(opened.is_ok(), want.is_some(), "{text}: {opened:?}");
            let Some(want) = want else { continue };
            let why = current.ready().unwrap_err();
            assert!(why.starts_with(want) && why.ends_with("; the agent tries again every 2 s"), "{why}");
        }
    }

    #[test]
    fn only_a_full_disk_is_waited_for_at_the_start() {
        for (kind, want) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::ReadOnlyFilesystem, false),
        ] {
            assert_eq!(full(kind).is_full_disk(), want, "{kind}");
        }
    }
}
