//! Puts the agent's parts together: opens the state, creates the topic, starts the reading thread, the senders and the
//! checkpoints; at the end stops them in the order of the flow.
//!
//! In: configuration, data folder, a producer. Out: the agent's end. Touches what the parts touch.

/// Guards that end a part when they are dropped.
mod guards;
/// Memory limits.
mod limits;
/// What runs, and its stop.
mod running;
/// Whether the log is there while nothing is sent.
mod probe;
/// The topic, before anything is read.
mod topic;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_doors::access::Access;
use millrace_log::client::{BatchProducer, WantedTopic};
use millrace_log::clock::SharedClock;
use millrace_log::fs::RealFs;
use millrace_log::record::{Labels, SourceId, TopicPartition};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::guards::{CloseGates, CloseSpool, CloseTaps, StopReading};
use self::limits::{behind_bytes, waiting_bytes};
use self::probe::Probe;
use self::running::{Running, Tasks};
use self::topic::TopicWait;
use crate::backlog::Backlog;
use crate::batch::{Flow, MemoryBudget, QueuedBatches};
use crate::checkpoint::Checkpoint;
use crate::condition::Conditions;
use crate::config::{AgentConfig, SourceConfig};
use crate::delivery::{DeliveryContext, PartitionSender, RoutedTopics};
use crate::error::AgentError;
use crate::file_settings::FileSettings;
use crate::file_source::Sources;
use crate::fingerprint::TAIL_BYTES;
use crate::metrics::AgentMetrics;
use crate::pool::Pool;
use crate::push::spool::{Job, Spool, SpoolQueue};
use crate::push::spool_feed::Feeder;
use crate::push::{self, Gate, Intake, IntakeContext, Outlets, PushSource, Receiver, Receivers, Settings};
use crate::snapshot::LedgerHandle;
use crate::state::{SourceState, State};
use crate::tail::{Reader, ReaderParts};
use crate::tap::Taps;
use crate::transform::Steps;
use crate::watch::Wake;

/// Pushes that wait for the writer of the spool at most.
const SPOOL_JOBS: usize = 1024;

