//! Audit events on their way to the log: a bounded queue, and what writes it to a topic.
//!
//! In: [`AuditEvent`]s of the endpoints, of reloads and of commands. Out: one line each in the process log, one JSON record
//! each in the topic, which is created with its retention when it is missing. Touches the network and the clock.
//!
//! A record's value is a JSON object with the fields of [`Shape`], all of them always there; its headers are those of every
//! event, so that the index can read the topic. The tenant is [`AUDIT_TENANT`], which only administrators may ask for. Events
//! stay in the queue until the log has acknowledged them: they survive a reload, and are written again after an error. What
//! does not get to the log is counted by its reason.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use millrace_doors::access::config::AuditConfig;
use millrace_doors::access::{Audit, AuditEvent};
use millrace_doors::tenant::AUDIT_TENANT;
use millrace_log::admin::{Admin, AdminError, NewTopic};
use millrace_log::client::{BatchProducer, ClientError, ConnectionConfig, WireProducer};
use millrace_log::clock::SharedClock;
use millrace_log::record::{Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events that wait for the log at most.
const MAX_WAITING: usize = 4096;
/// Of these, at most so many of a kind that anybody can cause.
const MAX_CHEAP: usize = MAX_WAITING / 2;
/// Such events in a second, after as many at once: more are counted only.
const CHEAP_PER_SECOND: u32 = 50;
/// Events in one write.
const MAX_BATCH: usize = 500;
/// How long a write is tried before it is reported.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// What the last events get at the stop.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Time between warnings of lost events.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Waits after failures.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Name of the counter of events (`_total` is added).
const EVENTS: &str = "millrace_audit_events";
/// Name of the counter of events that are not in the topic (`_total` is added).
const LOST: &str = "millrace_audit_lost_events";

/// The value of a record.
#[derive(Debug, Serialize)]
struct Shape<'e> {
    /// RFC 3339, UTC, with milliseconds.
    time: String,
    event: &'static str,
    user: &'e str,
    address: Option<IpAddr>,
    listener: &'e str,
    tenant: &'e str,
    detail: &'e str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// Reasons for which events are not in the topic.
const REASONS: [&str; 4] = [FULL, RATE, REFUSED, STOPPED];
const FULL: &str = "queue_full";
const RATE: &str = "rate";
const REFUSED: &str = "refused";
const STOPPED: &str = "stopped";

#[derive(Default)]
struct State {
    /// With the time of each, ns since 1970, and its number in this process.
    waiting: VecDeque<(i64, u64, AuditEvent)>,
    cheap: usize,
    next: u64,
    /// Whether events go to a topic.
    is_written: bool,
    /// When the rate was looked at, and what is left of it.
    rate: Option<(Instant, f64)>,
    /// Lost since the last warning, and when that was.
    unreported: usize,
    warned: Option<Instant>,
}

struct Shared {
    state: Mutex<State>,
    more: Notify,
    clock: SharedClock,
    /// The events of this process as a source of their own.
    source: SourceId,
    events: Family<Kind, Counter>,
    lost: Family<Why, Counter>,
}

/// Events that wait for the log. Cheap to clone; survives restarts of what writes it.
#[derive(Clone)]
pub struct AuditQueue(Arc<Shared>);

impl AuditQueue {
    /// Without any event. Until [`Self::written`] says otherwise, events go to a topic.
    pub fn new(clock: SharedClock) -> Self {
        let lost = Family::<Why, Counter>::default();
        for reason in REASONS {
            drop(lost.get_or_create(&Why { reason }));
        }
        let state = Mutex::new(State { is_written: true, ..State::default() });
        let (more, events, source) = (Notify::new(), Family::default(), SourceId::random());
        Self(Arc::new(Shared { state, more, clock, source, events, lost }))
    }

    /// Its metrics.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        registry.register(EVENTS, "Audit events", self.0.events.clone());
        registry.register(LOST, "Audit events that were not written to the audit topic", self.0.lost.clone());
        registry
    }

    /// Whether events are to be written to a topic, or only to the process log.
    pub fn written(&self, is_written: bool) {
        let mut state = self.0.state.lock();
        state.is_written = is_written;
        if !is_written {
            state.waiting.clear();
            state.cheap = 0;
        }
    }

    /// Ends the queue: what still waits is lost for the topic.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        let count = state.waiting.len();
        state.waiting.clear();
        state.warned = None;
        self.lose(&mut state, STOPPED, count);
    }

    /// Counts events that are not in the topic; a warning now and then says how many.
    fn lose(&self, state: &mut State, reason: &'static str, count: usize) {
        self.0.lost.get_or_create(&Why { reason }).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        state.unreported += count;
        let is_time = state.warned.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if state.unreported > 0 && is_time {
            let count = std::mem::take(&mut state.unreported);
            state.warned = Some(Instant::now());
            tracing::warn!(count, reason, "audit events were not written to the audit topic");
        }
    }

    /// The oldest events as records.
    fn batch(&self) -> Vec<Record> {
        // Encoded without the lock: requests wait for it.
        let oldest: Vec<_> = self.0.state.lock().waiting.iter().take(MAX_BATCH).cloned().collect();
        oldest.iter().map(|(time_ns, number, event)| record(event, *time_ns, self.0.source, *number)).collect()
    }

    /// The oldest events are done with.
    fn done(&self, count: usize) {
        let mut state = self.0.state.lock();
        let count = count.min(state.waiting.len());
        let cheap = state.waiting.drain(..count).filter(|(.., event)| event.is_cheap()).count();
        state.cheap = state.cheap.saturating_sub(cheap);
    }
}

