//! Polling: batches of records out of a stream, with the errors that were met behind them.
//!
//! In: a [`RecordStream`], limits. Out: records as a reader wants them. Touches nothing. Records are slices of what was
//! fetched; nothing is copied.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::api::{Limits, Unreadable};
use super::error::ClientError;
use crate::native::decode::Spot;
use crate::native::stream::{Item, RecordStream};
use crate::record::TopicPartition;

/// A form of records that can be read out of a stream.
#[allow(private_interfaces, reason = "only this crate reads streams")]
pub trait FromStream: Sized {
    /// The record that came last.
    fn read(stream: &RecordStream, spot: Spot) -> Self;

    /// What stands for records that can't be read: its offset is that of the last of them.
    fn unreadable(lost: Unreadable) -> Self;

    /// Its bytes, about.
    fn size(&self) -> usize;
}

/// What is read and not handed out.
#[derive(Debug)]
pub(super) struct Polling {
    stream: RecordStream,
    /// An error that was met behind records: it comes with the next call.
    held: Option<ClientError>,
    /// Behind what was fetched and handed out, by partition of the assignment.
    positions: HashMap<TopicPartition, i64>,
    /// The assignment of the positions, and of what was handed out last.
    assignment: u64,
    /// How often the caller is asked whether to go on.
    look_every: Duration,
}

impl Polling {
    pub fn new(stream: RecordStream, look_every: Duration) -> Self {
        Self { stream, held: None, positions: HashMap::new(), assignment: 0, look_every }
    }

    /// Forgets what was before a new assignment.
    pub fn reset(&mut self) {
        self.held = None;
        self.positions.clear();
    }

    /// Everything before this offset was handed out or is not for readers.
    pub fn position(&self, of: &TopicPartition) -> Option<i64> {
        self.positions.get(of).copied()
    }

    /// The assignment of what was handed out last.
    pub fn assignment(&self) -> u64 {
        self.assignment
    }

    /// Waits for a first record, then takes what is there, or what comes within `linger`, up to a limit. `look` is asked
    /// several times meanwhile whether to go on.
    pub fn poll<R: FromStream>(
        &mut self,
        limits: &Limits,
        mut look: impl FnMut() -> Result<(), ClientError>,
    ) -> Result<Vec<R>, ClientError> {
        self.stream.refresh();
        if let Some(error) = self.held.take() {
            return Err(error);
        }
        let mut until = Instant::now() + limits.wait;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.records && bytes < limits.bytes {
            let left = match batch.is_empty() || !limits.linger.is_zero() {
                true => until.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            let item = match self.stream.next(left.min(self.look_every)) {
                Some(item) => item,
                None if left.is_zero() => break,
                None => {
                    look()?;
                    continue;
                }
            };
            if self.stream.assignment() != self.assignment {
                // Who has the partitions now reads them again from the committed offsets, this reader too.
                self.assignment = self.stream.assignment();
                self.positions.clear();
                batch.clear();
                bytes = 0;
            }
            let error = match item {
                Item::Record(spot) => {
                    if batch.is_empty() {
                        until = Instant::now() + limits.linger;
                    }
                    let record = R::read(&self.stream, spot);
                    bytes += record.size();
                    batch.push(record);
                    continue;
                }
                Item::Position { tp, next } => {
                    self.positions.insert(tp, next);
                    continue;
                }
                Item::End { .. } => continue,
                Item::OutOfRange { tp, offset, log_start } => {
                    ClientError::OutOfRange { topic_partition: tp, offset, log_start }
                }
                Item::Recreated { tp } => ClientError::Recreated { topic_partition: tp },
                Item::Unreadable { tp, from, to, batch: bytes_of, error } => {
                    tracing::error!(partition = %tp, from, to, %error, "records of the log can't be read");
                    if from < to {
                        if batch.is_empty() {
                            until = Instant::now() + limits.linger;
                        }
                        let record = R::unreadable(Unreadable::new(tp, from, to, &bytes_of, &error));
                        bytes += record.size();
                        batch.push(record);
                    }
                    continue;
                }
                Item::Failed { tp, error } => ClientError::Read { what: tp.to_string(), source: error },
            };
            if batch.is_empty() {
                return Err(error);
            }
            self.held = Some(error);
            break;
        }
        Ok(batch)
    }
}
