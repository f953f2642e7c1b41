//! Puts the agent's parts together: opens the state, makes the topic, starts the reading thread, the lanes and the
//! checkpoints; at the end stops them in the order of the flow.
//!
//! In: configuration, data folder, a producer. Out: the agent's end. Touches what the parts touch.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log::client::BatchProducer;
use millrace_log::clock::SharedClock;
use millrace_log::record::{Labels, Tenant, TopicPartition};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::condition::Conditions;
use crate::config::{AgentConfig, FileFormat, FileSource, ReadFrom, SourceConfig};
use crate::container::Runtime;
use crate::cut::{Container, Cutter, Encoded};
use crate::discover::Globs;
use crate::dispatch::Routes;
use crate::error::AgentError;
use crate::feed::Feed as _;
use crate::fingerprint::TAIL_BYTES;
use crate::flow::Flow;
use crate::ledger::{LedgerHandle, Receivers, Sources};
use crate::metrics::AgentMetrics;
use crate::multiline::Join;
use crate::path_labels::PathLabels;
use crate::pool::Pool;
use crate::producer::{Budget, LaneParts, Load, lane};
use crate::push::spool::{Job, Spool, SpoolDoor};
use crate::push::spool_feed::Feeder;
use crate::push::{self, Gate, Intake, Outlets, PushSource, Receiver, Settings, Shared};
use crate::source::{Entry, Source};
use crate::split::Splitter;
use crate::state::{SourceState, State};
use crate::tail::{Reader, ReaderParts};
use crate::tap::Taps;
use crate::timestamp::TimeReader;
use crate::transform::{self, Chain};
use crate::watch::Wake;

/// The agent of one host. Opened, then run once.
pub struct Agent {
    config: AgentConfig,
    entries: Vec<Arc<Entry>>,
    state: Arc<State>,
    remembered: Vec<(millrace_log::record::SourceId, SourceState)>,
    last_alive_ms: Option<i64>,
    sources: Sources,
    receivers: Receivers,
    doors: Vec<(Box<dyn PushSource>, Intake)>,
    gates: Vec<(watch::Sender<Gate>, Arc<Receiver>)>,
    shared: Arc<Shared>,
    /// Of everything that waits for the log.
    budget: Arc<Budget>,
    spool: Option<(Spool, mpsc::Receiver<Job>)>,
    producer: Arc<dyn BatchProducer>,
    clock: SharedClock,
    metrics: AgentMetrics,
    conditions: Conditions,
    taps: Taps,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agent({})", self.state.folder().display())
    }
}