/// The agent of one host. Opened, then run once.
pub struct Agent {
    config: AgentConfig,
    files: Vec<Arc<FileSettings>>,
    state: Arc<State>,
    remembered: Vec<(SourceId, SourceState)>,
    last_alive_ms: Option<i64>,
    sources: Sources,
    receivers: Receivers,
    /// Sources that are not files.
    pushed: Vec<(Box<dyn PushSource>, Intake)>,
    gates: Vec<(watch::Sender<Gate>, Arc<Receiver>)>,
    intake: Arc<IntakeContext>,
    /// For everything that waits for the log.
    budget: Arc<MemoryBudget>,
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
    /// Sources that are pushed to have no logins but their own.
    pub fn open(
        config: AgentConfig,
        data_dir: &Path,
        producer: Arc<dyn BatchProducer>,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Self, AgentError> {
        Self::open_with(config, data_dir, producer, clock, registry, None)
    }

    /// The same; HTTP sources without a login of their own let in whom `access` knows.
    pub fn open_with(
        config: AgentConfig,
        data_dir: &Path,
        producer: Arc<dyn BatchProducer>,
        clock: SharedClock,
        registry: &mut Registry,
        access: Option<&Access>,
    ) -> Result<Self, AgentError> {
        let host = config.host.clone().unwrap_or_else(host_name);
        let metrics = AgentMetrics::register(registry);
        let (mut files, mut pushed) = (Vec::new(), Vec::new());
        let mut steps = Steps::new(&config.transforms, &metrics);
        for (i, source) in config.sources.iter().enumerate() {
            let chain = steps.chain(&format!("sources[{i}].transforms"), source.transforms())?;
            match source {
                SourceConfig::File(file) => files.push(Arc::new(FileSettings::new(file, &host, chain)?)),
                other => {
                    if let (Some(common), Some(source)) = (other.common(), push::open(other, access)?) {
                        metrics.expect_refused(&common.name, &push::Rejected::REASONS);
                        match other {
                            SourceConfig::Journald(_) => metrics.expect_programs(&common.name, true),
                            SourceConfig::Command(_) => metrics.expect_programs(&common.name, false),
                            _ => {}
                        }
                        pushed.push((source, push::settings(&common, &host, chain)?));
                    }
                }
            }
        }
        let state = Arc::new(State::open(data_dir)?);
        let remembered = state.all()?;
        let last_alive_ms = state.last_alive_ms()?;
        let new_budget = || Arc::new(MemoryBudget::new(waiting_bytes(&config)));
        let budget = new_budget();
        let (mut spool, mut spool_queue, mut intake_budget) = (None, None, budget.clone());
        if let Some(settings) = &config.spool {
            let folder = match settings.folder.as_str() {
                "" => data_dir.join("spool"),
                folder => folder.into(),
            };
            let opened = Spool::open(&RealFs::shared(), &folder, settings.max_bytes.0, &metrics)?;
            let (jobs, queue) = mpsc::channel(SPOOL_JOBS);
            spool_queue = Some(Arc::new(SpoolQueue { jobs, space: opened.space.clone() }));
            spool = Some((opened, queue));
            intake_budget = new_budget();
        }
        let taps = Taps::default();
        let conditions = Conditions::new(&metrics, budget.max());
        state.report_to(&conditions);
        let intake = IntakeContext {
            budget: intake_budget,
            state: state.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            taps: taps.clone(),
            spooled: spool_queue.is_some(),
            spool: RwLock::new(spool_queue),
        };
        let mut agent = Self {
            config,
            files,
            state,
            remembered,
            last_alive_ms,
            sources: Arc::new(RwLock::new(Vec::new())),
            receivers: Receivers::default(),
            pushed: Vec::new(),
            gates: Vec::new(),
            intake: Arc::new(intake),
            budget,
            spool,
            producer,
            clock,
            metrics,
            conditions,
            taps,
        };
        for (source, settings) in pushed {
            let intake = agent.receive(settings)?;
            agent.pushed.push((source, intake));
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
        Ok(Intake::new(receiver, opened, self.intake.clone()))
    }

    /// Gives snapshots of the ledger, during the run and after it.
    pub fn ledger(&self) -> LedgerHandle {
        LedgerHandle {
            files: self.sources.clone(),
            receivers: self.receivers.clone(),
            conditions: self.conditions.clone(),
            budget: self.budget.clone(),
        }
    }

    /// For live tail.
    pub fn taps(&self) -> Taps {
        self.taps.clone()
    }

    /// The agent's counters.
    pub fn metrics(&self) -> AgentMetrics {
        self.metrics.clone()
    }

    /// Runs until `cancel`, or until all sources have come to an end (the standard input); then stops reading, waits up to
    /// `shutdown_timeout` for acknowledgements, and keeps the positions. Dropping the future ends the agent as a crash
    /// does: what was not kept is read again.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self, cancel: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
        self.run_until(cancel).boxed()
    }

    async fn run_until(mut self, cancel: CancellationToken) -> Result<(), AgentError> {
        let topic: Arc<str> = self.config.kafka.topic.as_str().into();
        // However this future ends, live tails and the writer of the spool end, too.
        let _close_taps = CloseTaps(self.taps.clone());
        let close_spool = CloseSpool(self.intake.clone());
        self.state.wait_until(&cancel);
        let spool = self.start_spool()?;
        // Sources answer from the start, even while the log can't be reached.
        let may_finish = self.files.is_empty() && !self.pushed.is_empty();
        let mut sources = Tasks::default();
        for (source, intake) in std::mem::take(&mut self.pushed) {
            sources.set.spawn(source.run(intake, sources.stop.clone()).boxed());
        }
        let wait = TopicWait {
            producer: &*self.producer,
            topic: &topic,
            partitions: self.config.kafka.partitions,
            backlog: Arc::new(Backlog::new(&self.files, &self.remembered)),
            conditions: &self.conditions,
            retry: self.config.retry_initial.0..=self.config.retry_max.0,
        };
        let Some(partitions) = wait.created(&cancel).await else { return Ok(()) };
        let wake = Wake::default();
        let stop_reading = StopReading(wake.clone());
        let (senders, queues) = self.start_senders(&topic, partitions, &wake);
        let close_gates = CloseGates(self.gates.iter().map(|(gate, _)| gate.clone()).collect());
        let inputs: Vec<_> = queues.iter().map(|(queue, _)| queue.clone()).collect();
        self.open_gates(&topic, &inputs).await?;
        let mut feeders = Tasks::default();
        match spool {
            Some(spool) => {
                feeders.set.spawn(self.feeder(spool, &topic, inputs).run(feeders.stop.clone()).boxed());
            }
            // A queue ends when the last of its inputs is gone: none may outlive the sources.
            None => drop(inputs),
        }
        let scanned_ms = self.last_alive_ms.unwrap_or_else(|| self.clock.now_ms());
        let scanned_ms = Arc::new(AtomicI64::new(scanned_ms));
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            sources: self.sources.clone(),
            receivers: self.receivers.clone(),
            scanned_ms: scanned_ms.clone(),
            metrics: self.metrics.clone(),
        };
        let (checkpoint_interval, limit) = (self.config.checkpoint_interval.0, self.config.shutdown_timeout.0);
        let probe =
            Probe { producer: self.producer.clone(), topic: topic.clone(), conditions: self.conditions.clone() };
        let reading = self.start_reading(topic, queues, wake, scanned_ms)?;
        let mut running = Running {
            sources,
            may_finish,
            close_gates,
            close_spool,
            feeders,
            reading,
            stop_reading,
            senders,
            checkpoint,
        };
        let reason = tokio::select! {
            reason = running.until_stop(checkpoint_interval, &cancel) => reason,
            never = probe.run() => match never {},
        };
        running.stop(reason, limit).await
    }

