//! Places for queries under way, given out fairly: a place that becomes free goes to the tenant with the fewest queries under way,
//! and of one tenant to whoever has waited longest. No tenant has all places unless the configuration says so, so that another's
//! first query need not wait for the end of a long one. A query of several tenants has one place, which counts for each of them;
//! it has it when all of them have room, and holds nothing while it waits.
//!
//! In: tenants that ask for places. Out: places, given back when they are dropped. Touches nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_log::record::Tenant;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How many queries there may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Under way at once.
    pub concurrent: usize,
    /// Of those, of one tenant.
    pub per_tenant: usize,
    /// Of those, of these tenants.
    pub of_tenants: HashMap<Tenant, usize>,
    /// Of one tenant that wait.
    pub queued: usize,
}

/// All places. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: PlaceLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Who asked last.
    asked: u64,
    /// Those who have or want places.
    tenants: HashMap<Tenant, OfTenant>,
}

#[derive(Debug, Default)]
struct OfTenant {
    running: usize,
    /// In the order in which they asked. Who asks for several tenants stands with one that has no room for them.
    queue: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asked: u64,
    tenants: Arc<[Tenant]>,
    answer: oneshot::Sender<Place>,
}

/// One place.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    tenants: Arc<[Tenant]>,
}

/// Too many of the tenant wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueFull;

impl Places {
    pub fn new(limits: PlaceLimits) -> Self {
        let concurrent = limits.concurrent.max(1);
        let limits = PlaceLimits { concurrent, per_tenant: limits.per_tenant.clamp(1, concurrent), ..limits };
        Self(Arc::new(Shared { limits, state: Mutex::default() }))
    }

    /// Waits for a place of these tenants, each named once.
    pub async fn take(&self, tenants: &[Tenant]) -> Result<Place, QueueFull> {
        let place = self.ask(tenants)?;
        // The queue keeps the sender until it has sent or is gone itself, with all places.
        place.await.map_err(|_| QueueFull)
    }

    fn ask(&self, tenants: &[Tenant]) -> Result<oneshot::Receiver<Place>, QueueFull> {
        let (answer, place) = oneshot::channel();
        let returned = {
            let mut state = self.0.state.lock();
            for tenant in tenants {
                let Some(of) = state.tenants.get_mut(tenant) else { continue };
                if of.queue.len() >= self.0.limits.queued.max(1) {
                    // Whoever has gone need not be counted.
                    of.queue.retain(|waiting| !waiting.answer.is_closed());
                    if of.queue.len() >= self.0.limits.queued.max(1) {
                        return Err(QueueFull);
                    }
                }
            }
            let Some(first) = tenants.first() else { return Err(QueueFull) };
            state.asked += 1;
            let waiting = Waiting { asked: state.asked, tenants: tenants.into(), answer };
            state.tenants.entry(first.clone()).or_default().queue.push_back(waiting);
            self.give_out(&mut state)
        };
        drop(returned);
        Ok(place)
    }

    fn most(&self, tenant: &Tenant) -> usize {
        self.0.limits.of_tenants.get(tenant).copied().unwrap_or(self.0.limits.per_tenant)
    }

    /// Gives out what is free. Places of those who have gone come back: to be dropped without the lock.
    #[must_use]
    fn give_out(&self, state: &mut State) -> Vec<Place> {
        let mut returned = Vec::new();
        while state.running < self.0.limits.concurrent {
            let wants = state.tenants.iter_mut().filter(|(t, of)| of.running < self.most(t) && !of.queue.is_empty());
            let next = wants.min_by_key(|(_, of)| (of.running, of.queue.front().map(|waiting| waiting.asked)));
            let Some(waiting) = next.and_then(|(_, of)| of.queue.pop_front()) else { break };
            if waiting.answer.is_closed() {
                continue;
            }
            let is_full =
                |tenant: &&Tenant| state.tenants.get(*tenant).is_some_and(|of| of.running >= self.most(tenant));
            if let Some(full) = waiting.tenants.iter().find(is_full).cloned() {
                let queue = &mut state.tenants.entry(full).or_default().queue;
                queue.insert(queue.partition_point(|before| before.asked < waiting.asked), waiting);
                continue;
            }
            for tenant in waiting.tenants.iter() {
                state.tenants.entry(tenant.clone()).or_default().running += 1;
            }
            state.running += 1;
            let place = Place { places: self.clone(), tenants: waiting.tenants };
            returned.extend(waiting.answer.send(place).err());
        }
        returned
    }

    /// Queries under way, and those that wait.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        let waiting = state.tenants.values().flat_map(|of| &of.queue).filter(|waiting| !waiting.answer.is_closed());
        (state.running, waiting.count())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let returned = {
            let mut state = self.places.0.state.lock();
            state.running -= 1;
            for tenant in self.tenants.iter() {
                if let Some(of) = state.tenants.get_mut(tenant) {
                    of.running -= 1;
                }
            }
            let returned = self.places.give_out(&mut state);
            state.tenants.retain(|_, of| of.running > 0 || !of.queue.is_empty());
            returned
        };
        drop(returned);
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    fn places(concurrent: usize, per_tenant: usize, queued: usize) -> Places {
        Places::new(PlaceLimits { concurrent, per_tenant, queued, ..PlaceLimits::default() })
    }

