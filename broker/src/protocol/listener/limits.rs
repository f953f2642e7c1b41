//! Who is connected from where, how many have not yet shown who they are, who fails to log in, who asks how often.
//!
//! In: addresses, ends of connections, failures, requests. Out: whether one more may come, how long to wait. Touches
//! nothing. An IPv6 client is counted by its /64, as one host has all of that.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use millrace_doors::seats::{Sitting, longest};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::protocol::config::listener::LimitsConfig;

/// Failures are forgotten after this time without another.
const FORGET_FAILURES: Duration = Duration::from_secs(60);
/// Addresses of which failures are remembered; beyond it those of the oldest are forgotten.
const MAX_FAILING: usize = 4096;
/// How often the pause after a failure is doubled at most.
const MAX_DOUBLINGS: u32 = 5;
/// How long a connection is idle before it may have to make room for another one of its address.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// How far a client may run ahead of its rate.
const BURST: Duration = Duration::from_secs(1);

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The listener has as many as it may.
    Listener,
    /// This address has as many as it may.
    Address,
    /// Too many have not yet logged in.
    Strangers,
}

impl LimitReached {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Listener, Self::Address, Self::Strangers];

    /// For the metric.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Listener => "limit",
            Self::Address => "address_limit",
            Self::Strangers => "login_limit",
        }
    }

    /// The setting to raise.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Listener => "limits.max_connections",
            Self::Address => "limits.max_connections_per_address",
            Self::Strangers => "limits.max_unauthenticated",
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    open: usize,
    strangers: usize,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_address: HashMap<IpAddr, Count>,
    /// What connections say of themselves.
    sittings: HashMap<IpAddr, Vec<Arc<Sitting>>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// The counts of one listener.
#[derive(Debug)]
pub(crate) struct ListenerLimits {
    limits: LimitsConfig,
    counts: Mutex<Counts>,
    failing: Mutex<HashMap<IpAddr, Failures>>,
    rates: Mutex<HashMap<(String, IpAddr), Weak<Rate>>>,
}

fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl ListenerLimits {
    pub fn new(limits: LimitsConfig) -> Self {
        Self { limits, counts: Mutex::default(), failing: Mutex::default(), rates: Mutex::default() }
    }

    /// A seat for one more connection, given back when dropped.
    pub fn seat(self: &Arc<Self>, address: IpAddr, is_stranger: bool) -> Result<Seat, LimitReached> {
        let address = counted_as(address);
        let mut counts = self.counts.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or_default();
        if counts.all.open >= self.limits.max_connections {
            return Err(LimitReached::Listener);
        }
        let leaves = if here.open >= self.limits.max_connections_per_address {
            let of_address = counts.sittings.get(&address).map(Vec::as_slice).unwrap_or_default();
            Some(longest(of_address.iter(), SHED_AFTER).ok_or(LimitReached::Address)?)
        } else {
            None
        };
        let max = self.limits.max_unauthenticated;
        if is_stranger && (counts.all.strangers >= max || here.strangers >= max / 2) {
            return Err(LimitReached::Strangers);
        }
        // Only for one that is let in an idle connection of its address makes room; it is counted until it has gone.
        if let Some(leaves) = leaves {
            leaves.ask_to_leave();
        }
        let strangers = usize::from(is_stranger);
        counts.all.open += 1;
        counts.all.strangers += strangers;
        let here = counts.by_address.entry(address).or_default();
        here.open += 1;
        here.strangers += strangers;
        let sitting = Arc::new(Sitting::default());
        counts.sittings.entry(address).or_default().push(Arc::clone(&sitting));
        drop(counts);
        Ok(Seat { limits_of: Arc::clone(self), address, is_stranger, sitting })
    }

    /// Notes a failed login; how long to wait before telling.
    pub fn failed(&self, address: IpAddr) -> Duration {
        let address = counted_as(address);
        let now = Instant::now();
        let mut failing = self.failing.lock();
        failing.retain(|_, failures| now.duration_since(failures.last) < FORGET_FAILURES);
        if failing.len() >= MAX_FAILING && !failing.contains_key(&address) {
            let oldest = failing.iter().min_by_key(|(_, failures)| failures.last).map(|(address, _)| *address);
            oldest.map(|oldest| failing.remove(&oldest));
        }
        let failures = failing.entry(address).or_insert(Failures { count: 0, last: now });
        failures.last = now;
        failures.count = failures.count.saturating_add(1);
        self.limits.failed_login_delay.0 * 2u32.pow((failures.count - 1).min(MAX_DOUBLINGS))
    }

    /// The rate that connections of one user from one address share; none without a limit.
    pub fn rate(&self, principal: &str, address: IpAddr) -> Option<Arc<Rate>> {
        let per_second = self.limits.max_requests_per_second?;
        let key = (principal.to_owned(), counted_as(address));
        let mut rates = self.rates.lock();
        if let Some(rate) = rates.get(&key).and_then(Weak::upgrade) {
            return Some(rate);
        }
        rates.retain(|_, rate| rate.strong_count() > 0);
        let rate =
            Arc::new(Rate { pause: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(Instant::now()) });
        rates.insert(key, Arc::downgrade(&rate));
        Some(rate)
    }

    #[cfg(test)]
    pub fn open(&self) -> (usize, usize) {
        let counts = self.counts.lock();
        (counts.all.open, counts.all.strangers)
    }
}

/// A connection's place.
#[derive(Debug)]
pub(crate) struct Seat {
    limits_of: Arc<ListenerLimits>,
    address: IpAddr,
    is_stranger: bool,
    sitting: Arc<Sitting>,
}