impl State {
    /// Whether there is room for an event, else why not.
    fn admit(&mut self, event: &AuditEvent) -> Result<(), &'static str> {
        if event.is_cheap() {
            let now = Instant::now();
            let (before, left) = self.rate.unwrap_or((now, f64::from(CHEAP_PER_SECOND)));
            let gained = now.duration_since(before).as_secs_f64() * f64::from(CHEAP_PER_SECOND);
            let left = (left + gained).min(f64::from(CHEAP_PER_SECOND));
            self.rate = Some((now, if left < 1.0 { left } else { left - 1.0 }));
            if left < 1.0 {
                return Err(RATE);
            }
            if self.is_written && self.cheap >= MAX_CHEAP {
                return Err(FULL);
            }
        }
        if self.is_written && self.waiting.len() >= MAX_WAITING { Err(FULL) } else { Ok(()) }
    }
}

impl Audit for AuditQueue {
    fn note(&self, event: AuditEvent) {
        self.0.events.get_or_create(&Kind { event: event.event }).inc();
        let mut state = self.0.state.lock();
        let admitted = state.admit(&event);
        if admitted != Err(RATE) {
            let AuditEvent { event, user, address, listener, tenant, detail } = &event;
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::info!(target: "millrace::audit", event, user, address, listener, tenant, detail, "audit");
        }
        match admitted {
            Err(reason) => self.lose(&mut state, reason, 1),
            Ok(()) if !state.is_written => {}
            Ok(()) => {
                let number = state.next;
                state.next += 1;
                state.cheap += usize::from(event.is_cheap());
                state.waiting.push_back((self.0.clock.now_ns(), number, event));
                drop(state);
                self.0.more.notify_one();
            }
        }
    }
}

fn record(event: &AuditEvent, time_ns: i64, source: SourceId, number: u64) -> Record {
    let time = DateTime::from_timestamp_nanos(time_ns).to_rfc3339_opts(SecondsFormat::Millis, true);
    let AuditEvent { event, user, address, listener, tenant, detail } = event;
    let shape = Shape { time, event, user, address: *address, listener, tenant, detail };
    let line = serde_json::to_vec(&shape).unwrap_or_default();
    let event = Event {
        tenant: Tenant::new(AUDIT_TENANT).unwrap_or_default(),
        time_ns,
        labels: Labels::new([("service", "millrace"), ("kind", "audit")]),
        metadata: Labels::default(),
        line: line.into(),
        source,
        position: Position::at(number),
        doc: None,
        cut: false,
        time_from_line: true,
    };
    encode(&event, time_ns.div_euclid(1_000_000))
}

