//! Deduplication: whether what a group says now differs from what its receiver knows.
//!
//! In: what fires and what is over now, and the record of what was sent. Out: why a message goes out, or nothing.
//! Touches nothing; `record.rs` keeps the records.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use millrace_log::alert::Fingerprint;

/// What one integration was last sent of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRecord {
    /// Alerts that fired.
    pub firing: BTreeSet<Fingerprint>,
    /// Alerts that were over.
    pub resolved: BTreeSet<Fingerprint>,
    /// When it was sent, ns since 1970.
    pub sent_at_ns: i64,
    /// When this record is forgotten.
    pub expires_at_ns: i64,
}

/// Why a message goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The receiver knows nothing of the group.
    First,
    /// Alerts fire that it does not know.
    NewAlerts,
    /// All are over.
    AllResolved,
    /// Some are over.
    SomeResolved,
    /// Nothing changed for `repeat_interval`.
    Repeat,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first message of the group",
            Self::NewAlerts => "new alerts fire",
            Self::AllResolved => "all alerts are resolved",
            Self::SomeResolved => "some alerts are resolved",
            Self::Repeat => "nothing changed for repeat_interval",
        })
    }
}

/// Decides as Alertmanager's dedup stage does.
pub fn decide(
    entry: Option<&SentRecord>,
    firing: &BTreeSet<Fingerprint>,
    resolved: &BTreeSet<Fingerprint>,
    send_resolved: bool,
    now_ns: i64,
    repeat: Duration,
) -> Option<Reason> {
    let Some(entry) = entry else {
        // Who never heard of it need not hear that it is over.
        return (!firing.is_empty()).then_some(Reason::First);
    };
    if !firing.is_subset(&entry.firing) {
        return Some(Reason::NewAlerts);
    }
    if firing.is_empty() {
        // Also where `send_resolved` is false: the record must be cleared for the next alert.
        return (!entry.firing.is_empty()).then_some(Reason::AllResolved);
    }
    if send_resolved && !resolved.is_subset(&entry.resolved) {
        return Some(Reason::SomeResolved);
    }
    let repeat_ns = i64::try_from(repeat.as_nanos()).unwrap_or(i64::MAX);
    (entry.sent_at_ns < now_ns.saturating_sub(repeat_ns)).then_some(Reason::Repeat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<Fingerprint> {
        ids.iter().copied().map(Fingerprint).collect()
    }

    #[test]
    fn messages_go_out_for_a_reason_only() {
        let entry = |firing: &[u64], resolved: &[u64]| {
            Some(SentRecord { firing: set(firing), resolved: set(resolved), sent_at_ns: 100, expires_at_ns: 1000 })
        };
        for (entry, firing, resolved, send_resolved, now_ns, want) in [
            (None, vec![1], vec![], true, 100, Some(Reason::First)),
            (None, vec![], vec![1], true, 100, None),
            (entry(&[1], &[]), vec![1], vec![], true, 150, None),
            (entry(&[1], &[]), vec![1, 2], vec![], true, 100, Some(Reason::NewAlerts)),
            (entry(&[1, 2], &[]), vec![1], vec![2], true, 100, Some(Reason::SomeResolved)),
            (entry(&[1, 2], &[]), vec![1], vec![2], false, 100, None),
            (entry(&[1], &[]), vec![], vec![1], false, 100, Some(Reason::AllResolved)),
            (entry(&[], &[1]), vec![], vec![2], true, 100, None),
            (entry(&[], &[1]), vec![1], vec![], true, 100, Some(Reason::NewAlerts)),
            (entry(&[1], &[]), vec![1], vec![], true, 151, Some(Reason::Repeat)),
        ] {
            let reason =
                decide(entry.as_ref(), &set(&firing), &set(&resolved), send_resolved, now_ns, Duration::from_nanos(50));
            assert_eq!(reason, want, "{entry:?} {firing:?} {resolved:?} {send_resolved} {now_ns}");
        }
    }
}
