//! TransformStep `throttle`: so many events in a time for each key, and the count of those beyond.
//!
//! In: keys and the time. Out: whether an event is kept; the keys that lost most. Touches nothing.
//!
//! The limit is a generic cell rate algorithm: one number for each key, the time at which its allowance would be used up.
//! Keys are bounded: those with a full allowance are forgotten first, and what finds no room shares one limit.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

/// Keys whose losses are shown by name.
const SHOWN: usize = 100;
/// Name of the others.
const OTHERS: &str = "(others)";

/// Makes the counter of a key's losses.
type Counters = Box<dyn Fn(&str) -> Counter + Send + Sync>;

/// One limit for each key, shared by all senders.
pub(crate) struct Throttle {
    /// Nanoseconds that one event takes from the allowance.
    interval_ns: i64,
    /// How far ahead of the present an allowance may be used.
    tolerance_ns: i64,
    max_keys: usize,
    counters: Counters,
    inner: Mutex<Allowances>,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Throttle(one in {} ns)", self.interval_ns)
    }
}

/// What one key lost.
#[derive(Debug)]
struct Losses {
    since_summary: u64,
    counter: Counter,
}

#[derive(Debug, Default)]
struct Allowances {
    /// When the allowance of each key would be used up, ns since 1970.
    keys: HashMap<Box<[u8]>, i64>,
    /// The same for all that found no room.
    rest: i64,
    /// What was dropped, by key; the first ones for good, so that metrics stay bounded.
    dropped: HashMap<Box<[u8]>, Losses>,
    /// When forgetting is worth a try again.
    forget_ns: i64,
}

/// What was dropped since the last summary.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// All of them.
    pub total: u64,
    /// Those that lost most, first.
    pub top: Vec<(String, u64)>,
}

impl Throttle {
    pub fn new(limit: u64, per: std::time::Duration, burst: u64, max_keys: usize, counters: Counters) -> Self {
        let per = i64::try_from(per.as_nanos()).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let burst = if burst == 0 { limit } else { i64::try_from(burst).unwrap_or(i64::MAX) };
        let interval_ns = (per / limit).max(1);
        let tolerance_ns = interval_ns.saturating_mul(burst - 1);
        // There from the start, as zero.
        counters(OTHERS);
        Self { interval_ns, tolerance_ns, max_keys, counters, inner: Mutex::default() }
    }

    /// Whether an event of this key is kept now.
    pub fn keeps(&self, key: &[u8], now_ns: i64) -> bool {
        let mut inner = self.inner.lock();
        let Allowances { keys, rest, dropped, forget_ns } = &mut *inner;
        if keys.len() >= self.max_keys && !keys.contains_key(key) && now_ns >= *forget_ns {
            keys.retain(|_, used_up| *used_up > now_ns);
            // Going through all of them for each event would be the attack that the bound is against.
            *forget_ns = now_ns.saturating_add(1_000_000_000);
        }
        let room = keys.len() < self.max_keys;
        let used_up = match keys.get_mut(key) {
            Some(used_up) => used_up,
            None if room => keys.entry(key.into()).or_insert(i64::MIN),
            None => rest,
        };
        // Further ahead than any allowance goes: the clock was set back.
        let ahead = *used_up > now_ns.saturating_add(self.tolerance_ns).saturating_add(self.interval_ns);
        let from = if ahead { now_ns } else { (*used_up).max(now_ns) };
        if from.saturating_sub(now_ns) <= self.tolerance_ns {
            *used_up = from.saturating_add(self.interval_ns);
            return true;
        }
        let key = if dropped.len() < SHOWN || dropped.contains_key(key) { key } else { OTHERS.as_bytes() };
        if !dropped.contains_key(key) {
            let counter = (self.counters)(&String::from_utf8_lossy(key));
            dropped.insert(key.into(), Losses { since_summary: 0, counter });
        }
        if let Some(losses) = dropped.get_mut(key) {
            losses.since_summary += 1;
            losses.counter.inc();
        }
        false
    }

