//! One request to the log, and what its answer means for the records in it.
//!
//! In: encoded records of one partition. Out: which of them were taken, may be sent again, or are refused for good.
//! Touches the network through the producer.

use std::time::Duration;

use millrace_log::client::ClientError;
use millrace_log::native::encode::Records;
use millrace_log::record::TopicPartition;

use super::context::DeliveryContext;
use super::retry::Trouble;
use crate::batch::Flow;

/// An answer that takes longer is reported.
const SLOW: Duration = Duration::from_secs(15);

/// How a request ended.
pub(super) enum Sent {
    /// All records were taken.
    All,
    /// The records at these indices were not taken and may be sent again.
    Retry(Vec<usize>, ClientError),
    /// The records at these indices are refused for good.
    Refused(Vec<usize>, ClientError),
}

/// Sends records and waits for the answer, however long it takes.
pub(super) async fn send(context: &DeliveryContext, flow: &Flow, to: &TopicPartition, records: Records) -> Sent {
    let count = records.len();
    let answer = context.producer.send_encoded(to, records);
    tokio::pin!(answer);
    let (mut silent, began) = (None, tokio::time::Instant::now());
    let answer = loop {
        match tokio::time::timeout(SLOW, &mut answer).await {
            Ok(answer) => break answer,
            Err(_) => {
                silent.get_or_insert_with(|| Trouble::new(&context.conditions, to)).report("log does not answer");
                tracing::warn!(partition = %to, records = count, "log does not answer, the agent waits and stops reading: check that the broker runs and that `kafka.brokers` is right");
            }
        }
    };
    flow.answered(began.elapsed());
    let Err(error) = answer else { return Sent::All };
    let ClientError::Refused { failed, retriable, source, .. } = &error else {
        return Sent::Retry((0..count).collect(), error);
    };
    let known: Vec<usize> = failed.iter().copied().filter(|index| *index < count).collect();
    if known.is_empty() {
        return if failed.is_empty() { Sent::All } else { Sent::Retry((0..count).collect(), error) };
    }
    if *retriable || !source.blames_records() { Sent::Retry(known, error) } else { Sent::Refused(known, error) }
}
