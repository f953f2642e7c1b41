//! Fetches from several partitions at once: finds record batches and gets them into the kernel's memory.
//!
//! In: offsets by partition. Out: places of batches in their files. Touches segments' files, on the storage's threads for
//! reading.

use std::sync::Arc;

use super::error::ReadError;
use super::partition::Partition;
use super::read::Isolation;
use super::stored::Located;

/// What is to be looked for in one partition.
#[derive(Debug)]
pub struct Ask {
    /// Where.
    pub partition: Arc<Partition>,
    /// First offset wanted.
    pub from: i64,
    /// About so many bytes at most.
    pub max_bytes: usize,
}

/// Looks into several partitions in their order, with one hand-over to a thread: each gives up to its own maximum as long as
/// all together stay below `max_bytes`. With `min_one`, the first batch found comes whatever its size.
pub async fn locate_all(
    asks: Vec<Ask>,
    max_bytes: usize,
    min_one: bool,
    isolation: Isolation,
) -> Vec<Result<Located, ReadError>> {
    let Some(workers) = asks.first().map(|ask| ask.partition.workers().clone()) else { return Vec::new() };
    let count = asks.len();
    let located = workers.readers.run(move || {
        let mut total = 0;
        let mut each = |Ask { partition, from, max_bytes: most }: Ask| {
            let limit = most.min(max_bytes.saturating_sub(total));
            let located = partition.log().locate(from, limit, min_one && total == 0, isolation)?;
            if let Some(stored) = &located.stored {
                total += stored.len();
                stored.warm().map_err(|e| partition.log().read_error(&e))?;
            }
            Ok(located)
        };
        asks.into_iter().map(&mut each).collect()
    });
    located.await.unwrap_or_else(|_| (0..count).map(|_| Err(ReadError::Closed)).collect())
}