/// Writes the events of a queue to the topic.
pub struct AuditWriter {
    queue: AuditQueue,
    config: AuditConfig,
    connection: ConnectionConfig,
    producer: Arc<dyn BatchProducer>,
}

/// Why events could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Topic(#[from] AdminError),
    #[error(transparent)]
    Log(#[from] ClientError),
    #[error("log does not answer within {} s", WRITE_LIMIT.as_secs())]
    Slow,
}

impl AuditWriter {
    /// To the log that a connection leads to.
    pub fn new(queue: AuditQueue, config: AuditConfig, connection: ConnectionConfig) -> Result<Self, ClientError> {
        let producer = Arc::new(WireProducer::new(&connection, Some(WRITE_LIMIT))?);
        Ok(Self { queue, config, connection, producer })
    }

    /// Writes until the token is cancelled, then what is left, for a moment.
    pub async fn run(self, token: CancellationToken) {
        let mut has_topic = false;
        let mut wait = BACKOFF.0;
        while !token.is_cancelled() {
            let batch = self.queue.batch();
            if batch.is_empty() {
                tokio::select! {
                    () = self.queue.0.more.notified() => {}
                    () = token.cancelled() => {}
                }
                continue;
            }
            let Err(error) = self.write(batch, &mut has_topic).await else {
                wait = BACKOFF.0;
                continue;
            };
            let error = millrace_log::causes::chain(&error);
            tracing::warn!(topic = self.config.topic, error, retry_in = ?wait, "audit events can't be written: retrying");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = token.cancelled() => {}
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
        let rest = async {
            loop {
                let batch = self.queue.batch();
                if batch.is_empty() || self.write(batch, &mut has_topic).await.is_err() {
                    return;
                }
            }
        };
        // What is not written then stays in the queue, for a successor or to be counted.
        if tokio::time::timeout(STOP_LIMIT, rest).await.is_err() {
            tracing::debug!("audit events wait still");
        }
    }

    /// Writes everything that waits now, and ends: for commands.
    pub async fn write_once(self) -> Result<(), anyhow::Error> {
        self.write(self.queue.batch(), &mut false).await?;
        Ok(())
    }

    async fn write(&self, batch: Vec<Record>, has_topic: &mut bool) -> Result<(), WriteError> {
        let count = batch.len();
        if !*has_topic {
            tokio::time::timeout(WRITE_LIMIT, self.create()).await.map_err(|_| WriteError::Slow)??;
            *has_topic = true;
        }
        let to = TopicPartition::new(self.config.topic.as_str(), 0);
        match self.producer.send(&to, batch).await {
            Ok(_) => {}
            Err(ClientError::Refused { failed, retriable: false, .. }) => {
                let mut state = self.queue.0.state.lock();
                self.queue.lose(&mut state, REFUSED, failed.len());
            }
            Err(error) => {
                *has_topic &= !error.is_topic_missing();
                return Err(error.into());
            }
        }
        self.queue.done(count);
        Ok(())
    }

    /// Creates the topic with its retention, unless it is there.
    async fn create(&self) -> Result<(), AdminError> {
        let mut admin = Admin::connect(&self.connection).await?;
        match admin.topic(&self.config.topic).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_topic_missing() => {}
            Err(error) => return Err(error),
        }
        let retention = self.config.retention.0.as_millis().to_string();
        let settings = [("retention.ms", retention.as_str()), ("retention.bytes", "-1"), ("cleanup.policy", "delete")];
        let new = NewTopic {
            name: self.config.topic.clone(),
            partitions: 1,
            replication: -1,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        match admin.create_topic(&new, false).await {
            Err(error) if !error.is_topic_there() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::clock::SystemClock;

    use super::*;

    fn event(event: &'static str) -> AuditEvent {
        AuditEvent { event, user: "alice".to_owned(), ..AuditEvent::default() }
    }

    fn lost(queue: &AuditQueue) -> [u64; 4] {
        REASONS.map(|reason| queue.0.lost.get_or_create(&Why { reason }).get())
    }

    #[tokio::test(start_paused = true)]
    async fn floods_leave_room_for_what_is_rare_and_losses_are_counted() {
        let queue = AuditQueue::new(SystemClock::shared());
        let many = |kind: &'static str, count: usize| (0..count).for_each(|_| queue.note(event(kind)));
        let rate = CHEAP_PER_SECOND as usize;
        many(AuditEvent::LOGIN_FAILED, rate + 7);
        assert_eq!((queue.0.state.lock().waiting.len(), lost(&queue)), (rate, [0, 7, 0, 0]));
        for _ in 0..MAX_CHEAP / rate {
            tokio::time::advance(Duration::from_secs(1)).await;
            many(AuditEvent::ACCESS_DENIED, rate);
        }
        let full = (MAX_CHEAP / rate + 1) * rate - MAX_CHEAP;
        assert_eq!((queue.0.state.lock().waiting.len(), lost(&queue)), (MAX_CHEAP, [full as u64, 7, 0, 0]));
        many(AuditEvent::DELETE, MAX_WAITING - MAX_CHEAP + 1);
        assert_eq!(lost(&queue), [full as u64 + 1, 7, 0, 0]);

        assert_eq!(queue.batch().len(), MAX_BATCH);
        queue.done(MAX_WAITING - 10);
        assert_eq!((queue.batch().len(), queue.0.state.lock().cheap), (10, 0));
        queue.close();
        assert_eq!(lost(&queue), [full as u64 + 1, 7, 0, 10]);
        queue.written(false);
        many(AuditEvent::DELETE, 1);
        assert!(queue.batch().is_empty() && lost(&queue)[0] == full as u64 + 1, "without a topic nothing is lost");
    }

    #[test]
    fn records_have_every_field_and_the_tenant_of_audit_events() {
        let event = AuditEvent {
            address: "10.0.0.7".parse().ok(),
            listener: "Loki API".to_owned(),
            tenant: "pay".to_owned(),
            detail: "a \u{1b}[31m".to_owned(),
            ..event(AuditEvent::LOGIN)
        };
        let record = record(&event, 1_500_000_000, SourceId([1; 16]), 3);
        let want = r#"{"time":"1970-01-01T00:00:01.500Z","event":"login","user":"alice","address":"10.0.0.7","listener":"Loki API","tenant":"pay","detail":"a \u001b[31m"}"#;
        assert_eq!(record.value.as_deref(), Some(want.as_bytes()));
        let read = millrace_log::record::Decoder::default().decode(&record).unwrap();
        assert_eq!((read.tenant.as_str(), read.position, read.time_ns), (AUDIT_TENANT, Position::at(3), 1_500_000_000));
    }

    #[tokio::test]
    async fn events_wait_while_the_log_is_away_and_are_counted_at_the_end() {
        let queue = AuditQueue::new(SystemClock::shared());
        queue.note(event(AuditEvent::RELOAD));
        let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connection = ConnectionConfig { brokers: vec![away.to_string()], ..ConnectionConfig::default() };
        let writer = AuditWriter::new(queue.clone(), AuditConfig::default(), connection).unwrap();
        let token = CancellationToken::new();
        token.cancel();
        writer.run(token).await;
        assert_eq!((queue.batch().len(), lost(&queue)), (1, [0; 4]), "kept for the successor");
        queue.close();
        assert_eq!(lost(&queue), [0, 0, 0, 1]);
    }
}