    fn taken(places: &Places, of: &Tenant) -> Place {
        places.ask(slice::from_ref(of)).unwrap().try_recv().unwrap()
    }

    #[test]
    fn a_place_goes_to_the_tenant_with_the_fewest_and_then_to_who_waited_longest() {
        let places = places(3, 3, 10);
        let (a, b) = (tenant("a"), tenant("b"));
        let mut held = VecDeque::from([(); 3].map(|()| taken(&places, &a)));
        let mut waiting = [&a, &a, &b, &b].map(|of| places.ask(slice::from_ref(of)).unwrap());
        assert_eq!(places.counts(), (3, 4));
        for want in [2, 0, 1, 3] {
            drop(held.pop_front());
            let given: Vec<_> = waiting.iter_mut().map(oneshot::Receiver::try_recv).collect();
            let given: Vec<_> =
                given.into_iter().enumerate().filter_map(|(at, place)| Some((at, place.ok()?))).collect();
            assert_eq!(given.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [want]);
            held.extend(given.into_iter().map(|(_, place)| place));
        }
        drop(held);
        assert_eq!((places.counts(), places.0.state.lock().tenants.len()), ((0, 0), 0));
    }

    #[test]
    fn one_tenant_leaves_places_for_others() {
        let places = places(4, 3, 10);
        let (a, b) = (tenant("a"), tenant("b"));
        let _held = [(); 3].map(|()| taken(&places, &a));
        assert!(places.ask(slice::from_ref(&a)).unwrap().try_recv().is_err());
        let _of_b = taken(&places, &b);
    }

    #[tokio::test]
    async fn queues_are_bounded_and_those_who_have_gone_hold_nothing_up() {
        let places = places(1, 1, 2);
        let (a, b) = (tenant("a"), tenant("b"));
        let held = taken(&places, &a);
        let (gone, waits) = (places.ask(slice::from_ref(&a)).unwrap(), places.ask(slice::from_ref(&a)).unwrap());
        assert_eq!(places.take(slice::from_ref(&a)).await.err(), Some(QueueFull));
        let of_b = places.ask(slice::from_ref(&b)).unwrap();
        drop(gone);
        let last = places.ask(slice::from_ref(&a)).unwrap();
        drop(held);
        // It goes before it has seen its place.
        drop(of_b);
        drop(waits.await.unwrap());
        drop(last.await.unwrap());
        assert_eq!(places.counts(), (0, 0));
    }

    #[tokio::test]
    async fn a_query_of_several_tenants_has_a_place_of_each() {
        let places = places(4, 1, 10);
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let both = [b.clone(), a.clone()];
        let held = places.take(&both).await.unwrap();
        assert_eq!((held.tenants.len(), places.counts()), (2, (1, 0)), "it is one query");
        assert!(places.ask(slice::from_ref(&a)).unwrap().try_recv().is_err(), "the only place of a is taken");
        assert!(places.ask(slice::from_ref(&b)).unwrap().try_recv().is_err(), "the only place of b is taken");
        let _of_c = taken(&places, &c);
        drop(held);
        assert_eq!(places.take(&both).await.unwrap().tenants.len(), 2);
    }

    #[tokio::test]
    async fn a_query_of_several_tenants_holds_nothing_while_it_waits_for_one() {
        let places = places(4, 1, 10);
        let (a, b) = (tenant("a"), tenant("b"));
        let busy = taken(&places, &b);
        let mut both = places.ask(&[a.clone(), b.clone()]).unwrap();
        let later = places.ask(slice::from_ref(&b)).unwrap();
        let of_a = taken(&places, &a);
        drop(busy);
        assert!(both.try_recv().is_err(), "now it waits for a");
        let later = later.await.unwrap();
        drop(of_a);
        assert!(both.try_recv().is_err(), "and for b again");
        assert_eq!(places.counts(), (1, 1));
        drop(later);
        drop(both.await.unwrap());
        assert_eq!((places.counts(), places.0.state.lock().tenants.len()), ((0, 0), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn queries_of_several_tenants_never_wait_for_each_other_for_ever() {
        let names = ["a", "b", "c", "d"].map(tenant);
        for (concurrent, per_tenant) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
            let places = places(concurrent, per_tenant, 1000);
            let ended = futures::future::join_all((0..200usize).map(|n| {
                let (places, names) = (places.clone(), &names);
                async move {
                    // Each pair, each alone and all, in any order.
                    let mut of: Vec<Tenant> =
                        (0..4).filter(|i| (n % 15 + 1) & (1 << i) != 0).map(|i| names[i].clone()).collect();
                    let by = n % of.len();
                    of.rotate_left(by);
                    let held = places.take(&of).await.unwrap();
                    tokio::task::yield_now().await;
                    assert!(places.counts().0 <= concurrent);
                    drop(held);
                }
            }));
            tokio::time::timeout(std::time::Duration::from_secs(60), ended).await.expect("all have ended");
            assert_eq!((places.counts(), places.0.state.lock().tenants.len()), ((0, 0), 0));
        }
    }
}
