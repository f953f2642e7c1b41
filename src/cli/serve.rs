//! `millrace run`, `agent`, `broker`, `aggregator`: serve until a signal, stop in order, end at once at the second.
//!
//! In: a configuration; SIGHUP has it read again: every part stops as at the end of the process, which keeps every
//! position, and starts with the new one. Out: an exit code. Tells the service manager how far it is.

use millrace_agent::config::{AgentConfig, FileSource, SourceConfig};

use super::flags::ConfigFlags;
use super::runtime::runtime;
use super::validate;
use crate::config::Config;
use crate::exit::{Code, Failure};
use crate::run::Process;
use crate::supervisor::{State, tell};

/// A role that runs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `agent:`
    Agent,
    /// `broker:`
    Broker,
    /// `aggregator:` with rules, notify and exports.
    Aggregator,
}

/// What a process serves: read from its configuration at the start and at each SIGHUP.
#[derive(Debug, Clone)]
enum Served {
    /// Every role that the configuration has; with paths, the agent tails them.
    Every { flags: ConfigFlags, paths: Vec<String> },
    /// One role.
    One { flags: ConfigFlags, role: Role },
    /// Only the routes of the section `broker`.
    Routes { flags: ConfigFlags },
}

/// Every role that the configuration has.
pub fn run(flags: &ConfigFlags, paths: &[String]) -> Result<(), Failure> {
    serve(Served::Every { flags: flags.clone(), paths: paths.to_vec() })
}

/// Only the routes of the section `broker`.
pub fn router(flags: &ConfigFlags) -> Result<(), Failure> {
    serve(Served::Routes { flags: flags.clone() })
}

/// One role; its section must be there.
pub fn role(flags: &ConfigFlags, role: Role) -> Result<(), Failure> {
    serve(Served::One { flags: flags.clone(), role })
}

impl Served {
    /// The part of the configuration that is served.
    fn read(&self) -> Result<Config, Failure> {
        match self {
            Self::Every { flags, paths } => {
                let mut config = validate::read(flags)?;
                if !paths.is_empty() {
                    let agent = config.agent.get_or_insert_with(AgentConfig::default);
                    agent.sources =
                        vec![SourceConfig::File(FileSource { include: paths.clone(), ..FileSource::default() })];
                }
                Ok(config)
            }
            Self::Routes { flags } => {
                let config = validate::read(flags)?;
                if config.broker.as_ref().is_none_or(|broker| broker.routes.is_empty()) {
                    let text = "the configuration has no `broker.routes`: there is nothing to route";
                    return Err(Failure::text(Code::Config, text));
                }
                Ok(config)
            }
            Self::One { flags, role } => {
                let all = validate::read(flags)?;
                let mut config = Config { data_dir: all.data_dir, ..Config::default() };
                let missing = |section: &str| {
                    Failure::text(Code::Config, format!("the configuration has no section `{section}`"))
                };
                match role {
                    Role::Agent => config.agent = Some(all.agent.ok_or_else(|| missing("agent"))?),
                    Role::Broker => config.broker = Some(all.broker.ok_or_else(|| missing("broker"))?),
                    Role::Aggregator => {
                        config.aggregator = Some(all.aggregator.ok_or_else(|| missing("aggregator"))?);
                        config.rules = all.rules;
                        config.notify = all.notify;
                        config.exports = all.exports;
                    }
                }
                Ok(config)
            }
        }
    }

    async fn start(&self, config: Config) -> Result<Process, Failure> {
        match self {
            Self::Routes { .. } => Process::route(config).await,
            _ => Process::start(config).await,
        }
    }
}

/// Gives memory in small pages to a process that shall leave the host to others: the allocator asks for huge pages where
/// it may, and then a few live bytes hold 2 MiB (about 170 MiB of an agent at full speed, without any gain in CPU).
fn stay_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "kernel keeps huge pages on: the agent takes more memory");
    }
}

fn serve(served: Served) -> Result<(), Failure> {
    let mut config = served.read()?;
    if matches!(served, Served::One { role: Role::Agent, .. }) {
        stay_small();
    }
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        // From now on SIGHUP does not end the process.
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        let mut process = tokio::select! {
            started = served.start(config.clone()) => started?,
            () = signals.next() => return Ok(()),
        };
        tracing::info!(addresses = %process.addresses(), "millrace runs");
        tell(State::Ready, "runs");
        let ended = loop {
            tokio::select! {
                // The agent has sent all there will ever be; with it alone, so has the process.
                ended = process.ended_early() => match ended {
                    ("agent", Ok(())) if is_more_than_an_agent(&config) => {
                        tracing::info!("all sources of the agent have ended; the other roles go on");
                        continue;
                    }
                    ("agent", Ok(())) => break None,
                    ended => break Some(ended),
                },
                () = signals.next() => break None,
                _ = hangup.recv() => {}
            }
            tell(State::Reloading, "reads its configuration again");
            let again = served.clone();
            match tokio::task::spawn_blocking(move || again.read()).await? {
                Err(failure) => {
                    tracing::error!(error = %failure, "the new configuration has faults: the old one goes on");
                    tell(State::Ready, "runs; the new configuration has faults, see the journal");
                }
                Ok(new) => {
                    tracing::info!(
                        "configuration was read again: every part stops in order and starts with the new one"
                    );
                    let changed = change(&served, process, &config, &new);
                    process = tokio::select! {
                        changed = changed => changed?,
                        () = signals.next() => return Err(interrupted()),
                    };
                    config = new;
                    tracing::info!(addresses = %process.addresses(), "millrace runs with the new configuration");
                    tell(State::Ready, "runs");
                }
            }
        };
        tracing::info!("millrace stops; a second signal ends it at once");
        tell(State::Stopping, "drains what it has");
        tokio::select! {
            stopped = process.stop() => stopped?,
            () = signals.next() => return Err(interrupted()),
        }
        match ended {
            Some((stage, Err(error))) => Err(Failure::new(Code::Failed, error.context(format!("{stage} failed")))),
            Some((stage, Ok(()))) => {
                Err(Failure::text(Code::Failed, format!("{stage} ended although nobody stopped it")))
            }
            None => Ok(()),
        }
    })
}

/// Whether other roles run in the process.
fn is_more_than_an_agent(config: &Config) -> bool {
    config.broker.is_some() || config.aggregator.is_some() || config.notify.is_some()
}

fn interrupted() -> Failure {
    Failure::text(Code::Interrupted, "ended by a second signal")
}

/// Stops what runs and starts it anew. What can't be started as the new configuration says runs on as the old one said.
async fn change(served: &Served, process: Process, old: &Config, new: &Config) -> Result<Process, Failure> {
    if let Err(failure) = process.stop().await {
        tracing::error!(error = %failure, "not everything stopped in order");
    }
    match served.start(new.clone()).await {
        Ok(process) => Ok(process),
        Err(failure) => {
            tracing::error!(error = %failure, "the new configuration can't be started: the old one goes on");
            served.start(old.clone()).await
        }
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on signals don't end the process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
