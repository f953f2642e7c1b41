//! Streams of one source: bounded in number, and shared fairly among its clients where all are in use.
//!
//! In: labels and tenants of what comes, and who sends it. Out: [`Stream`]s, or a refusal. Touches nothing.
//!
//! # Shares
//! As long as there is room, a client may have as many streams as it likes. Where there is none, a client with fewer than
//! an equal share gets a new stream all the same: the client with the most gives up its newest one. Giving up a stream
//! loses no record: the next record of that stream asks for a new one, as any other does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use millrace_doors::identity::Client;
use millrace_log::record::{Labels, Tenant};

use super::rejected::Rejected;

/// A stream that brought nothing for so long makes room for another where the limit is reached.
pub(super) const STREAM_IDLE_MS: i64 = 3_600_000;
/// Looks for idle streams are so far apart at least.
const SWEEP_EVERY_MS: i64 = 1_000;

/// Labels and tenant of lines, in the form of their headers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stream(pub(super) Arc<StreamParts>);

#[derive(Debug)]
pub(super) struct StreamParts {
    pub labels: Bytes,
    pub tenant: Option<Bytes>,
    /// Chooses the partition.
    pub hash: u32,
    used_ms: AtomicI64,
}

impl Stream {
    /// Of these labels, used now.
    pub(super) fn new(labels: &Labels, tenant: Option<&Tenant>, now_ms: i64) -> Self {
        let name = tenant.map(Tenant::as_str).unwrap_or_default();
        let labels = Bytes::from(labels.to_json());
        let hash = crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), &labels);
        let tenant = tenant.map(|tenant| Bytes::copy_from_slice(tenant.as_str().as_bytes()));
        Self(Arc::new(StreamParts { labels, tenant, hash, used_ms: AtomicI64::new(now_ms) }))
    }

    /// Its partition, of so many.
    pub(super) fn partition(&self, count: usize) -> usize {
        self.0.hash as usize % count.max(1)
    }
}

/// What a stream is known by: tenant, and labels as they come.
pub(super) type Key = (Option<Tenant>, Labels);
/// Who brought a stream; `None`: the source itself.
type Owner = Option<Client>;

/// Streams in use.
#[derive(Debug)]
pub(super) struct Streams {
    limit: usize,
    known: HashMap<Key, (Stream, Owner)>,
    /// Keys that each client brought, the newest last. Nobody without any is listed.
    owners: HashMap<Owner, Vec<Key>>,
    swept_ms: i64,
}

