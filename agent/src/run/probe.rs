//! Asks whether the log is there while nothing is sent: an agent that is idle would otherwise call itself ready as long as
//! nothing is written.
//!
//! In: the producer, when the log last answered. Out: the agent's condition. Touches the network through the producer:
//! one small request in [`EVERY`] at most.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::causes::chain;
use millrace_log::client::BatchProducer;
use tokio::time::timeout;

use crate::condition::Conditions;

/// An answer to what was sent makes a question unnecessary for so long.
const EVERY: Duration = Duration::from_secs(15);
/// The same once the log does not answer.
const AGAIN: Duration = Duration::from_secs(3);
/// An answer that takes longer is none.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks for as long as it is polled.
pub struct Probe {
    pub producer: Arc<dyn BatchProducer>,
    pub topic: Arc<str>,
    pub conditions: Conditions,
}

impl Probe {
    /// Never ends by itself.
    pub async fn run(self) -> Infallible {
        let mut is_down = false;
        loop {
            let wait = if is_down { AGAIN } else { EVERY };
            tokio::time::sleep(wait).await;
            let answer = match self.conditions.has_answered_within(wait) {
                true => Ok(()),
                false => self.ask().await,
            };
            match answer {
                Ok(()) => {
                    if is_down {
                        tracing::info!(topic = &*self.topic, "log answers again");
                        self.conditions.trouble(&self.topic, None);
                    }
                    is_down = false;
                }
                Err(why) => {
                    if !is_down {
                        tracing::warn!(topic = &*self.topic, why, "log does not answer, nothing waits to be sent yet");
                    }
                    is_down = true;
                    self.conditions.trouble(&self.topic, Some(format!("log does not answer: {why}")));
                }
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        match timeout(ANSWER, self.producer.probe(&self.topic)).await {
            Ok(Ok(())) => {
                self.conditions.answered();
                Ok(())
            }
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use millrace_log::client::ClientError;
    use millrace_log::record::{Record, TopicPartition};

    use super::*;
    use crate::metrics::AgentMetrics;

    const THERE: u8 = 0;
    const REFUSES: u8 = 1;
    const SILENT: u8 = 2;

    #[derive(Default)]
    struct Log {
        mood: AtomicU8,
        asked: AtomicU64,
    }

    #[async_trait::async_trait]
    impl BatchProducer for Log {
        async fn send(&self, _: &TopicPartition, _: Vec<Record>) -> Result<i64, ClientError> {
            Ok(0)
        }

        async fn ensure_topic(&self, _: &str, partitions: i32) -> Result<i32, ClientError> {
            Ok(partitions)
        }

        async fn probe(&self, topic: &str) -> Result<(), ClientError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.mood.load(Ordering::SeqCst) {
                THERE => Ok(()),
                REFUSES => Err(ClientError::Topic { topic: topic.to_owned(), reason: "connection refused".to_owned() }),
                _ => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_agent_notices_that_the_log_is_gone_and_that_it_is_back() {
        let (log, metrics) = (Arc::new(Log::default()), AgentMetrics::default());
        let conditions = Conditions::new(&metrics, 100);
        let probe = Probe { producer: log.clone(), topic: "logs".into(), conditions: conditions.clone() };
        conditions.reach();
        let check = async {
            let second = Duration::from_secs(1);
            // What is sent answers the question.
            for _ in 0..60 {
                conditions.answered();
                tokio::time::sleep(second).await;
            }
            assert_eq!((log.asked.load(Ordering::SeqCst), conditions.ready()), (0, Ok(())));
            for (mood, within, want, gauge) in [
                (THERE, 31, None, 1),
                (REFUSES, 16, Some("connection refused"), 0),
                (THERE, 4, None, 1),
                (SILENT, 26, Some("no answer within 10 s"), 0),
                (SILENT, 60, Some("no answer within 10 s"), 0),
                (THERE, 14, None, 1),
            ] {
                log.mood.store(mood, Ordering::SeqCst);
                tokio::time::sleep(second * within).await;
                let found = conditions.ready().err();
                let is_right = match (&found, want) {
                    (None, None) => true,
                    (Some(found), Some(want)) => {
                        found.starts_with("logs: log does not answer: ") && found.contains(want)
                    }
                    _ => false,
                };
                assert!(is_right, "{mood} {within} {found:?}");
                assert_eq!(metrics.log_ready.get(), gauge, "{mood} {within}");
            }
            // What is sent and answered ends the trouble, too.
            log.mood.store(REFUSES, Ordering::SeqCst);
            tokio::time::sleep(second * 16).await;
            assert!(conditions.ready().is_err());
            conditions.answered();
            tokio::time::sleep(second * 4).await;
            assert_eq!(conditions.ready(), Ok(()));
        };
        tokio::select! {
            () = check => {}
            never = probe.run() => match never {},
        }
    }
}