    /// Starts the thread that writes the spool. Returns where its feeder begins.
    fn start_spool(&mut self) -> Result<Option<SpoolStart>, AgentError> {
        let Some((spool, queue)) = self.spool.take() else { return Ok(None) };
        let start = SpoolStart {
            folder: spool.folder().to_owned(),
            old: spool.old.clone(),
            first_new: spool.first_new,
            end: spool.end(),
            space: spool.space.clone(),
        };
        std::thread::Builder::new()
            .name("agent-spool".to_owned())
            .spawn(move || spool.write(queue))
            .map_err(|source| AgentError::Thread { name: "agent-spool", source })?;
        Ok(Some(start))
    }

    /// Starts one sender for each partition.
    fn start_senders(&self, topic: &Arc<str>, partitions: i32, wake: &Wake) -> (Tasks, Vec<PartitionQueue>) {
        let config = &self.config;
        let context = Arc::new(DeliveryContext {
            producer: self.producer.clone(),
            state: self.state.clone(),
            clock: self.clock.clone(),
            budget: self.budget.clone(),
            wake: wake.clone(),
            metrics: self.metrics.clone(),
            batch_records: config.batch_records,
            retry_initial: config.retry_initial.0,
            retry_max: config.retry_max.0,
            dead_letter_topic: config.dead_letter_topic.as_str().into(),
            topic: WantedTopic::new(self.producer.clone(), topic.clone(), config.kafka.partitions, partitions),
            routed: RoutedTopics::new(config.kafka.partitions),
            conditions: self.conditions.clone(),
            taps: self.taps.clone(),
        });
        let batch_bytes = usize::try_from(config.batch_bytes.0).unwrap_or(usize::MAX);
        let behind_bytes = behind_bytes(config, partitions);
        let (mut senders, mut queues) = (Tasks::default(), Vec::new());
        for partition in 0..partitions {
            let (sender, queue) = mpsc::channel(config.queue_pieces);
            let flow = Flow::new(batch_bytes, behind_bytes);
            queues.push((sender, flow.clone()));
            let to = TopicPartition::new(topic.clone(), partition);
            let sender = PartitionSender::new(context.clone(), to, flow);
            senders.set.spawn(sender.run(queue, senders.stop.clone()).boxed());
        }
        (senders, queues)
    }

    fn feeder(&self, spool: SpoolStart, topic: &Arc<str>, queues: Vec<mpsc::Sender<QueuedBatches>>) -> Feeder {
        let SpoolStart { folder, old, first_new, end, space } = spool;
        Feeder {
            fs: RealFs::shared(),
            folder,
            first_new,
            old,
            end,
            space,
            budget: self.budget.clone(),
            state: self.state.clone(),
            metrics: self.metrics.clone(),
            taps: self.taps.clone(),
            receivers: self.receivers.clone(),
            topic: topic.clone(),
            queues,
            most: waiting_bytes(&self.config) / 4,
        }
    }

