//! One request to the log, and what its answer means for the records in it.
//!
//! In: encoded records of one partition. Out: which of them were taken, may be sent again, or are refused for good.
//! Touches the network through the producer.

use std::time::Duration;

use millrace_log::client::{ClientError, WireError};
use millrace_log::native::encode::Records;
use millrace_log::record::TopicPartition;

use super::context::DeliveryContext;
use super::retry::Trouble;
use crate::batch::Flow;

/// An answer that takes longer is reported, and logged as often.
const SLOW: Duration = Duration::from_secs(15);
/// Attempts that fail for so long are reported.
const FAILING: Duration = Duration::from_secs(5);

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
    let mut logged: Option<tokio::time::Instant> = None;
    let answer = loop {
        if let Ok(answer) = tokio::time::timeout(FAILING, &mut answer).await {
            break answer;
        }
        let error = context.producer.last_error(to);
        if error.is_none() && began.elapsed() < SLOW {
            continue;
        }
        let why = describe(error.as_ref());
        silent.get_or_insert_with(|| Trouble::new(&context.conditions, to)).report(&why);
        if logged.is_some_and(|at| at.elapsed() < SLOW) {
            continue;
        }
        logged = Some(tokio::time::Instant::now());
        match error.filter(WireError::is_answer) {
            Some(error) => {
                tracing::warn!(partition = %to, records = count, %error, "log refuses records, the agent waits and stops reading until it takes them");
            }
            None => {
                tracing::warn!(partition = %to, records = count, why, "log does not answer, the agent waits and stops reading: check that the broker runs and that `kafka.brokers` is right");
            }
        }
    };
    flow.answered(began.elapsed());
    let Err(error) = answer else {
        context.conditions.answered();
        return Sent::All;
    };
    let ClientError::Refused { failed, retriable, source, .. } = &error else {
        return Sent::Retry((0..count).collect(), error);
    };
    let known: Vec<usize> = failed.iter().copied().filter(|index| *index < count).collect();
    if known.is_empty() {
        return if failed.is_empty() { Sent::All } else { Sent::Retry((0..count).collect(), error) };
    }
    if *retriable || !source.blames_records() { Sent::Retry(known, error) } else { Sent::Refused(known, error) }
}

/// What is in the way of a request that is sent again.
fn describe(error: Option<&WireError>) -> String {
    match error {
        None => "log does not answer".to_owned(),
        Some(error) if error.is_answer() => format!("log refuses records: {error}"),
        Some(error) => format!("log does not answer: {error}"),
    }
}
