//! What others ask of the thread that reads: commit what has become durable, say where the log ends, end.
//!
//! In: positions from whoever writes the output; questions. Out: the same to the loop; how far delivery is, to those who wait.
//! Touches nothing. Positions that wait for the loop replace each other, so nothing grows with time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use crate::client::ClientError;
use crate::record::TopicPartition;

/// Where each partition ends; 0 if it is empty.
pub type Ends = Vec<(TopicPartition, i64)>;

/// Why nobody says where the log ends.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The thread has ended, or too many wait.
    #[error("the consumer is busy or has ended")]
    Busy,
    /// The log.
    #[error(transparent)]
    Log(#[from] ClientError),
}

/// How long whoever asks how far behind the consumer is waits for the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer so young serves the next who asks too: each one asks the log about every partition, on the thread that
/// reads.
const FRESH: Duration = Duration::from_secs(2);
/// Questions that may wait.
const QUESTIONS: usize = 256;

/// A question for where the log ends.
pub(super) type Question = oneshot::Sender<Result<Ends, ClientError>>;

/// Durable positions with the generation in which they were read.
pub(super) type Durable = (u64, BTreeMap<TopicPartition, i64>);

/// What the loop finds when it looks.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub stored: Option<Durable>,
    pub questions: Vec<Question>,
    pub stop: bool,
}

impl Requests {
    fn is_empty(&self) -> bool {
        self.stored.is_none() && self.questions.is_empty() && !self.stop
    }
}

#[derive(Debug, Default)]
struct Inbox {
    requests: Requests,
    has_ended: bool,
}

#[derive(Debug)]
struct Inner {
    inbox: Mutex<Inbox>,
    filled: Condvar,
    reached: watch::Sender<HashMap<TopicPartition, i64>>,
    /// What was last answered, and when.
    ends: Mutex<Option<(Instant, Ends)>>,
}

/// The way to one consumer's thread; clones lead to the same.
#[derive(Debug, Clone)]
pub struct Control(Arc<Inner>);

impl Default for Control {
    fn default() -> Self {
        Self(Arc::new(Inner {
            inbox: Mutex::default(),
            filled: Condvar::new(),
            reached: watch::channel(HashMap::new()).0,
            ends: Mutex::default(),
        }))
    }
}

impl Control {
    /// The output before these offsets is durable: the loop commits them.
    pub fn stored(&self, generation: u64, next: impl IntoIterator<Item = (TopicPartition, i64)>) {
        let mut inbox = self.0.inbox.lock();
        match &mut inbox.requests.stored {
            Some((of, all)) if *of == generation => all.extend(next),
            stored => *stored = Some((generation, next.into_iter().collect())),
        }
        self.0.filled.notify_one();
    }

    /// Whoever waits for the records before these offsets need not wait longer.
    pub fn reached(&self, next: impl IntoIterator<Item = (TopicPartition, i64)>) {
        self.0.reached.send_modify(|all| all.extend(next));
    }

    /// Next offset of each partition to be delivered.
    pub fn positions(&self) -> HashMap<TopicPartition, i64> {
        self.0.reached.borrow().clone()
    }

    pub(super) fn position(&self, of: &TopicPartition) -> Option<i64> {
        self.0.reached.borrow().get(of).copied()
    }

    /// Ends the thread, after it has committed what it was told before.
    pub fn stop(&self) {
        self.0.inbox.lock().requests.stop = true;
        self.0.filled.notify_one();
    }

    /// Where each partition ends now.
    pub async fn ends(&self) -> Result<Ends, ControlError> {
        let answer = {
            let mut inbox = self.0.inbox.lock();
            if inbox.has_ended || inbox.requests.questions.len() >= QUESTIONS {
                return Err(ControlError::Busy);
            }
            let (ask, answer) = oneshot::channel();
            inbox.requests.questions.push(ask);
            self.0.filled.notify_one();
            answer
        };
        let ends = answer.await.map_err(|_| ControlError::Busy)??;
        *self.0.ends.lock() = Some((Instant::now(), ends.clone()));
        Ok(ends)
    }

    /// Records in the log that are not delivered yet, as of a moment ago. While the thread is at work elsewhere: as of the
    /// last answer.
    pub async fn behind(&self) -> Result<u64, ControlError> {
        let known = self.0.ends.lock().clone();
        let ends = match known {
            Some((at, ends)) if at.elapsed() < FRESH => ends,
            known => match tokio::time::timeout(PATIENCE, self.ends()).await {
                Ok(ends) => ends?,
                Err(_) => known.ok_or(ControlError::Busy)?.1,
            },
        };
        let reached = self.positions();
        let left = |(tp, end): (TopicPartition, i64)| {
            let next = reached.get(&tp).copied().unwrap_or(0);
            u64::try_from(end - next).unwrap_or(0)
        };
        Ok(ends.into_iter().map(left).sum())
    }

    /// Waits until everything that was in the log at the moment of the call is delivered.
    pub async fn caught_up(&self) -> Result<(), ControlError> {
        let wanted = self.ends().await?;
        let mut reached = self.0.reached.subscribe();
        let all = |now: &HashMap<TopicPartition, i64>| {
            wanted.iter().all(|(tp, end)| *end == 0 || now.get(tp).is_some_and(|next| next >= end))
        };
        reached.wait_for(all).await.map(|_| ()).map_err(|_| ControlError::Busy)
    }

    /// What has come since the last look.
    pub(super) fn take(&self) -> Requests {
        std::mem::take(&mut self.0.inbox.lock().requests)
    }

    /// Waits until there is something to take.
    pub(super) fn wait(&self, at_most: Duration) {
        let mut inbox = self.0.inbox.lock();
        if inbox.requests.is_empty() {
            self.0.filled.wait_for(&mut inbox, at_most);
        }
    }

    /// Answers those who ask where the log ends. If it does not say, one gets the reason, the others may ask again.
    pub(super) fn answer(&self, questions: Vec<Question>, ends: Result<Ends, ClientError>) {
        let mut questions = questions.into_iter();
        let first = questions.next();
        if let Ok(ends) = &ends {
            // Whoever asked may have gone.
            questions.for_each(|question| drop(question.send(Ok(ends.clone()))));
        }
        first.map(|question| question.send(ends));
    }

    /// Whether nobody is left who could ask for anything, or stop the thread.
    pub(super) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// A session begins.
    pub(super) fn begin(&self) {
        let mut inbox = self.0.inbox.lock();
        inbox.has_ended = false;
        inbox.requests.stop = false;
        inbox.requests.stored = None;
    }

    /// Nobody answers from now on.
    pub(super) fn ended(&self) {
        let mut inbox = self.0.inbox.lock();
        inbox.has_ended = true;
        inbox.requests.questions.clear();
    }
}
