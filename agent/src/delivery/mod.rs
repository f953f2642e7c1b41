//! Delivery: from the queues of the partitions to the log, the one path that all records take.
//!
//! In: [`crate::batch::QueuedBatches`], through one bounded queue for each partition. Out: acknowledged progress of sources,
//! dead letters. Touches the network through the producer, the state where a source must go on under a new id or a topic
//! is met for the first time.
//!
//! A [`PartitionSender`] takes what its queue holds, has transforms applied where a source has some ([`outgoing`]), encodes
//! each record straight from the bytes that were read ([`encode`]), sends it and sends again what the log did not take
//! ([`sender`]), then settles the batches.
//!
//! # What holds
//! - Order: a sender keeps the order of its queue, and all records of a source go through one sender, so positions of a
//!   source rise in each partition. A source has one partition in every topic, chosen by its id and the number of
//!   partitions that the topic had when the agent first met it.
//! - Nothing is dropped: what the log refuses for now is sent again until it is taken; meanwhile the queue fills, the
//!   memory budget is used up, and reading stops. What it refuses for good goes to the dead letters, record by record.
//! - Positions are settled, and so can be kept, only after every record of a batch is acknowledged by its destination.
//! - A transform runs once on each event: what it made is kept until it is taken.

/// What all senders share.
mod context;
/// Waits between attempts.
mod retry;
/// One request to the log.
mod request;
/// Partitions of topics that transforms name.
mod topics;
/// What the log refuses for good.
mod dead_letters;
/// Records of one request, with transforms applied.
mod outgoing;
/// Records in the format of the log.
mod encode;
/// Sends what one queue holds.
mod sender;

pub(crate) use context::{DeliveryContext, RoutedTopics};
pub(crate) use sender::PartitionSender;
