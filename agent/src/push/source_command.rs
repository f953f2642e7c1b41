//! `type: command`: lines that a command prints, all the time or every `interval`.
//!
//! In: standard output and standard error of a child process. Out: batches through the intake. Touches that process.
//!
//! # What can be promised
//! A command whose output is not taken waits in its writes: nothing is dropped while the log is slow or away. What it printed
//! can't be read again: what a killed agent had read and not yet sent is lost (with `agent.spool` only what was not yet in
//! the spool). At the stop its process group gets SIGTERM, what it still prints is read, and after `stop_timeout` it is
//! killed. After a SIGKILL of the agent its commands find their pipes closed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use millrace_log::record::Labels;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command as TokioCommand;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::intake::{Batch, Intake};
use super::lines::Lines;
use super::outbox::{Unrepeatable, at};
use super::process::{Backoff, Program, count_end, ending};
use super::source::PushSource;
use crate::config::local::{CommandMode, CommandSource, Streams};
use crate::error::AgentError;
use crate::metrics::OfSource;
use crate::multiline::Join;

/// Bytes read at a time.
const READ: usize = 32 << 10;
/// Memory of a batch at most, about.
const BATCH_BYTES: usize = 256 << 10;
/// How long what has ended may leave its pipes open: someone who left its process group holds them.
const DRAIN: Duration = Duration::from_secs(1);

/// The source, not yet running.
pub(super) struct Command {
    config: CommandSource,
    name: String,
    environment: Vec<(String, String)>,
    join: Option<Join>,
}

impl Command {
    /// Reads the secrets of its environment. Blocks.
    pub fn open(config: &CommandSource) -> Result<Self, AgentError> {
        let name = config.full_name();
        let reveal = |(key, secret): (&String, &millrace_log::value::Secret)| {
            match secret.reveal() {
                Ok(value) if !value.contains('\0') => Ok((key.clone(), value)),
                Ok(_) => Err("has a NUL byte, which no variable can have".to_owned()),
                Err(error) => Err(error.to_string()),
            }
            .map_err(|reason| AgentError::Setting { key: format!("sources[{name}].environment.{key}"), reason })
        };
        let environment = config.environment.iter().map(reveal).collect::<Result<_, _>>()?;
        let join = config.multiline.as_ref().map(Join::new).transpose()?;
        Ok(Self { config: config.clone(), name, environment, join })
    }
}

#[async_trait]
impl PushSource for Command {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let mut sent = Unrepeatable::new(&self.name);
        let mut backoff = Backoff::new(self.config.restart_wait.0, self.config.restart_max.0);
        let mut ticks = tokio::time::interval(self.config.interval.0);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.config.mode == CommandMode::Interval && !sent.until(ticks.tick(), &intake, &stop).await {
                break;
            }
            let started = Instant::now();
            let Some(end) = self.once(&intake, &mut sent, &stop).await? else { break };
            let ran = started.elapsed();
            let wait = if self.config.mode == CommandMode::Stream { backoff.after(ran) } else { Duration::ZERO };
            self.report(&end, ran, wait);
            count_end(intake.metrics(), &self.name, &end.what);
            if !sent.until(tokio::time::sleep(wait), &intake, &stop).await {
                break;
            }
        }
        sent.drain(&intake).await;
        Ok(())
    }
}

/// How a run ended.
#[derive(Debug)]
struct CommandEnd {
    /// For metrics.
    what: String,
    /// What else is to be said.
    detail: Option<String>,
}

impl Command {
    fn report(&self, end: &CommandEnd, ran: Duration, wait: Duration) {
        let (source, what, detail) = (&*self.name, &*end.what, end.detail.as_deref());
        match (self.config.mode, what) {
            (CommandMode::Interval, "exit code 0") => tracing::debug!(source, ?ran, "command ended"),
            (CommandMode::Interval, "timeout") => {
                tracing::error!(source, timeout = %self.config.timeout, "command timed out and was stopped: raise `timeout`, or find out what it waits for");
            }
            (CommandMode::Interval, _) => tracing::error!(source, end = what, detail, ?ran, "command failed"),
            (CommandMode::Stream, "exit code 0") => {
                tracing::info!(source, ?ran, restart_in = ?wait, "command ended, restarting it");
            }
            (CommandMode::Stream, _) => {
                tracing::error!(source, end = what, detail, ?ran, restart_in = ?wait, "command failed, restarting it");
            }
        }
    }

