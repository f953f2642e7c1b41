//! Failed logins of each address: counted, and slowed down.
//!
//! In: addresses of clients whose logins failed. Out: how long one must wait before its next password is looked at.
//! Touches the clock. The table is bounded: where it is full, the address that failed longest ago is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::identity::site;

/// Failures that cost nothing: people mistype.
const FREE: u32 = 5;
/// A failure beyond those costs this much, twice as much each time, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait, and how long an address is remembered after its last failure.
const LONGEST: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    last: Instant,
}

impl Record {
    fn wait(&self) -> Duration {
        let over = self.failures.saturating_sub(FREE);
        if over == 0 { Duration::ZERO } else { (FIRST * 2_u32.saturating_pow((over - 1).min(10))).min(LONGEST) }
    }
}

/// Failed logins by address.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<IpAddr, Record>>);

impl Throttle {
    /// Notes a failure.
    pub fn failed(&self, address: IpAddr) {
        let (address, now) = (site(address), Instant::now());
        let mut table = self.0.lock();
        if table.len() >= ADDRESSES && !table.contains_key(&address) {
            table.retain(|_, record| now.duration_since(record.last) < LONGEST);
            let oldest = table.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| table.len() >= ADDRESSES) {
                table.remove(&oldest);
            }
        }
        let record = table.entry(address).or_insert(Record { failures: 0, last: now });
        record.failures =
            if now.duration_since(record.last) >= LONGEST { 1 } else { record.failures.saturating_add(1) };
        record.last = now;
    }

    /// Forgets the failures of an address that has logged in by a password.
    pub fn succeeded(&self, address: IpAddr) {
        self.0.lock().remove(&site(address));
    }

    /// How long an address must wait. `None`: not at all.
    pub fn wait(&self, address: IpAddr) -> Option<Duration> {
        let record = *self.0.lock().get(&site(address))?;
        let left = record.wait().saturating_sub(record.last.elapsed());
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_cost_more_each_time_and_are_forgotten() {
        let throttle = Throttle::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut waits = Vec::new();
        for _ in 0..14 {
            throttle.failed(one);
            waits.push(throttle.wait(one).map_or(0, |wait| wait.as_secs()));
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(throttle.wait(other), None);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(throttle.wait(one), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.wait(one), None);
        throttle.failed(one);
        assert_eq!(throttle.wait(one), None, "a new series");
        for _ in 0..9 {
            throttle.failed(one);
        }
        throttle.succeeded(one);
        assert_eq!(throttle.wait(one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_subnets_are_one_client() {
        let throttle = Throttle::default();
        for n in 0..6 {
            throttle.failed(format!("fd00::{n}").parse().unwrap());
        }
        assert!(throttle.wait("fd00::77".parse().unwrap()).is_some(), "one /64");
        for n in 0..5000_u32 {
            tokio::time::advance(Duration::from_millis(1)).await;
            throttle.failed(IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(throttle.0.lock().len(), ADDRESSES);
        assert!(throttle.wait("fd00::77".parse().unwrap()).is_none(), "the oldest is forgotten");
    }
}
