//! `millrace run`, `agent`, `broker`, `aggregator`: serve until a signal, stop in order, end at once at the second.

use millrace_agent::config::{AgentConfig, FileSource, SourceConfig};

use super::{ConfigFlags, runtime, validate};
use crate::config::Config;
use crate::exit::{Code, Failure};
use crate::run::Process;

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

/// Every role that the configuration has.
pub fn run(flags: &ConfigFlags, paths: &[String]) -> Result<(), Failure> {
    let mut config = validate::read(flags)?;
    if !paths.is_empty() {
        let agent = config.agent.get_or_insert_with(AgentConfig::default);
        agent.sources = vec![SourceConfig::File(FileSource { include: paths.to_vec(), ..FileSource::default() })];
    }
    serve(config)
}

/// Only the routes of the section `broker`.
pub fn router(flags: &ConfigFlags) -> Result<(), Failure> {
    let config = validate::read(flags)?;
    if config.broker.as_ref().is_none_or(|broker| broker.routes.is_empty()) {
        return Err(Failure::text(Code::Config, "the configuration has no `broker.routes`: there is nothing to route"));
    }
    serve_with(Process::route(config))
}

/// One role; its section must be there.
pub fn role(flags: &ConfigFlags, role: Role) -> Result<(), Failure> {
    let all = validate::read(flags)?;
    let mut config = Config { data_dir: all.data_dir, ..Config::default() };
    let missing = |section: &str| Failure::text(Code::Config, format!("the configuration has no section `{section}`"));
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
    serve(config)
}

fn serve(config: Config) -> Result<(), Failure> {
    serve_with(Process::start(config))
}

fn serve_with(starting: impl Future<Output = Result<Process, Failure>>) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let mut process = tokio::select! {
            started = starting => started?,
            () = signals.next() => return Ok(()),
        };
        tracing::info!(addresses = %process.addresses(), "millrace runs");
        let ended = tokio::select! {
            ended = process.ended_early() => Some(ended),
            () = signals.next() => None,
        };
        tracing::info!("millrace stops; a second signal ends it at once");
        tokio::select! {
            stopped = process.stop() => stopped?,
            () = signals.next() => return Err(Failure::text(Code::Interrupted, "ended by a second signal")),
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
