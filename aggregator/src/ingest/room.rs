//! How much of pushed events may wait for the log, of all tenants and of one, and how much each may push a second.
//!
//! In: tenants and bytes of requests. Out: a share of the room, given back when it is dropped, or why there is none. Touches a
//! monotonic clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::record::Tenant;
use millrace_log::value::{ByteSize, Span};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::IngestConfig;
use super::error::IngestError;
use super::metrics::Metrics;

/// From so many tenants on, those of which nothing waits and whose bytes the rate has paid for are forgotten; again when their
/// number has doubled.
const REMEMBERED: usize = 1024;

/// The room that all pushes share.
pub(super) struct Room {
    max: ByteSize,
    /// Of one tenant.
    share: ByteSize,
    rate: Option<ByteSize>,
    rates: HashMap<Tenant, ByteSize>,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

struct State {
    used: u64,
    tenants: HashMap<Tenant, OfTenant>,
    /// How many of them there may be before they are looked through.
    look_through_at: usize,
}

struct OfTenant {
    rate: Option<ByteSize>,
    used: u64,
    /// Bytes taken that its rate has not paid for yet: a bucket that leaks.
    unpaid: f64,
    /// When that was so.
    at: Instant,
}

impl OfTenant {
    fn pay(&mut self, now: Instant) {
        let rate = self.rate.map_or(0.0, |rate| rate.0 as f64);
        self.unpaid = (self.unpaid - now.duration_since(self.at).as_secs_f64() * rate).max(0.0);
        self.at = now;
    }

    /// Whether nothing of it has to be remembered.
    fn is_even(&self) -> bool {
        self.used == 0 && self.unpaid == 0.0
    }
}

/// A share of the room.
pub(super) struct InFlight {
    room: Arc<Room>,
    tenant: Tenant,
    bytes: u64,
}

impl Room {
    pub fn new(config: &IngestConfig, metrics: Arc<Metrics>) -> Self {
        let rates =
            config.tenants.iter().filter_map(|(name, tenant)| Some((Tenant::new(name).ok()?, tenant.max_rate?)));
        Self {
            max: config.max_in_flight,
            share: config.in_flight_of_one_tenant(),
            rate: config.max_rate,
            rates: rates.collect(),
            state: Mutex::new(State { used: 0, tenants: HashMap::new(), look_through_at: REMEMBERED }),
            metrics,
        }
    }