    fn command(&self) -> TokioCommand {
        let (program, arguments) = self.config.command.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        let mut command = TokioCommand::new(program);
        command.args(arguments);
        if !self.config.inherit_environment {
            command.env_clear();
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if !self.config.working_directory.is_empty() {
            command.current_dir(&self.config.working_directory);
        }
        let pipe = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        command.stdout(pipe(self.config.streams != Streams::Stderr));
        command.stderr(pipe(self.config.streams != Streams::Stdout));
        command
    }

    fn channel(&self, intake: &Intake, stream: &str) -> Result<Channel, AgentError> {
        let (labels, metadata) = match self.config.stream_label.as_str() {
            "" => (Labels::default(), Labels::new([("stream", stream)])),
            label => (Labels::new([(label, stream)]), Labels::default()),
        };
        let labels = intake.stream(&labels, None).map_err(|why| AgentError::Setting {
            key: format!("sources[{}].stream_label", self.name),
            reason: why.to_string(),
        })?;
        let lines = Lines::new(intake.max_line(), self.join.clone());
        Ok(Channel::new(lines, labels, metadata, self.config.multiline.as_ref()))
    }

    /// Runs it to its end. `None`: the agent stops.
    async fn once(
        &self,
        intake: &Intake,
        sent: &mut Unrepeatable,
        stop: &CancellationToken,
    ) -> Result<Option<CommandEnd>, AgentError> {
        let mut program = match Program::start(&mut self.command()) {
            Ok(program) => program,
            Err(error) => {
                let folder = match self.config.working_directory.as_str() {
                    "" => String::new(),
                    folder => format!(" in {folder}"),
                };
                let program = self.config.command.first().map_or("", String::as_str);
                let detail = format!(
                    "{program} can't be started{folder}: {error}: name it with its path, or add its folder to PATH"
                );
                return Ok(Some(CommandEnd { what: "not started".to_owned(), detail: Some(detail) }));
            }
        };
        intake.metrics().program_starts.get_or_create(&OfSource { source: self.name.clone() }).inc();
        tracing::debug!(source = self.name, "command was started");
        let mut out = Pipe::new(program.stdout(), self.channel(intake, "stdout")?);
        let mut err = Pipe::new(program.stderr(), self.channel(intake, "stderr")?);
        let has_limit = self.config.mode == CommandMode::Interval && !self.config.timeout.0.is_zero();
        let limit = tokio::time::sleep(if has_limit { self.config.timeout.0 } else { Duration::MAX });
        tokio::pin!(limit);
        let mut run = Run { program, patience: self.config.stop_timeout.0, kill_at: None };
        let (mut end, mut too_long) = (None, false);
        // From the end of the process on.
        let mut drain_until = None;
        let (mut batch, mut bytes) = (intake.batch(), 0);
        while end.is_none() || out.is_open() || err.is_open() {
            let asked = run.kill_at.is_some();
            let (out_due, err_due) = (out.channel.due(), err.channel.due());
            tokio::select! {
                biased;
                () = stop.cancelled(), if !asked && end.is_none() => run.ask_to_end(),
                () = &mut limit, if has_limit && !asked && end.is_none() => {
                    too_long = true;
                    run.ask_to_end();
                }
                () = at(run.kill_at), if asked && end.is_none() => run.kill(),
                () = sent.settle(intake), if !sent.is_empty() => {}
                () = out.read(), if out.is_open() && batch.cost() < BATCH_BYTES => bytes += out.take(&mut batch),
                () = err.read(), if err.is_open() && batch.cost() < BATCH_BYTES => bytes += err.take(&mut batch),
                // Nothing more at the moment, or enough.
                () = std::future::ready(()), if !batch.is_empty() => {
                    out.channel.count_lost(intake);
                    err.channel.count_lost(intake);
                    let full = std::mem::replace(&mut batch, intake.batch());
                    if !run.send(sent, intake, full, std::mem::take(&mut bytes), stop).await {
                        return Ok(None);
                    }
                    // Only the time that nothing came counts.
                    drain_until = drain_until.map(|_| Instant::now() + DRAIN);
                }
                status = run.program.wait(), if end.is_none() => {
                    end = Some(ending(&status));
                    drain_until = Some(Instant::now() + DRAIN);
                }
                () = at(out_due) => bytes += out.channel.flush(&mut batch),
                () = at(err_due) => bytes += err.channel.flush(&mut batch),
                () = at(drain_until), if end.is_some() => break,
            }
        }
        bytes += out.channel.finish(&mut batch) + err.channel.finish(&mut batch);
        out.channel.count_lost(intake);
        err.channel.count_lost(intake);
        if !sent.send(intake, batch, bytes).await || stop.is_cancelled() {
            return Ok(None);
        }
        let what = if too_long { "timeout".to_owned() } else { end.unwrap_or_default() };
        Ok(Some(CommandEnd { what, detail: None }))
    }
}

/// A process and its way to its end.
struct Run {
    program: Program,
    patience: Duration,
    /// It was asked to end, and is killed then.
    kill_at: Option<Instant>,
}

impl Run {
    fn ask_to_end(&mut self) {
        self.program.ask_to_end();
        self.kill_at = Some(Instant::now() + self.patience);
    }

    fn kill(&mut self) {
        self.program.kill();
        // Once more, if the kernel takes its time.
        self.kill_at = Some(Instant::now() + self.patience.max(DRAIN));
    }

    /// Hands in, waiting for room; a stop reaches the process meanwhile.
    async fn send(
        &mut self,
        sent: &mut Unrepeatable,
        intake: &Intake,
        batch: Batch,
        bytes: u64,
        stop: &CancellationToken,
    ) -> bool {
        let sending = sent.send(intake, batch, bytes);
        tokio::pin!(sending);
        loop {
            let asked = self.kill_at.is_some();
            tokio::select! {
                biased;
                done = &mut sending => return done,
                () = stop.cancelled(), if !asked => self.ask_to_end(),
                () = at(self.kill_at), if asked => self.kill(),
            }
        }
    }
}

/// One output of the command.
struct Pipe<R> {
    reader: Option<R>,
    buffer: BytesMut,
    ended: bool,
    channel: Channel,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(reader: Option<R>, channel: Channel) -> Self {
        Self { reader, buffer: BytesMut::new(), ended: false, channel }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// Waits for more. Dropping the call loses nothing.
    async fn read(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        self.buffer.reserve(READ);
        // What can't be read any more has ended.
        self.ended = reader.read_buf(&mut self.buffer).await.unwrap_or(0) == 0;
    }

    /// Takes what came; gives the bytes of the lines that it added to the batch.
    fn take(&mut self, batch: &mut Batch) -> u64 {
        let mut bytes = self.channel.feed(&self.buffer, batch);
        self.buffer.clear();
        if self.ended {
            self.reader = None;
            bytes += self.channel.finish(batch);
        }
        bytes
    }
}