    /// Starts the thread that reads files.
    fn start_reading(
        self,
        topic: Arc<str>,
        queues: Vec<PartitionQueue>,
        wake: Wake,
        scanned_ms: Arc<AtomicI64>,
    ) -> Result<oneshot::Receiver<Result<(), AgentError>>, AgentError> {
        let config = &self.config;
        let read_bytes = usize::try_from(config.read_bytes.0).unwrap_or(256 << 10);
        let largest_window = self.files.iter().map(|file| file.cutter.min_window()).max().unwrap_or(0);
        let largest_window = largest_window.max(read_bytes) + TAIL_BYTES;
        let parts = ReaderParts {
            topic,
            queues,
            windows: Pool::new(largest_window, waiting_bytes(config)),
            wake,
            scan_interval: config.scan_interval.0,
            fingerprint: usize::try_from(config.fingerprint_bytes.0).unwrap_or(1024),
            read_bytes,
            rotated_wait: config.rotated_wait.0,
            deleted_wait: config.deleted_wait.0.max(config.rotated_wait.0),
            close_idle: config.close_idle.0,
            forget_after_ms: i64::try_from(config.forget_after.0.as_millis()).unwrap_or(i64::MAX),
            entries: self.files,
            state: self.state,
            sources: self.sources,
            budget: self.budget,
            clock: self.clock,
            metrics: self.metrics,
            conditions: self.conditions,
            taps: self.taps,
            last_alive_ms: self.last_alive_ms,
            scanned_ms,
        };
        let remembered = self.remembered;
        let (ended, reading) = oneshot::channel();
        std::thread::Builder::new()
            .name("agent-files".to_owned())
            .spawn(move || {
                let result = parts.restore(remembered).and_then(|()| Reader::new(parts)?.run());
                // Nobody listens only when the run itself was dropped.
                drop(ended.send(result));
            })
            .map_err(|source| AgentError::Thread { name: "agent-files", source })?;
        Ok(reading)
    }

    /// Lets sources that are not files hand in what they have, once their ids are durable.
    async fn open_gates(&self, topic: &Arc<str>, queues: &[mpsc::Sender<QueuedBatches>]) -> Result<(), AgentError> {
        if self.gates.is_empty() {
            return Ok(());
        }
        let receivers: Vec<Arc<Receiver>> = self.gates.iter().map(|(_, receiver)| receiver.clone()).collect();
        let (state, topic, count) = (self.state.clone(), topic.clone(), queues.len());
        let made = tokio::task::spawn_blocking(move || {
            let partitions = receivers.iter().map(|receiver| receiver.partitions(&topic, count, &state));
            let partitions = partitions.collect::<Result<Vec<_>, AgentError>>()?;
            state.sync().map(|()| partitions)
        });
        let made = made.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))?;
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        for ((gate, _), partitions) in self.gates.iter().zip(made) {
            let outlets = Outlets { queues: queues.to_vec(), partitions, turn: turn.clone() };
            gate.send_replace(Gate::Open(Arc::new(outlets)));
        }
        Ok(())
    }
}

/// Queue of a partition's sender, and how much may be in it.
type PartitionQueue = (mpsc::Sender<QueuedBatches>, Arc<Flow>);

/// Where feeding from the spool begins.
struct SpoolStart {
    folder: std::path::PathBuf,
    old: Vec<push::spool::SpoolEnd>,
    first_new: u64,
    end: watch::Receiver<push::spool::SpoolEnd>,
    space: Arc<MemoryBudget>,
}

/// The kernel's name of this host.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::clock::SystemClock;

    use super::*;

    /// Of the series that Grafana's dashboards ask for, none is missing before something was counted.
    #[tokio::test]
    async fn all_metrics_of_the_dashboards_are_there_from_the_start() {
        let config: AgentConfig = serde_json::from_str(
            r#"{"transforms": {"calm": {"type": "throttle", "limit": 1}, "noise": {"type": "drop", "match": "x"}},
                "sources": [{"type": "file", "include": ["/none/*.log"], "transforms": ["calm", "noise"]},
                            {"type": "http", "listen": "127.0.0.1:0", "name": "pushed"}]}"#,
        )
        .unwrap();
        let (folder, mut registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let producer = config.kafka.producer().unwrap();
        let agent = Agent::open(config, folder.path(), producer, SystemClock::shared(), &mut registry).unwrap();
        let mut exposed = String::new();
        prometheus_client::encoding::text::encode(&mut exposed, &registry).unwrap();
        let series = |line: &&str| !line.starts_with('#');
        let dashboards = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/grafana");
        let metric = regex::Regex::new(r"millrace_agent_[a-z_]+").unwrap();
        let mut asked = 0;
        for file in std::fs::read_dir(dashboards).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
            for name in metric.find_iter(&text) {
                asked += 1;
                let found = exposed.lines().filter(series).any(|line| line.starts_with(name.as_str()));
                assert!(found, "{} is not exposed:\n{exposed}", name.as_str());
            }
        }
        assert!(asked > 10, "the dashboards ask for metrics of the agent");
        for reason in ["cut", "dead_letter", "throttle", "drop"] {
            assert!(
                exposed.contains(&format!("millrace_agent_dropped_lines_total{{reason=\"{reason}\"}} 0")),
                "{exposed}"
            );
        }
        drop(agent);
    }
}