    /// Takes room for a request. One beyond the whole room passes when nothing else waits, and one beyond a second's worth of the
    /// tenant's rate when less than that is unpaid: the endpoint bounds its body.
    pub fn take(self: &Arc<Self>, tenant: &Tenant, bytes: u64) -> Result<InFlight, IngestError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.used > 0 && state.used.saturating_add(bytes) > self.max.0 {
            return Err(IngestError::Full { max: self.max });
        }
        if state.tenants.len() >= state.look_through_at {
            state.tenants.retain(|_, of| {
                of.pay(now);
                !of.is_even()
            });
            state.look_through_at = REMEMBERED.max(2 * state.tenants.len());
        }
        let of = state.tenants.entry(tenant.clone()).or_insert_with(|| OfTenant {
            rate: self.rates.get(tenant).copied().or(self.rate),
            used: 0,
            unpaid: 0.0,
            at: now,
        });
        if of.used > 0 && of.used.saturating_add(bytes) > self.share.0 {
            return Err(IngestError::FullOfTenant { max: self.share, tenant: tenant.clone() });
        }
        if let Some(max) = of.rate {
            of.pay(now);
            let rate = max.0 as f64;
            if of.unpaid >= rate {
                self.metrics.over_rate.inc_by(bytes);
                let wait = Duration::from_secs((of.unpaid / rate) as u64);
                return Err(IngestError::Rate { max, tenant: tenant.clone(), wait: Span(wait) });
            }
            of.unpaid += bytes as f64;
        }
        of.used = of.used.saturating_add(bytes);
        state.used = state.used.saturating_add(bytes);
        drop(state);
        self.metrics.in_flight.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(InFlight { room: Arc::clone(self), tenant: tenant.clone(), bytes })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.room.metrics.in_flight.dec_by(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        let mut state = self.room.state.lock();
        state.used = state.used.saturating_sub(self.bytes);
        if let Some(of) = state.tenants.get_mut(&self.tenant) {
            of.used = of.used.saturating_sub(self.bytes);
            if of.is_even() {
                state.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::config::TenantIngest;
    use super::*;

    fn room(config: IngestConfig) -> Arc<Room> {
        Arc::new(Room::new(&config, Arc::default()))
    }

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    #[tokio::test]
    async fn one_tenant_leaves_room_for_others() {
        let room = room(IngestConfig { max_in_flight: ByteSize(100), ..IngestConfig::default() });
        let (a, b) = (tenant("a"), tenant("b"));
        let first = room.take(&a, 70).ok().unwrap();
        let full = room.take(&a, 10).err().unwrap();
        assert_eq!(
            full.to_string(),
            "75B of pushed events of tenant `a` wait for the log already (three quarters of `aggregator.ingest.max_in_flight`): \
             repeat the request later"
        );
        let second = room.take(&b, 30).ok().unwrap();
        assert!(matches!(room.take(&tenant("c"), 1), Err(IngestError::Full { .. })));
        drop((first, second));
        let all = room.take(&a, 1000).ok().unwrap();
        assert!(matches!(room.take(&b, 1), Err(IngestError::Full { .. })), "the whole room is taken");
        drop(all);
        let state = room.state.lock();
        assert_eq!((state.used, state.tenants.len(), room.metrics.in_flight.get()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_that_of_each_tenant() {
        let own = TenantIngest { max_rate: Some(ByteSize(1000)) };
        let config = IngestConfig {
            max_rate: Some(ByteSize(100)),
            tenants: [("big".to_owned(), own)].into(),
            ..IngestConfig::default()
        };
        let room = room(config);
        let takes = |name: &str, bytes| room.take(&tenant(name), bytes).is_ok();
        assert!(takes("a", 60) && takes("a", 60), "a second's worth, and what goes beyond it in one request");
        let refused = room.take(&tenant("a"), 1).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "tenant `a` pushes more than 100B a second (`max_rate` of `aggregator.ingest`, or of its entry in `tenants` there): \
             repeat the request in 1s, or have the limit raised"
        );
        assert!(takes("b", 60) && takes("big", 900) && takes("big", 900) && !takes("big", 1), "others have their own");
        tokio::time::advance(Duration::from_millis(300)).await;
        assert!(takes("a", 500) && !takes("a", 1));
        tokio::time::advance(Duration::from_millis(4800)).await;
        assert!(!takes("a", 1), "590 bytes, of which 480 are paid for");
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(takes("a", 1));
        tokio::time::advance(Duration::from_secs(60)).await;
        for n in 0..3 * REMEMBERED {
            assert!(takes(&n.to_string(), 1));
            tokio::time::advance(Duration::from_millis(11)).await;
            assert!(
                room.state.lock().tenants.len() <= REMEMBERED,
                "those of which nothing waits or is unpaid are forgotten"
            );
        }
        let held: Vec<_> = (0..3 * REMEMBERED).map(|n| room.take(&tenant(&n.to_string()), 1).ok().unwrap()).collect();
        assert!(room.state.lock().tenants.len() >= held.len(), "of all these something waits");
        drop(held);
        tokio::time::advance(Duration::from_secs(60)).await;
        let limit = room.state.lock().look_through_at;
        assert!((0..limit).all(|n| takes(&format!("x{n}"), 1)));
        assert!(room.state.lock().tenants.len() <= limit, "looked through when their number had doubled");
    }
}
