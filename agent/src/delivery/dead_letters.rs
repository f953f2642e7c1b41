//! Dead letters: records that a transform failed on, or that the log refuses for good.
//!
//! In: records wrapped with their reason ([`millrace_log::dead_letter`]). Out: nothing before all of them are in the
//! dead-letter topic. Touches the network through the producer.

use std::collections::VecDeque;

use millrace_log::dead_letter::HEADER_CUT;
use millrace_log::native::encode::Records;
use millrace_log::record::{Record, TopicPartition};

use super::context::DeliveryContext;
use super::request::{Sent, send};
use super::retry::Backoff;
use crate::batch::Flow;

/// Values up to this are not cut when even the dead-letter topic refuses them.
const MIN_CUT_BYTES: usize = 1024;

/// Sends wrapped records to the dead-letter topic, which is created if it does not exist; retries until all are there.
pub(super) async fn send_to_dead_letters(context: &DeliveryContext, flow: &Flow, records: Vec<Record>) {
    let to = TopicPartition::new(context.dead_letter_topic.clone(), 0);
    let mut backoff = Backoff::new(context);
    let mut groups = VecDeque::from([records]);
    let mut topic_exists = false;
    while let Some(mut group) = groups.pop_front() {
        if group.is_empty() {
            continue;
        }
        let error = match topic_exists {
            true => None,
            false => context.producer.ensure_topic(&to.topic, 1).await.err(),
        };
        topic_exists = error.is_none();
        let error = match error {
            Some(error) => error,
            None => match send(context, flow, &to, Records::from_records(&group)).await {
                Sent::All => {
                    backoff.reset(&to);
                    continue;
                }
                Sent::Retry(failed, error) => {
                    retain(&mut group, &failed);
                    topic_exists = false;
                    error
                }
                Sent::Refused(failed, error) => {
                    retain(&mut group, &failed);
                    let [record] = &mut group[..] else {
                        // One of them spoils the request for all: find out which.
                        group.into_iter().rev().for_each(|record| groups.push_front(vec![record]));
                        continue;
                    };
                    // Too large even for the dead letters: its beginning is better than nothing.
                    if halve(record) {
                        groups.push_front(group);
                        continue;
                    }
                    error
                }
            },
        };
        groups.push_front(group);
        context.metrics.retries.inc();
        backoff.wait(&to, &error).await;
    }
}

/// Keeps the records at these indices.
fn retain(group: &mut Vec<Record>, indices: &[usize]) {
    let mut at = 0..;
    group.retain(|_| at.next().is_some_and(|index| indices.contains(&index)));
}

/// Cuts a value to its first half; `false` if it is short already.
fn halve(record: &mut Record) -> bool {
    let Some(value) = record.value.as_mut().filter(|value| value.len() > MIN_CUT_BYTES) else { return false };
    let len = value.len();
    value.truncate(len / 2);
    if !record.headers.iter().any(|(name, _)| name == HEADER_CUT) {
        record.headers.push((HEADER_CUT.into(), len.to_string().into()));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_cut_says_how_long_it_was_in_the_header_that_replays_look_for() {
        let mut record =
            Record { timestamp_ms: 0, key: None, value: Some(vec![b'x'; 4096].into()), headers: Vec::new() };
        assert!(halve(&mut record) && halve(&mut record) && !halve(&mut record));
        assert_eq!(record.value.as_ref().map(bytes::Bytes::len), Some(1024));
        let headers: Vec<_> = record.headers.iter().map(|(name, value)| (&**name, &value[..])).collect();
        assert_eq!(headers, [("dlq.cut", &b"4096"[..])]);
    }
}
