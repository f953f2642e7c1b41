//! Waiting: when a group is flushed, and how long sending may take.
//!
//! In: the route's times, an alert's start, the clock. Out: times, ns since 1970. Touches nothing.
//!
//! A new group collects for `group_wait`; an alert that began longer ago than that is flushed at once. After its
//! first flush a group is flushed every `group_interval`, counted from the beginning of the flush.

use std::time::Duration;

use crate::group::Group;
use crate::routing::Route;

/// Shortest time that sending of a group may take, whatever its interval: Alertmanager's.
const MIN_SEND_TIME: Duration = Duration::from_secs(10);

fn ns(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// When a group is first looked at that an alert opens now.
pub fn first_flush(route: &Route, now_ns: i64) -> i64 {
    now_ns.saturating_add(ns(route.group_wait))
}

/// Whether an alert that joins a group has waited long enough elsewhere.
pub fn is_overdue(route: &Route, group: &Group, starts_at_ns: i64, now_ns: i64) -> bool {
    !group.has_flushed && starts_at_ns.saturating_add(ns(route.group_wait)) < now_ns
}

/// When a group is flushed again whose flush begins now.
pub fn next_flush(route: &Route, now_ns: i64) -> i64 {
    now_ns.saturating_add(ns(route.group_interval))
}

/// How long a flush may try to send: until the next flush tries anew with what is true then.
pub fn send_limit(route: &Route) -> Duration {
    route.group_interval.max(MIN_SEND_TIME)
}