impl Agent {
    /// Opens the agent's own folder (`<data_dir>/agent`) and takes its lock. Blocks: call it from `spawn_blocking`.
    pub fn open(
        config: AgentConfig,
        data_dir: &Path,
        producer: Arc<dyn BatchProducer>,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Self, AgentError> {
        let host = config.host.clone().unwrap_or_else(host_name);
        let metrics = AgentMetrics::register(registry);
        let (mut entries, mut doors) = (Vec::new(), Vec::new());
        for (source, chain) in config.sources.iter().zip(transform::chains(&config, &metrics)?) {
            match source {
                SourceConfig::File(file) => entries.push(Arc::new(entry(file, &host, chain)?)),
                other => {
                    if let (Some(common), Some(door)) = (other.common(), push::open(other)?) {
                        doors.push((door, push::settings(&common, &host, chain)?));
                    }
                }
            }
        }
        let state = Arc::new(State::open(data_dir)?);
        let remembered = state.all()?;
        let last_alive_ms = state.last_alive_ms()?;
        let budget = Arc::new(Budget::new(lane_bytes(&config)));
        let (mut spool, mut door, mut of_intakes) = (None, None, budget.clone());
        if let Some(settings) = &config.spool {
            let folder = match settings.folder.as_str() {
                "" => data_dir.join("spool"),
                folder => folder.into(),
            };
            let opened = Spool::open(&folder, settings.max_bytes.0, &metrics)?;
            let (jobs, queue) = mpsc::channel(SPOOL_JOBS);
            door = Some(Arc::new(SpoolDoor { jobs, space: opened.space.clone() }));
            spool = Some((opened, queue));
            of_intakes = Arc::new(Budget::new(lane_bytes(&config)));
        }
        let taps = Taps::default();
        let conditions = Conditions::new(&metrics, budget.max());
        let shared = Shared {
            budget: of_intakes,
            state: state.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            taps: taps.clone(),
            spooled: door.is_some(),
            spool: RwLock::new(door),
        };
        let mut agent = Self {
            config,
            entries,
            state,
            remembered,
            last_alive_ms,
            sources: Arc::new(RwLock::new(Vec::new())),
            receivers: Receivers::default(),
            doors: Vec::new(),
            gates: Vec::new(),
            shared: Arc::new(shared),
            budget,
            spool,
            producer,
            clock,
            metrics,
            conditions,
            taps,
        };
        for (door, settings) in doors {
            let intake = agent.receive(settings)?;
            agent.doors.push((door, intake));
        }
        Ok(agent)
    }

    /// A source of the process itself, as if it were in the configuration: its lines have these labels besides those
    /// that come with them. To be called before [`Agent::run`]. Blocks.
    pub fn embed(&mut self, name: &str, labels: Labels) -> Result<Intake, AgentError> {
        self.receive(Settings {
            name: name.into(),
            kind: "embedded",
            labels,
            tenant: None,
            max_line: 256 << 10,
            time: None,
            transforms: None,
            max_streams: 1000,
        })
    }

    fn receive(&mut self, settings: Settings) -> Result<Intake, AgentError> {
        let receiver = Receiver::open(settings, &self.state)?;
        let (gate, opened) = watch::channel(Gate::NotYet);
        self.gates.push((gate, receiver.clone()));
        self.receivers.write().push(receiver.clone());
        Ok(Intake::new(receiver, opened, self.shared.clone()))
    }

    /// Snapshots of the ledger, during the run and after it.
    pub fn ledger(&self) -> LedgerHandle {
        LedgerHandle {
            files: self.sources.clone(),
            receivers: self.receivers.clone(),
            conditions: self.conditions.clone(),
            budget: self.budget.clone(),
        }
    }

    /// For those who want to look at live records.
    pub fn taps(&self) -> Taps {
        self.taps.clone()
    }

    /// The agent's counters.
    pub fn metrics(&self) -> AgentMetrics {
        self.metrics.clone()
    }

    /// Runs until `cancel`, or until sources that come to an end (the standard input) were all there is; then stops
    /// reading, waits up to `shutdown_timeout` for acknowledgements, and keeps the positions. Dropping the future ends
    /// the agent as a crash does: what was not kept is read again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), AgentError> {
        let topic: Arc<str> = self.config.kafka.topic.as_str().into();
        // Doors answer from the start, be it that the log is not there yet.
        let mut feed = None;
        if let Some((spool, queue)) = self.spool.take() {
            feed =
                Some((spool.folder().to_owned(), spool.old.clone(), spool.first_new, spool.end(), spool.space.clone()));
            std::thread::Builder::new()
                .name("agent-spool".to_owned())
                .spawn(move || spool.write(queue))
                .map_err(|source| AgentError::Thread { name: "agent-spool", source })?;
        }
        // However this future ends, nobody looks at it any longer.
        let _close_taps = CloseTaps(self.taps.clone());
        // However this future ends, the spool's thread does.
        let close_spool = CloseSpool(self.shared.clone());
        let mut doors = JoinSet::new();
        let close_doors = CancellationToken::new();
        // With files, or with none of its own, the agent has something to do for ever.
        let may_finish = self.entries.is_empty() && !self.doors.is_empty();
        for (door, intake) in std::mem::take(&mut self.doors) {
            doors.spawn(door.run(intake, close_doors.clone()));
        }
        let Some(partitions) = self.topic(&topic, &cancel).await else { return Ok(()) };
        let (state, clock, metrics) = (self.state.clone(), self.clock.clone(), self.metrics.clone());
        let wake = Wake::default();
        // However this future ends, the reading thread does.
        let stop = StopReading(wake.clone());
        let max_waiting = lane_bytes(&self.config);
        let budget = self.budget.clone();
        let read_bytes = usize::try_from(self.config.read_bytes.0).unwrap_or(256 << 10);
        let largest_window = self.entries.iter().map(|entry| entry.cutter.min_window()).max().unwrap_or(0);
        let largest_window = largest_window.max(read_bytes) + TAIL_BYTES;
        let abort = CancellationToken::new();
        let lane_parts = Arc::new(LaneParts {
            producer: self.producer.clone(),
            state: state.clone(),
            clock: clock.clone(),
            budget: budget.clone(),
            wake: wake.clone(),
            metrics: metrics.clone(),
            batch_records: self.config.batch_records,
            retry_initial: self.config.retry_initial.0,
            retry_max: self.config.retry_max.0,
            dead_letter_topic: self.config.dead_letter_topic.as_str().into(),
            routes: Routes::new(self.config.kafka.partitions),
            conditions: self.conditions.clone(),
            taps: self.taps.clone(),
        });
        let mut lanes = JoinSet::new();
        let (mut senders, mut flows) = (Vec::new(), Vec::new());
        let batch_bytes = usize::try_from(self.config.batch_bytes.0).unwrap_or(usize::MAX);
        let behind_bytes = behind_bytes(&self.config, partitions);
        for partition in 0..partitions {
            let (sender, queue) = mpsc::channel(self.config.queue_pieces);
            senders.push(sender);
            let flow = Flow::new(batch_bytes, behind_bytes);
            flows.push(flow.clone());
            let to = TopicPartition::new(topic.clone(), partition);
            lanes.spawn(lane(lane_parts.clone(), to, queue, flow, abort.clone()));
        }
        let gates = Gates(self.gates.iter().map(|(gate, _)| gate.clone()).collect());
        self.open_gates(&topic, &senders).await?;
        let (mut feeders, stop_feeding) = (JoinSet::new(), CancellationToken::new());
        if let Some((folder, old, first_new, end, space)) = feed {
            let feeder = Feeder {
                folder,
                first_new,
                old,
                end,
                space,
                budget: budget.clone(),
                state: state.clone(),
                metrics: metrics.clone(),
                taps: self.taps.clone(),
                receivers: self.receivers.clone(),
                topic: topic.clone(),
                lanes: senders.clone(),
                most: max_waiting / 4,
            };
            feeders.spawn(feeder.run(stop_feeding.clone()));
        }

        let parts = ReaderParts {
            entries: self.entries.clone(),
            topic: topic.clone(),
            state: state.clone(),
            sources: self.sources.clone(),
            lanes: senders.into_iter().zip(flows).collect(),
            windows: Pool::new(largest_window, max_waiting),
            budget,
            wake: wake.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            conditions: self.conditions.clone(),
            taps: self.taps.clone(),
            scan_interval: self.config.scan_interval.0,
            fingerprint: usize::try_from(self.config.fingerprint_bytes.0).unwrap_or(1024),
            read_bytes,
            rotated_wait: self.config.rotated_wait.0,
            deleted_wait: self.config.deleted_wait.0.max(self.config.rotated_wait.0),
            close_idle: self.config.close_idle.0,
            forget_after_ms: i64::try_from(self.config.forget_after.0.as_millis()).unwrap_or(i64::MAX),
            last_alive_ms: self.last_alive_ms,
        };
        let (remembered, sources) = (self.remembered, self.sources.clone());
        let (ended, mut reading) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("agent-files".to_owned())
            .spawn(move || {
                let result = restore(&parts, remembered).and_then(|()| Reader::new(parts)?.run());
                // Nobody listens only when the run itself was dropped.
                drop(ended.send(result));
            })
            .map_err(|source| AgentError::Thread { name: "agent-files", source })?;

        let checkpoint = Checkpoint { state, sources, receivers: self.receivers, clock, metrics };
        let mut turns = tokio::time::interval(self.config.checkpoint_interval.0);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut outcome = Ok(());
        let mut finished = false;
        let mut read = None;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                end = &mut reading => {
                    read = Some(end);
                    break;
                }
                Some(end) = doors.join_next() => {
                    // One that has no more to read ends well.
                    outcome = end.unwrap_or(Err(AgentError::Ended { part: "source" }));
                    finished = may_finish && doors.is_empty();
                    if finished || outcome.is_err() {
                        break;
                    }
                }
                Some(end) = feeders.join_next() => {
                    outcome = end.unwrap_or(Err(AgentError::Ended { part: "feeder of the spool" }));
                    break;
                }
                Some(end) = lanes.join_next() => {
                    // A lane that ends well lost the reading thread, whose own end says why.
                    outcome = end.unwrap_or(Err(AgentError::Ended { part: "lane" }));
                    break;
                }
                _ = turns.tick() => {
                    outcome = checkpoint.write().await;
                    if outcome.is_err() {
                        break;
                    }
                }
            }
        }

        // Stop reading; the end of the reading thread and of the doors closes the queues, and the lanes end when theirs
        // are empty.
        let asked = finished || cancel.is_cancelled() || outcome.is_err();
        drop(stop);
        let limit = self.config.shutdown_timeout.0;
        let deadline = tokio::time::Instant::now() + limit;
        close_doors.cancel();
        let closed = async {
            let mut result = Ok(());
            while let Some(end) = doors.join_next().await {
                result = result.and(end.unwrap_or(Err(AgentError::Ended { part: "source" })));
            }
            result
        };
        match tokio::time::timeout_at(deadline, closed).await {
            Ok(result) => outcome = outcome.and(result),
            Err(_) => {
                tracing::warn!(
                    "clients of sources still wait for the log, their connections are closed without an answer"
                );
                doors.shutdown().await;
            }
        }
        drop(gates);
        drop(close_spool);
        stop_feeding.cancel();
        let read = match read {
            Some(end) => Some(end),
            None => tokio::time::timeout_at(deadline.max(tokio::time::Instant::now() + GRACE), &mut reading).await.ok(),
        };
        let read = match read {
            Some(Ok(Ok(()))) if asked => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err(AgentError::Ended { part: "thread agent-files" }),
            None => {
                tracing::warn!("a file system does not answer, the agent stops without waiting for it");
                Ok(())
            }
        };
        outcome = outcome.and(read);
        let drained = async {
            let mut result = Ok(());
            while let Some(end) = lanes.join_next().await {
                if let Ok(Err(error)) = end {
                    result = Err(error);
                }
            }
            result
        };
        match tokio::time::timeout_at(deadline.max(tokio::time::Instant::now() + GRACE), drained).await {
            Ok(result) => outcome = outcome.and(result),
            Err(_) => {
                tracing::warn!(timeout = %self.config.shutdown_timeout, "log did not acknowledge all lines in time, they are read again at the next start");
                abort.cancel();
                while lanes.join_next().await.is_some() {}
            }
        }
        let fed = async {
            while let Some(end) = feeders.join_next().await {
                if let Ok(Err(error)) = end {
                    return Err(error);
                }
            }
            Ok(())
        };
        // The lanes have ended: it has all its answers.
        if let Ok(fed) = tokio::time::timeout(GRACE * 10, fed).await {
            outcome = outcome.and(fed);
        }
        let kept = checkpoint.write().await;
        outcome.and(kept)
    }

    /// Lets sources that are no files hand in what they have, once their ids are durable.
    async fn open_gates(&self, topic: &Arc<str>, lanes: &[mpsc::Sender<Load>]) -> Result<(), AgentError> {
        if self.gates.is_empty() {
            return Ok(());
        }
        let receivers: Vec<Arc<Receiver>> = self.gates.iter().map(|(_, receiver)| receiver.clone()).collect();
        let (state, topic, count) = (self.state.clone(), topic.clone(), lanes.len());
        let made = tokio::task::spawn_blocking(move || {
            let inlets = receivers.iter().map(|receiver| receiver.lanes(&topic, count, &state));
            let inlets = inlets.collect::<Result<Vec<_>, AgentError>>()?;
            state.sync().map(|()| inlets)
        });
        let made = made.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))?;
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        for ((gate, _), inlets) in self.gates.iter().zip(made) {
            gate.send_replace(Gate::Open(Arc::new(Outlets { lanes: lanes.to_vec(), inlets, turn: turn.clone() })));
        }
        Ok(())
    }

    /// Makes the topic, waiting for the log as long as it takes. `None` if cancelled.
    async fn topic(&self, topic: &str, cancel: &CancellationToken) -> Option<i32> {
        let mut wait = self.config.retry_initial.0;
        let mut told = tokio::time::Instant::now() - Duration::from_secs(60);
        loop {
            let answer = tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                answer = self.producer.ensure_topic(topic, self.config.kafka.partitions) => answer,
            };
            match answer {
                Ok(partitions) => {
                    self.conditions.trouble(topic, None);
                    return Some(partitions);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    self.conditions
                        .trouble(topic, Some(format!("{error}: {cause}; nothing is read before it is there")));
                    if told.elapsed() >= Duration::from_secs(30) {
                        told = tokio::time::Instant::now();
                        tracing::warn!(%error, cause, topic, "agent waits for the log before it reads files");
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(self.config.retry_max.0);
        }
    }
}

/// What is always waited for what must end soon.
const GRACE: Duration = Duration::from_millis(100);

/// Closes the gates when it is dropped: queues end once nobody can put anything into them.
struct Gates(Vec<watch::Sender<Gate>>);

impl Drop for Gates {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.send_replace(Gate::Closed);
        }
    }
}