impl Seat {
    /// What the connection says of itself, and what it is told.
    pub fn sitting(&self) -> Arc<Sitting> {
        Arc::clone(&self.sitting)
    }

    fn give_back(&self, open: usize, strangers: usize) {
        let mut counts = self.limits_of.counts.lock();
        counts.all.open -= open;
        counts.all.strangers -= strangers;
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            here.open -= open;
            here.strangers -= strangers;
            if here.open == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }

    /// The client has shown who it is.
    pub fn is_known_now(&mut self) {
        if std::mem::take(&mut self.is_stranger) {
            self.give_back(0, 1);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.give_back(1, usize::from(self.is_stranger));
        let mut counts = self.limits_of.counts.lock();
        if let Some(of_address) = counts.sittings.get_mut(&self.address) {
            of_address.retain(|sitting| !Arc::ptr_eq(sitting, &self.sitting));
            if of_address.is_empty() {
                counts.sittings.remove(&self.address);
            }
        }
    }
}

/// Requests over time: each moves the next one's time on by its pause.
#[derive(Debug)]
pub(crate) struct Rate {
    pause: Duration,
    next: Mutex<Instant>,
}

impl Rate {
    /// Counts a request; how long its client must wait before the next one.
    pub fn take(&self) -> Duration {
        let now = Instant::now();
        let mut next = self.next.lock();
        *next = (*next).max(now) + self.pause;
        next.duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::value::Span;

    fn limits_of(change: impl FnOnce(&mut LimitsConfig)) -> Arc<ListenerLimits> {
        let mut limits = LimitsConfig::default();
        change(&mut limits);
        Arc::new(ListenerLimits::new(limits))
    }

    #[test]
    fn seats_by_listener_address_and_stranger() {
        let limits_of = limits_of(|limits| {
            limits.max_connections = 4;
            limits.max_connections_per_address = 3;
            limits.max_unauthenticated = 4;
        });
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let mut first = limits_of.seat(one, true).unwrap();
        let second = limits_of.seat(one, true).unwrap();
        assert_eq!(limits_of.seat(one, true).err(), Some(LimitReached::Strangers), "half of the strangers");
        first.is_known_now();
        first.is_known_now();
        let third = limits_of.seat(one, true).unwrap();
        assert_eq!(limits_of.seat(one, false).err(), Some(LimitReached::Address));
        let fourth = limits_of.seat(two, true).unwrap();
        assert_eq!(limits_of.seat(neighbour, false).err(), Some(LimitReached::Listener));
        drop((first, second, third));
        assert_eq!(limits_of.open(), (1, 1));
        let fifth = limits_of.seat(neighbour, true).unwrap();
        assert_eq!(limits_of.seat(two, true).err(), Some(LimitReached::Strangers), "counted by /64");
        drop((fourth, fifth));
        assert_eq!(limits_of.open(), (0, 0));
        assert!(limits_of.counts.lock().by_address.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_make_room_for_others_of_their_address() {
        let limits_of = limits_of(|limits| limits.max_connections_per_address = 2);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let (busy, idle) = (limits_of.seat(address, false).unwrap(), limits_of.seat(address, false).unwrap());
        idle.sitting().waits();
        assert_eq!(limits_of.seat(address, false).err(), Some(LimitReached::Address), "idle since this moment only");
        tokio::time::advance(SHED_AFTER).await;
        let third = limits_of.seat(address, false).unwrap();
        idle.sitting().leave().await;
        assert_eq!(limits_of.seat(address, false).err(), Some(LimitReached::Address), "asked once");
        drop((busy, idle, third));
        assert_eq!(limits_of.open(), (0, 0));
        assert!(limits_of.counts.lock().sittings.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_makes_room_for_a_stranger_who_is_not_let_in() {
        let limits_of = limits_of(|limits| {
            limits.max_connections_per_address = 2;
            limits.max_unauthenticated = 2;
        });
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let (known, stranger) = (limits_of.seat(address, false).unwrap(), limits_of.seat(address, true).unwrap());
        known.sitting().waits();
        tokio::time::advance(SHED_AFTER).await;
        assert_eq!(limits_of.seat(address, true).err(), Some(LimitReached::Strangers));
        let sitting = known.sitting();
        let leave = sitting.leave();
        tokio::pin!(leave);
        assert!(futures::poll!(&mut leave).is_pending(), "it may stay");
        drop(stranger);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_are_forgotten() {
        let limits_of = limits_of(|limits| limits.failed_login_delay = Span(Duration::from_millis(100)));
        let address = "10.0.0.1".parse().unwrap();
        let delays: Vec<u128> = (0..8).map(|_| limits_of.failed(address).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 3200, 3200]);
        assert_eq!(limits_of.failed("10.0.0.2".parse().unwrap()).as_millis(), 100);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(limits_of.failed(address).as_millis(), 100);
        assert_eq!(limits_of.failing.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_shared_by_the_connections_of_a_client() {
        let limits_of = limits_of(|limits| limits.max_requests_per_second = Some(10));
        let address = "10.0.0.1".parse().unwrap();
        let (one, other) = (limits_of.rate("User:a", address).unwrap(), limits_of.rate("User:a", address).unwrap());
        for _ in 0..5 {
            assert_eq!((one.take(), other.take()), (Duration::ZERO, Duration::ZERO));
        }
        assert_eq!(one.take().as_millis(), 100);
        assert_eq!(other.take().as_millis(), 200);
        assert_eq!(limits_of.rate("User:b", address).unwrap().take(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(one.take(), Duration::ZERO);
        drop((one, other));
        let _third = limits_of.rate("User:c", address);
        assert_eq!(limits_of.rates.lock().len(), 1, "those of nobody are forgotten");
    }
}
