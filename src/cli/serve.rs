//! `millrace run`, `agent`, `broker`, `aggregator`, `notifier`: serve until a signal, stop in order, end at once at the second.
//!
//! In: a configuration; SIGHUP has it read again: with everything that it names it is checked first, then the parts whose
//! configuration has changed are started anew, and the others go on. Out: an exit code. Tells the service manager.

use millrace_agent::config::{AgentConfig, FileSource, SourceConfig};

use millrace_notify::NotifyConfig;

use super::flags::ConfigFlags;
use super::runtime::block_on;
use super::validate;
use crate::config::{Config, Settings};
use crate::exit::{Code, Failure};
use crate::run::{Addresses, Outcome, Process};
use crate::supervisor::{State, notify};

/// A role that runs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `agent:`
    Agent,
    /// `broker:`
    Broker,
    /// `aggregator:` with rules, notify and exports.
    Aggregator,
    /// `notify:`
    Notifier,
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
    /// The notifier without a configuration of ours.
    Alertmanager { flags: ConfigFlags, notify: Box<NotifyConfig> },
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

/// The notifier alone: of a configuration, or with an `alertmanager.yml` and the defaults for all else.
pub fn notifier(args: &NotifierArgs) -> Result<(), Failure> {
    let flags = args.file.clone();
    let Some(path) = &args.alertmanager_config else { return role(&flags, Role::Notifier) };
    let usual = NotifyConfig::default();
    let listen = args.listen.clone().unwrap_or(usual.listen.clone());
    let notify = Box::new(NotifyConfig { config_file: Some(path.clone()), listen, ..usual });
    serve(Served::Alertmanager { flags, notify })
}

/// Flags of `millrace notifier`.
#[derive(Debug, Clone, clap::Args)]
pub struct NotifierArgs {
    #[command(flatten)]
    file: ConfigFlags,
    /// Alertmanager configuration to run with, without a configuration file of Millrace
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    alertmanager_config: Option<std::path::PathBuf>,
    /// Address of the Alertmanager API [default: 127.0.0.1:9093]
    #[arg(long, value_name = "ADDR", requires = "alertmanager_config")]
    listen: Option<String>,
}

impl Served {
    /// The part of the configuration that is served, checked with everything that it names. Blocks.
    fn read(&self) -> Result<Settings, Failure> {
        let flags = match self {
            Self::Every { flags, .. }
            | Self::One { flags, .. }
            | Self::Routes { flags }
            | Self::Alertmanager { flags, .. } => flags,
        };
        let mut written = match self {
            Self::Alertmanager { .. } => validate::defaults(flags)?,
            _ => validate::written(flags)?,
        };
        let whole = written.whole().map_err(|error| Failure::new(Code::Config, error));
        let all = &mut written.config;
        match self {
            Self::Every { paths, .. } => {
                if !paths.is_empty() {
                    let agent = all.agent.get_or_insert_with(AgentConfig::default);
                    agent.sources =
                        vec![SourceConfig::File(FileSource { include: paths.clone(), ..FileSource::default() })];
                }
            }
            Self::Alertmanager { notify, .. } => {
                let (data_dir, access) = (all.data_dir.clone(), all.access.clone());
                let (limits, outgoing) = (all.limits.clone(), all.outgoing.clone());
                written.config = Config {
                    data_dir,
                    access,
                    limits,
                    outgoing,
                    notify: Some(NotifyConfig::clone(notify)),
                    ..Config::default()
                };
            }
            Self::Routes { .. } => {
                if all.broker.as_ref().is_none_or(|broker| broker.routes.is_empty()) {
                    whole?;
                    let text = "the configuration has no `broker.routes`: there is nothing to route";
                    return Err(Failure::text(Code::Config, text));
                }
            }
            Self::One { role, .. } => {
                // What is not a role holds for each.
                let (data_dir, access, limits) = (all.data_dir.clone(), all.access.clone(), all.limits.clone());
                let outgoing = all.outgoing.clone();
                let mut config = Config { data_dir, access, limits, outgoing, ..Config::default() };
                let missing = |section: &str| match whole {
                    Err(unreadable) => unreadable,
                    Ok(()) => Failure::text(Code::Config, format!("the configuration has no section `{section}`")),
                };
                match role {
                    Role::Agent => config.agent = Some(all.agent.take().ok_or_else(|| missing("agent"))?),
                    Role::Broker => config.broker = Some(all.broker.take().ok_or_else(|| missing("broker"))?),
                    Role::Notifier => config.notify = Some(all.notify.take().ok_or_else(|| missing("notify"))?),
                    Role::Aggregator => {
                        config.aggregator = Some(all.aggregator.take().ok_or_else(|| missing("aggregator"))?);
                        config.rules = all.rules.take();
                        config.notify = all.notify.take();
                        config.exports = std::mem::take(&mut all.exports);
                    }
                }
                written.config = config;
            }
        }
        written.settings().map_err(|error| Failure::new(Code::Config, error))
    }