    /// What was dropped since the last call.
    pub fn summary(&self) -> Summary {
        let mut top: Vec<(String, u64)> = {
            let mut inner = self.inner.lock();
            let counts = inner.dropped.iter_mut().map(|(key, losses)| {
                (String::from_utf8_lossy(key).into_owned(), std::mem::take(&mut losses.since_summary))
            });
            counts.filter(|(_, count)| *count > 0).collect()
        };
        let total = top.iter().map(|(_, count)| count).sum();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(5);
        Summary { total, top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: i64 = 1_000_000_000;

    fn throttle(limit: u64, burst: u64, max_keys: usize) -> Throttle {
        Throttle::new(limit, Duration::from_secs(1), burst, max_keys, Box::new(|_| Counter::default()))
    }

    #[test]
    fn each_key_has_its_limit() {
        let throttle = throttle(10, 0, 100);
        let now = 1_000 * SECOND;
        for key in [&b"a"[..], b"b"] {
            assert_eq!((0..50).filter(|_| throttle.keeps(key, now)).count(), 10);
        }
        // A tenth of a second is one more.
        assert_eq!((0..50).filter(|_| throttle.keeps(b"a", now + SECOND / 10)).count(), 1);
        assert_eq!((0..50).filter(|_| throttle.keeps(b"a", now + 100 * SECOND)).count(), 10);
        let summary = throttle.summary();
        assert_eq!(
            (summary.total, summary.top),
            (40 + 40 + 49 + 40, vec![("a".to_owned(), 129), ("b".to_owned(), 40)])
        );
        assert_eq!(throttle.summary(), Summary::default());
    }

    #[test]
    fn a_steady_flow_at_the_limit_passes_and_above_it_the_limit_does() {
        let throttle = throttle(100, 5, 100);
        let at =
            |rate: i64, from: i64| (0..rate * 10).filter(|i| throttle.keeps(b"", from + i * SECOND / rate)).count();
        assert_eq!(at(100, 0), 1000);
        let kept = at(1000, 100 * SECOND);
        assert!((1000..=1006).contains(&kept), "{kept}");
    }

    #[test]
    fn losses_of_the_first_keys_are_shown_by_name() {
        let family = prometheus_client::metrics::family::Family::<Vec<(String, String)>, Counter>::default();
        let of = |key: &str| vec![("key".to_owned(), key.to_owned())];
        let counters = family.clone();
        let make = move |key: &str| counters.get_or_create(&vec![("key".to_owned(), key.to_owned())]).clone();
        let throttle = Throttle::new(1, Duration::from_secs(1), 0, 1000, Box::new(make));
        for i in 0..150 {
            let kept = (0..3).filter(|_| throttle.keeps(format!("k{i}").as_bytes(), 0)).count();
            assert_eq!(kept, 1);
        }
        let count = |key| family.get_or_create(&of(key)).get();
        assert_eq!((count("k0"), count("k99"), count("k100"), count(OTHERS)), (2, 2, 0, 100));
        assert_eq!(throttle.summary().top[0], (OTHERS.to_owned(), 100));
    }

    #[test]
    fn keys_beyond_the_bound_share_one_limit_until_others_are_forgotten() {
        let throttle = throttle(1, 0, 10);
        for i in 0..10 {
            assert!(throttle.keeps(&[i], 0));
        }
        assert_eq!((10..30).filter(|i| throttle.keeps(&[*i], 0)).count(), 1);
        assert_eq!(throttle.inner.lock().keys.len(), 10);
        assert!(throttle.keeps(&[99], 5 * SECOND));
        assert_eq!(throttle.inner.lock().keys.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_blocks_nobody() {
        let throttle = throttle(10, 0, 100);
        assert!(throttle.keeps(b"a", 1_000 * SECOND));
        assert_eq!((0..50).filter(|_| throttle.keeps(b"a", 0)).count(), 10);
    }
}
