//! Fuzz target `membership`: what consumers say of themselves when they join a group, and what their leader assigns.
//!
//! In: any bytes. Out: a panic if a promise is broken: both readers of a subscription find the same topics, within the memory that
//! so many topics may take. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use millrace_fuzzing::memory;

use super::classic::{MAX_SUBSCRIBED, subscribed_topics};
use super::consumer::classic::{assignment, subscription};

/// Memory of all names and numbers: the bytes themselves, and lists that grow.
fn most(bytes: &[u8]) -> u64 {
    let topics = u64::try_from(MAX_SUBSCRIBED).unwrap().min(bytes.len() as u64 / 2);
    topics * 200 + 8 * bytes.len() as u64 + 1024
}

/// Metadata of a member, then the same bytes as an assignment.
pub(crate) fn membership(bytes: &[u8]) {
    let ((names, read, assigned), held) =
        memory::most(|| (subscribed_topics(bytes), subscription(bytes), assignment(bytes)));
    assert!(held <= most(bytes), "{held} bytes held for {} bytes", bytes.len());
    if let Some(read) = read {
        assert_eq!(read.topics, names, "{bytes:?}");
    }
    for (topic, numbers) in assigned.into_iter().flatten() {
        assert!(topic.len() + 4 * numbers.len() <= bytes.len(), "{topic} of {bytes:?}");
    }
}

/// Subscriptions of several versions, an assignment.
pub(crate) fn membership_seeds(_: u64) -> Vec<Vec<u8>> {
    let topics = b"\0\0\0\x02\0\x01a\0\x02bc";
    let owned = b"\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x01";
    vec![
        [&b"\0\0"[..], topics, b"\xff\xff\xff\xff"].concat(),
        [&b"\0\x01"[..], topics, b"\0\0\0\x01x", owned].concat(),
        [&b"\0\x03"[..], topics, b"\0\0\0\0", owned, b"\0\0\0\x05\0\x04rack"].concat(),
        [&b"\0\x01"[..], owned, b"\xff\xff\xff\xff"].concat(),
        [&b"\0\0\x7f\xff\xff\xff"[..], &[0; 4000]].concat(),
    ]
}
