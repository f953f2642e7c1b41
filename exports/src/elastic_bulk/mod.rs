//! Feeds Elasticsearch or OpenSearch by `_bulk`: `create` with an id made of (source, position), so that a repeat
//! after a crash or a lost answer is no second document.
//!
//! In: records of the log. Out: documents `{@timestamp, message, labels, …}`; dead letters for those refused for good.
//! Touches the network. Leaves reading and committing to [`crate::feed`].

/// What a record becomes.
mod document;
/// Requests and answers.
mod server;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::client::{BatchProducer, Consumed};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{ConsumerStatus, Pause};
use millrace_log::outgoing::Outgoing;
use millrace_log::record::Decoder;
use tokio_util::sync::CancellationToken;

use crate::config::ElasticBulkConfig;
use crate::dead_letters::{DeadLetters, rest};
use crate::error::ExportError;
use crate::feed::{Export, Feed};
use crate::metrics::{ExportMetrics, ExportName};
use document::{Document, document, requests};
use server::{Outcome, SendFault, Server};

/// Name of this stage in dead letters.
const STAGE: &str = "export-elasticsearch";
/// Failed rounds of one batch after which the export counts as paused.
const PATIENT_ROUNDS: u32 = 2;

/// One export to one server.
pub struct ElasticBulk {
    config: ElasticBulkConfig,
    server: Server,
    dead_letters: DeadLetters,
    clock: SharedClock,
    metrics: ExportMetrics,
    name: ExportName,
    status: ConsumerStatus,
}

/// The newest version of each document that the server has, as its place in the batch.
type Newest = HashMap<(String, String), usize>;

/// What one round has left.
#[derive(Default)]
struct Round {
    again: Vec<Document>,
    refused: Vec<(usize, String)>,
    /// Why a request, or a document, is to be repeated.
    failure: Option<String>,
}

impl ElasticBulk {
    /// Reads secrets and makes the client. `dead_letters` writes to the log.
    pub fn new(
        config: ElasticBulkConfig,
        dead_letters: Arc<dyn BatchProducer>,
        clock: SharedClock,
        metrics: ExportMetrics,
        outgoing: &Outgoing,
    ) -> Result<Self, ExportError> {
        let server = Server::new(&config, outgoing)?;
        let name = ExportName { export: config.name.clone() };
        metrics.show(&name);
        let status = metrics.status(&name);
        let dead_letters = DeadLetters {
            producer: dead_letters,
            topic: config.kafka.dead_letter_topic.clone(),
            stage: STAGE,
            clock: Arc::clone(&clock),
            backoff: (config.min_backoff.0, config.max_backoff.0),
        };
        Ok(Self { config, server, dead_letters, clock, metrics, name, status })
    }

    /// How it is: shared, as it is at any moment.
    pub fn status(&self) -> ConsumerStatus {
        self.status.clone()
    }