    async fn start(&self, settings: Settings) -> Result<Process, Failure> {
        match self {
            Self::Routes { .. } => Process::route(settings).await,
            _ => Process::start(settings).await,
        }
    }
}

/// Gives memory in small pages to a process that shall leave the host to others: the allocator asks for huge pages where
/// it may, and then a few live bytes hold 2 MiB (about 170 MiB of an agent at full speed, without any gain in CPU).
fn stay_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot disable transparent huge pages: the agent uses more memory");
    }
}

fn serve(served: Served) -> Result<(), Failure> {
    let settings = served.read()?;
    if matches!(served, Served::One { role: Role::Agent, .. }) {
        stay_small();
    }
    block_on(async {
        let mut signals = Signals::listen()?;
        // From now on SIGHUP does not end the process.
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        warn(&settings);
        let has_role = !settings.config.has_no_role();
        let mut roles_beside_agent = is_more_than_an_agent(&settings.config);
        let mut process = tokio::select! {
            started = served.start(settings) => started?,
            () = signals.next() => return Ok(()),
        };
        if has_role {
            tracing::info!(addresses = %process.addresses(), "millrace runs");
        } else {
            tracing::warn!("millrace runs without any role and listens nowhere: configure a role and reload");
        }
        notify(State::Ready, "running");
        let ended = loop {
            tokio::select! {
                // The agent has sent all there will ever be; with it alone, so has the process.
                ended = process.ended_early() => match ended {
                    ("agent", Ok(())) if roles_beside_agent => {
                        tracing::info!("all sources of the agent have ended; the other roles keep running");
                        continue;
                    }
                    ("agent", Ok(())) => break None,
                    ended => break Some(ended),
                },
                () = signals.next() => break None,
                _ = hangup.recv() => {}
            }
            notify(State::Reloading, "reloading the configuration");
            let again = served.clone();
            match tokio::task::spawn_blocking(move || again.read()).await? {
                Err(failure) => {
                    process.refuse(&failure);
                    tracing::error!(error = %failure, "configuration not reloaded: all parts keep running with the previous one");
                    notify(
                        State::Ready,
                        "running with the previous configuration: the new one has errors, see the journal",
                    );
                }
                Ok(settings) => {
                    warn(&settings);
                    roles_beside_agent = is_more_than_an_agent(&settings.config);
                    let (outcome, asked_to_stop) = change(&mut process, settings, &mut signals).await?;
                    report(&outcome, process.addresses());
                    if asked_to_stop {
                        break None;
                    }
                }
            }
        };
        tracing::info!("stopping; a second signal ends the process at once");
        notify(State::Stopping, "stopping");
        tokio::select! {
            stopped = process.stop() => stopped?,
            () = signals.next() => return Err(interrupted()),
        }
        match ended {
            Some((stage, Err(error))) => Err(Failure::new(Code::Failed, error.context(format!("{stage} failed")))),
            Some((stage, Ok(()))) => Err(Failure::text(Code::Failed, format!("{stage} ended unexpectedly"))),
            None => Ok(()),
        }
    })
}

/// Logs what is most likely not meant so.
fn warn(settings: &Settings) {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
}

/// Changes what differs. A signal to stop waits for it, so that every part stops in order; the second does not.
async fn change(process: &mut Process, settings: Settings, signals: &mut Signals) -> Result<(Outcome, bool), Failure> {
    let changing = process.reload(settings);
    tokio::pin!(changing);
    let mut asked_to_stop = false;
    loop {
        tokio::select! {
            outcome = &mut changing => return Ok((outcome?, asked_to_stop)),
            () = signals.next() => {
                if asked_to_stop {
                    return Err(interrupted());
                }
                asked_to_stop = true;
            }
        }
    }
}

/// Says exactly what runs with what.
fn report(outcome: &Outcome, addresses: &Addresses) {
    let changed = if outcome.changed.is_empty() { "nothing".to_owned() } else { outcome.changed.join(", ") };
    if outcome.refused.is_empty() {
        tracing::info!(%changed, %addresses, "configuration reloaded; all other parts kept running");
        notify(State::Ready, "running");
        return;
    }
    for refused in &outcome.refused {
        tracing::error!("{refused}");
    }
    if outcome.changed.is_empty() {
        tracing::error!(%addresses, "configuration not reloaded: all parts keep their previous configuration");
    } else {
        tracing::error!(%changed, %addresses, "configuration only partly reloaded: the parts named above keep their previous configuration");
    }
    notify(State::Ready, "running, parts of it with the previous configuration, see the journal");
}

/// Whether other roles run in the process.
fn is_more_than_an_agent(config: &Config) -> bool {
    config.broker.is_some() || config.aggregator.is_some() || config.notify.is_some()
}

fn interrupted() -> Failure {
    Failure::text(Code::Interrupted, "ended by a second signal")
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
