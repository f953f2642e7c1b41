//! Reads the log for one export: assigned partitions from the group's committed offsets, commits after delivery.
//!
//! In: connection, topics, group. Out: batches of records in a bounded channel; takes back what was delivered.
//! Touches the network through [`WireConsumer`], whose calls block: it lives on a named thread of its own.
//! Leaves delivery to the export.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millrace_log::client::{ClientError, Consumed, StartAt, WireConsumer};
use millrace_log::record::TopicPartition;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::FeedConfig;

/// Records of one batch at most.
const BATCH: usize = 5000;
/// How long a turn waits for a first record.
const TURN: Duration = Duration::from_millis(200);
/// How often new topics and partitions are looked for.
const DISCOVER: Duration = Duration::from_secs(5);
/// Wait after the log could not be reached.
const AWAY: Duration = Duration::from_secs(1);

/// Next offsets after a delivered batch.
pub type Delivered = Vec<(TopicPartition, i64)>;

/// What follows a batch in each of its partitions.
pub fn after(batch: &[Consumed]) -> Delivered {
    let mut next: HashMap<&TopicPartition, i64> = HashMap::new();
    for one in batch {
        let offset = next.entry(&one.partition).or_insert(0);
        *offset = (*offset).max(one.offset + 1);
    }
    next.into_iter().map(|(partition, offset)| (partition.clone(), offset)).collect()
}

/// Reads until the token is cancelled or the export has gone. Blocks.
pub fn read(
    config: &FeedConfig,
    batches: &mpsc::Sender<Vec<Consumed>>,
    delivered: &mut mpsc::Receiver<Delivered>,
    token: &CancellationToken,
) -> Result<(), ClientError> {
    let consumer = WireConsumer::new(&config.connection(), &config.group)?;
    let mut assigned: HashMap<TopicPartition, i64> = HashMap::new();
    let mut looked: Option<Instant> = None;
    let mut told_away = false;
    while !token.is_cancelled() && !batches.is_closed() {
        if looked.is_none_or(|at| at.elapsed() >= DISCOVER) {
            match discover(&consumer, config, &mut assigned) {
                Ok(()) => {
                    looked = Some(Instant::now());
                    told_away = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut told_away, true) {
                        tracing::warn!(group = config.group, %error, "export waits for the log");
                    }
                    std::thread::sleep(AWAY);
                    continue;
                }
            }
        }
        match consumer.poll_batch(BATCH, TURN) {
            Ok(batch) if batch.is_empty() => {}
            Ok(batch) => {
                for (partition, next) in after(&batch) {
                    assigned.insert(partition, next);
                }
                // Waits while the other system is slow: that is the back-pressure.
                if batches.blocking_send(batch).is_err() {
                    break;
                }
            }
            Err(ClientError::OutOfRange { topic_partition, offset, log_start }) => {
                tracing::error!(group = config.group, %topic_partition, offset, log_start, "retention removed records before they were exported");
                restart_at_log_start(&consumer, &mut assigned);
            }
            Err(error) => tracing::warn!(group = config.group, %error, "export can't read, goes on"),
        }
        while let Ok(next) = delivered.try_recv() {
            commit(&consumer, config, &next);
        }
    }
    // What was delivered while this thread waited; ends when the export has dropped its side.
    while let Some(next) = delivered.blocking_recv() {
        commit(&consumer, config, &next);
    }
    Ok(())
}

/// A commit that is lost costs a repeat after a restart, which the ids make harmless.
fn commit(consumer: &WireConsumer, config: &FeedConfig, next: &Delivered) {
    if let Err(error) = consumer.commit(next) {
        tracing::warn!(group = config.group, %error, "offsets of the export can't be committed, goes on");
    }
}

fn discover(
    consumer: &WireConsumer,
    config: &FeedConfig,
    assigned: &mut HashMap<TopicPartition, i64>,
) -> Result<(), ClientError> {
    let mut new = Vec::new();
    for topic in &config.topics {
        for partition in consumer.partitions(topic)? {
            let tp = TopicPartition::new(topic.as_str(), partition);
            if !assigned.contains_key(&tp) {
                new.push(tp);
            }
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let committed = consumer.committed(&new)?;
    let mut all: Vec<(TopicPartition, StartAt)> = assigned
        .iter()
        .map(|(tp, next)| (tp.clone(), if *next < 0 { StartAt::Earliest } else { StartAt::Offset(*next) }))
        .collect();
    for (tp, offset) in new.iter().zip(&committed) {
        all.push((tp.clone(), offset.map_or(StartAt::Earliest, StartAt::Offset)));
    }
    consumer.assign(&all)?;
    for (tp, offset) in new.into_iter().zip(committed) {
        tracing::info!(group = config.group, partition = %tp, from = offset.unwrap_or(-1), "export reads");
        assigned.insert(tp, offset.unwrap_or(-1));
    }
    Ok(())
}

/// Partitions whose next record is gone read on from the oldest that is left.
fn restart_at_log_start(consumer: &WireConsumer, assigned: &mut HashMap<TopicPartition, i64>) {
    for (tp, next) in assigned.iter_mut() {
        if let Ok((low, high)) = consumer.watermarks(tp)
            && *next >= 0
            && !(low..=high).contains(next)
        {
            *next = low;
        }
    }
    let all: Vec<(TopicPartition, StartAt)> = assigned
        .iter()
        .map(|(tp, next)| (tp.clone(), if *next < 0 { StartAt::Earliest } else { StartAt::Offset(*next) }))
        .collect();
    if let Err(error) = consumer.assign(&all) {
        tracing::warn!(%error, "export can't assign its partitions anew");
    }
}