impl Streams {
    /// None yet, and at most so many.
    pub fn new(limit: usize) -> Self {
        Self { limit, known: HashMap::new(), owners: HashMap::new(), swept_ms: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// A known one, which is used now.
    pub fn used(&self, key: &Key, now_ms: i64) -> Option<Stream> {
        let (stream, _) = self.known.get(key)?;
        stream.0.used_ms.store(now_ms, Ordering::Relaxed);
        Some(stream.clone())
    }

    /// Makes room for a new one of a client.
    pub fn make_room(&mut self, owner: &Owner, now_ms: i64) -> Result<(), Rejected> {
        let is_full = self.known.len() >= self.limit;
        if is_full && now_ms - self.swept_ms >= SWEEP_EVERY_MS {
            self.swept_ms = now_ms;
            self.known.retain(|_, (stream, _)| now_ms - stream.0.used_ms.load(Ordering::Relaxed) < STREAM_IDLE_MS);
            self.owners.retain(|_, keys| {
                keys.retain(|key| self.known.contains_key(key));
                !keys.is_empty()
            });
        }
        if self.known.len() < self.limit {
            return Ok(());
        }
        let own = self.owners.get(owner).map_or(0, Vec::len);
        let clients = self.owners.len() + usize::from(own == 0);
        let share = (self.limit / clients.max(1)).max(1);
        let largest = self.owners.values_mut().max_by_key(|keys| keys.len());
        // Whoever gives up one still has no fewer than the other then.
        match largest.filter(|keys| own < share && keys.len() > own + 1).and_then(Vec::pop) {
            Some(key) => drop(self.known.remove(&key)),
            None => return Err(Rejected::TooManyStreams { limit: self.limit, share }),
        }
        Ok(())
    }

    /// Adds one, for which there must be room.
    pub fn add(&mut self, key: Key, stream: Stream, owner: Owner) {
        self.owners.entry(owner.clone()).or_default().push(key.clone());
        self.known.insert(key, (stream, owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> Owner {
        Some(Client::new("shipper".into(), [10, 0, 0, n].into()))
    }

    /// Asks for the stream `name` as a client does that pushes to it.
    fn push(streams: &mut Streams, of: u8, name: &str, now_ms: i64) -> bool {
        let key = (None, Labels::new([("app", name)]));
        if streams.used(&key, now_ms).is_some() {
            return true;
        }
        let has_room = streams.make_room(&client(of), now_ms).is_ok();
        if has_room {
            streams.add(key.clone(), Stream::new(&key.1, None, now_ms), client(of));
        }
        has_room
    }

    fn counts(streams: &Streams, clients: std::ops::Range<u8>) -> Vec<usize> {
        clients.map(|n| streams.owners.get(&client(n)).map_or(0, Vec::len)).collect()
    }

    #[test]
    fn one_client_leaves_each_other_an_equal_share() {
        let mut streams = Streams::new(12);
        for n in 0..100 {
            push(&mut streams, 1, &format!("flood {n}"), 0);
        }
        assert_eq!(counts(&streams, 1..4), [12, 0, 0], "nobody else wanted any");
        for n in 0..8 {
            assert_eq!(push(&mut streams, 2, &format!("two {n}"), 1), n < 6, "{n}");
        }
        for n in 0..8 {
            assert_eq!(push(&mut streams, 3, &format!("three {n}"), 2), n < 4, "{n}");
        }
        assert_eq!((counts(&streams, 1..4), streams.len()), (vec![4, 4, 4], 12));
        // What others have stays theirs, however much the first one tries; its oldest streams stay too.
        for n in 0..100 {
            assert_eq!(push(&mut streams, 1, &format!("flood {n}"), 3), n < 4, "{n}");
        }
        for n in 0..4 {
            assert!(push(&mut streams, 2, &format!("two {n}"), 4) && push(&mut streams, 3, &format!("three {n}"), 4));
        }
        assert_eq!((counts(&streams, 1..4), streams.len()), (vec![4, 4, 4], 12));
        let refused = streams.make_room(&client(1), 5).unwrap_err().to_string();
        assert!(refused.contains("12 label sets") && refused.contains("4 of them for each client"), "{refused}");
    }

    #[test]
    fn more_clients_than_streams_take_nothing_from_each_other() {
        let mut streams = Streams::new(3);
        for n in 0..9 {
            assert_eq!(push(&mut streams, n, &format!("of {n}"), 0), n < 3, "{n}");
        }
        assert_eq!(counts(&streams, 0..4), [1, 1, 1, 0]);
        // Clients that are gone count no more.
        assert!(push(&mut streams, 9, "of 9", STREAM_IDLE_MS));
        assert_eq!((counts(&streams, 0..4), streams.owners.len()), (vec![0; 4], 1));
    }

    #[test]
    fn a_stream_counts_for_whoever_brought_it() {
        let mut streams = Streams::new(2);
        assert!(push(&mut streams, 1, "shared", 0) && push(&mut streams, 2, "shared", 0));
        assert_eq!(counts(&streams, 1..3), [1, 0]);
        assert!(push(&mut streams, 1, "own", 0) && push(&mut streams, 2, "other", 0));
        assert_eq!(counts(&streams, 1..3), [1, 1], "the newest of the first made room");
        assert!(push(&mut streams, 2, "shared", 0) && !push(&mut streams, 1, "own", 0));
    }
}