    /// Exports until the token is cancelled; then delivers what it has begun, and ends.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self, token: CancellationToken) -> BoxFuture<'static, Result<(), ExportError>> {
        self.deliver_until(token).boxed()
    }

    async fn deliver_until(self, token: CancellationToken) -> Result<(), ExportError> {
        let feed = Feed {
            config: self.config.kafka.clone(),
            status: self.status(),
            clock: Arc::clone(&self.clock),
            backoff: (self.config.min_backoff.0, self.config.max_backoff.0),
        };
        let ended = feed.run(&self, &token).await;
        ended.map_err(|source| ExportError::Log { name: self.name.export.clone(), source })
    }

    /// The server refuses the login, or takes it again.
    fn login_refused(&self, reason: Option<&str>) {
        let gauge = self.metrics.login_refused.get_or_create(&self.name);
        gauge.set(i64::from(reason.is_some()));
        match reason {
            Some(reason) => {
                let set = "set `username` and `password`, or `api_key`; nothing is lost meanwhile";
                self.status.pause(Pause::Login, &format!("the login is refused ({reason}): {set}"));
            }
            None => self.status.resume(Pause::Login),
        }
    }

    fn stored(&self, records: u64) {
        self.metrics.stored_records.get_or_create(&self.name).inc_by(records);
        self.status.settled(records, &[]);
    }

    fn duplicate(&self, records: u64) {
        self.metrics.duplicate_records.get_or_create(&self.name).inc_by(records);
        self.status.settled(0, &[("duplicate", records)]);
    }

    /// Sends documents once, in requests of a bounded size.
    async fn round(&self, waiting: Vec<Document>, newest: &mut Newest) -> Round {
        let mut round = Round::default();
        let mut requests = VecDeque::from(requests(waiting, self.config.max_request.0));
        while let Some(mut request) = requests.pop_front() {
            let outcomes = match self.server.send(&request).await {
                Ok(outcomes) => outcomes,
                Err(SendFault::TooLarge(_)) if request.len() > 1 => {
                    let second = request.split_off(request.len() / 2);
                    requests.push_front(second);
                    requests.push_front(request);
                    continue;
                }
                Err(SendFault::TooLarge(reason)) => {
                    round.refused.extend(request.into_iter().map(|document| (document.index, reason.clone())));
                    continue;
                }
                Err(SendFault::Login(reason)) => {
                    self.login_refused(Some(&reason));
                    round.again.extend(request);
                    // The others would fare no better.
                    round.again.extend(requests.drain(..).flatten());
                    break;
                }
                Err(SendFault::Other(reason)) => {
                    round.failure.get_or_insert(reason);
                    round.again.extend(request);
                    continue;
                }
            };
            self.login_refused(None);
            // Counted once for a request: the counters are shared with others.
            let (mut stored, mut duplicates) = (0, 0);
            for (document, outcome) in request.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Stored => {
                        stored += 1;
                        if let Some(key) = document.key {
                            let newest = newest.entry(key).or_default();
                            *newest = document.index.max(*newest);
                        }
                    }
                    Outcome::Duplicate => duplicates += 1,
                    Outcome::Again(reason) => {
                        round.failure.get_or_insert(reason);
                        round.again.push(document);
                    }
                    Outcome::Refused(reason) => round.refused.push((document.index, reason)),
                }
            }
            self.stored(stored);
            self.duplicate(duplicates);
        }
        // A version that is to be repeated and is older than what the server has by now would take its place.
        let before = round.again.len();
        round.again.retain(|document| {
            document.key.as_ref().and_then(|key| newest.get(key)).is_none_or(|stored| *stored < document.index)
        });
        self.duplicate((before - round.again.len()) as u64);
        round
    }
}

#[async_trait::async_trait]
impl Export for ElasticBulk {
    async fn deliver(&self, batch: &[Consumed], token: &CancellationToken) -> bool {
        self.metrics.read_records.get_or_create(&self.name).inc_by(batch.len() as u64);
        let gauge = self.metrics.waiting_records.get_or_create(&self.name).clone();
        gauge.set(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        let mut decoder = Decoder::default();
        let mut refused: Vec<(usize, String)> = Vec::new();
        let mut waiting: Vec<Document> = Vec::with_capacity(batch.len());
        for (index, one) in batch.iter().enumerate() {
            if let Some(reason) = &one.unreadable {
                refused.push((index, reason.to_string()));
                continue;
            }
            match decoder.decode(&one.record) {
                Ok(event) => {
                    let key = event.doc.as_ref().map(|doc| (doc.index.clone(), doc.id.clone()));
                    waiting.push(Document { index, key, body: document(&event, &self.config.index) });
                }
                Err(error) => refused.push((index, error.to_string())),
            }
        }
        let mut backoff = self.config.min_backoff.0;
        let mut newest = Newest::new();
        let mut rounds = 0;
        while !waiting.is_empty() {
            let round = self.round(waiting, &mut newest).await;
            refused.extend(round.refused);
            waiting = round.again;
            if let Some(reason) = round.failure {
                rounds += 1;
                let url = self.server.url();
                tracing::debug!(export = self.name.export, url, reason, retry_in = ?backoff, "delivery failed");
                if rounds >= PATIENT_ROUNDS {
                    self.status.pause(Pause::Target, &format!("delivery to {url} fails and is repeated: {reason}"));
                }
            }
            if !waiting.is_empty() {
                self.metrics.retried_requests.get_or_create(&self.name).inc();
                if !rest(backoff, token).await {
                    return false;
                }
                backoff = (backoff * 2).min(self.config.max_backoff.0);
            }
        }
        self.status.resume(Pause::Target);
        let letters = refused.len() as u64;
        if !self.dead_letters.write(batch, refused, &self.status, token).await {
            return false;
        }
        self.metrics.dead_letter_records.get_or_create(&self.name).inc_by(letters);
        self.status.settled(0, &[("dead letter", letters)]);
        gauge.set(0);
        true
    }
}

#[cfg(test)]
mod tests;