/// Pushes that wait for the spool's thread at most.
const SPOOL_JOBS: usize = 1024;

/// Memory of what waits for the log: all of it, or half where the other half is of what comes into the spool.
fn lane_bytes(config: &AgentConfig) -> usize {
    let bytes = if config.spool.is_some() { config.max_waiting_bytes.0 / 2 } else { config.max_waiting_bytes.0 };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Ends the taps when it is dropped.
struct CloseTaps(Taps);

impl Drop for CloseTaps {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Lets nothing more into the spool when it is dropped.
struct CloseSpool(Arc<Shared>);

impl Drop for CloseSpool {
    fn drop(&mut self) {
        self.0.spool.write().take();
    }
}

/// Tells the reading thread to stop when it is dropped.
struct StopReading(Wake);

impl Drop for StopReading {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Puts the sources that the state remembers into the list; those of entries that are gone stay for their labels' sake
/// with the first entry, and are never matched.
fn restore(
    parts: &ReaderParts,
    remembered: Vec<(millrace_log::record::SourceId, SourceState)>,
) -> Result<(), AgentError> {
    let partitions = i32::try_from(parts.lanes.len()).unwrap_or(i32::MAX);
    let mut moved = false;
    for (id, state) in remembered {
        let filename: std::path::PathBuf = state.filename.clone().into();
        let entry = parts.entries.iter().find(|entry| entry.globs.matches(&filename)).or(parts.entries.first());
        let Some(entry) = entry else { continue };
        let source = Source::restore(entry.clone(), &parts.topic, partitions, id, state);
        if source.identity().id != id {
            source.save(&parts.state)?;
            source.forget_old(&parts.state, id)?;
            moved = true;
        }
        parts.sources.write().push(Arc::new(source));
    }
    if moved { parts.state.sync() } else { Ok(()) }
}

/// Writes positions of acknowledged lines, and looks whether the ledger adds up.
struct Checkpoint {
    state: Arc<State>,
    sources: Sources,
    receivers: Receivers,
    clock: SharedClock,
    metrics: AgentMetrics,
}

impl Checkpoint {
    async fn write(&self) -> Result<(), AgentError> {
        let (state, sources, clock, metrics) =
            (self.state.clone(), self.sources.clone(), self.clock.clone(), self.metrics.clone());
        let receivers: Vec<Arc<Receiver>> = self.receivers.read().clone();
        let written = tokio::task::spawn_blocking(move || {
            let started = std::time::Instant::now();
            let list: Vec<Arc<Source>> = sources.read().clone();
            let mut saved = Vec::new();
            for source in &list {
                if source.save(&state)? {
                    saved.push(source.ledger());
                }
            }
            for receiver in &receivers {
                if receiver.save(&state)? {
                    saved.push(receiver.ledger());
                }
            }
            let changed = saved.len();
            for ledger in saved {
                if !ledger.adds_up() {
                    metrics.ledger_mismatches.inc();
                    tracing::error!(filename = ledger.filename, source = ledger.source, balance = ?ledger.balance, "ledger of a source does not add up: this is a bug, report it with this line");
                }
            }
            let now_ms = clock.now_ms();
            // Being alive is worth a sync now and then, but not every second on an idle host.
            if changed > 0 || state.last_alive_ms()?.is_none_or(|last| now_ms - last > 30_000) {
                state.alive(now_ms)?;
                state.sync()?;
                metrics.checkpoints.inc();
                metrics.checkpoint_seconds.inc_by(started.elapsed().as_secs_f64());
            }
            Ok(())
        });
        written.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))
    }
}

pub(crate) fn entry(file: &FileSource, host: &str, transforms: Option<Arc<Chain>>) -> Result<Entry, AgentError> {
    let setting = |key: &str, reason: String| AgentError::Setting { key: format!("sources[].{key}"), reason };
    let mut labels = Labels::new(file.labels.clone());
    if labels.get("host").is_none() {
        labels = labels.with("host", host);
    }
    labels.check().map_err(|error| setting("labels", error.to_string()))?;
    let tenant = match file.tenant.as_str() {
        "" | Tenant::DEFAULT => None,
        name => {
            let tenant = Tenant::new(name).map_err(|error| setting("tenant", error.to_string()))?;
            Some(Bytes::copy_from_slice(tenant.as_str().as_bytes()))
        }
    };
    let mut partial_timeout = file.partial_timeout.0;
    let join = match &file.multiline {
        None => None,
        Some(multiline) => {
            partial_timeout = multiline.timeout.0;
            Some(Join::new(multiline)?)
        }
    };
    let splitter = Splitter { max_line: usize::try_from(file.max_line_bytes.0).unwrap_or(256 << 10), join };
    let runtime = match file.format {
        FileFormat::Plain => None,
        FileFormat::Cri => Some(Runtime::Cri),
        FileFormat::Docker => Some(Runtime::Docker),
        FileFormat::Auto => Some(Runtime::Any),
    };
    let cutter = match (runtime, file.encoding.decoder()) {
        (Some(runtime), _) => Cutter::Container(Container { runtime, splitter, label: !file.stream_label.is_empty() }),
        (None, Some(encoding)) => Cutter::Encoded(Encoded { splitter, encoding }),
        (None, None) => Cutter::Lines(splitter),
    };
    Ok(Entry {
        globs: Globs::new(&file.include, &file.exclude, file.follow_symlinks)?,
        labels,
        tenant,
        from_end: file.read_from == ReadFrom::End,
        cutter,
        stream_label: file.stream_label.clone(),
        path_labels: PathLabels::new(&file.path_labels).map_err(|reason| setting("path_labels", reason))?,
        partial_timeout,
        time: file.timestamp.as_ref().map(TimeReader::new).transpose()?,
        transforms,
    })
}

/// What files that are behind may have waiting in one lane: some batches, so that the lane never runs dry, and in all
/// lanes together not all of the memory, so that there is room for the others.
fn behind_bytes(config: &AgentConfig, lanes: i32) -> usize {
    let share = lane_bytes(config) as u64 / 4 * 3 / u64::try_from(lanes.max(1)).unwrap_or(1);
    let bytes = (config.batch_bytes.0 * 4).min(share).max(config.read_bytes.0);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The kernel's name of this host.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
