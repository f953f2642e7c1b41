//! Places of a listener: how many connections there may be in all, and how many of one address.
//!
//! In: limits, addresses of clients, what connections say of themselves. Out: a [`Seat`] for each connection, given back
//! when it is dropped. Touches the clock. Where all places are taken, the connection that waits longest for its client
//! (idle, or in the middle of a head or a body) is asked to end; those that are being answered stay.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ConnectionLimits;

/// A place for a connection whose client is not known yet.
#[derive(Debug)]
pub struct Place(#[allow(dead_code)] OwnedSemaphorePermit); // held, given back when dropped

/// What a connection says of itself, and what it is told.
#[derive(Debug, Default)]
pub struct Sitting {
    /// Since when it waits for its client. `None`: it does not, or can't be ended.
    waiting: Mutex<Option<Instant>>,
    /// To end for others.
    leave: CancellationToken,
}

impl Sitting {
    /// It waits for its client from now on.
    pub fn waits(&self) {
        *self.waiting.lock() = Some(Instant::now());
    }

    /// It does something for its client, or became another protocol.
    pub fn works(&self) {
        *self.waiting.lock() = None;
    }

    /// Ends when the connection should end for others.
    pub async fn leave(&self) {
        self.leave.cancelled().await;
    }

    /// Asks it to end.
    pub fn ask_to_leave(&self) {
        self.leave.cancel();
    }

    fn since(&self) -> Option<Instant> {
        *self.waiting.lock()
    }
}

/// A place of a listener, as long as a connection has it.
#[derive(Debug)]
pub struct Seat {
    _place: Place,
    seats: Arc<Seats>,
    address: IpAddr,
    sitting: Arc<Sitting>,
}

impl Seat {
    pub(crate) fn sitting(&self) -> &Arc<Sitting> {
        &self.sitting
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if let Some(of_address) = taken.get_mut(&self.address) {
            of_address.retain(|sitting| !Arc::ptr_eq(sitting, &self.sitting));
            if of_address.is_empty() {
                taken.remove(&self.address);
            }
        }
    }
}

/// Places of a listener, and who has them, by address.
#[derive(Debug)]
pub struct Seats {
    places: Arc<Semaphore>,
    max_per_address: usize,
    shed_after: Duration,
    taken: Mutex<HashMap<IpAddr, Vec<Arc<Sitting>>>>,
}

/// The connection that has waited longest for its client, if that is long enough.
pub fn longest<'s>(all: impl Iterator<Item = &'s Arc<Sitting>>, at_least: Duration) -> Option<Arc<Sitting>> {
    let waiting = all.filter(|sitting| !sitting.leave.is_cancelled());
    let waiting = waiting.filter_map(|sitting| Some((sitting.since()?, sitting)));
    let (since, sitting) = waiting.min_by_key(|(since, _)| *since)?;
    (since.elapsed() >= at_least).then(|| Arc::clone(sitting))
}

impl Seats {
    /// All free.
    pub fn new(limits: &ConnectionLimits) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(limits.max.min(Semaphore::MAX_PERMITS)));
        let (max_per_address, shed_after) = (limits.max_per_address, limits.shed_after);
        Arc::new(Self { places, max_per_address, shed_after, taken: Mutex::default() })
    }

    /// Waits for a place. Where there is none, connections that wait for their clients make room, one for each pause.
    pub async fn place(&self) -> io::Result<Place> {
        loop {
            let acquiring = Arc::clone(&self.places).acquire_owned();
            if self.places.available_permits() > 0 {
                return acquiring.await.map(Place).map_err(io::Error::other);
            }
            let victim = longest(self.taken.lock().values().flatten(), self.shed_after);
            if let Some(victim) = victim {
                victim.ask_to_leave();
            }
            // Not shorter than the pause after which the next one may be asked.
            let pause = self.shed_after.max(Duration::from_millis(1)).min(Duration::from_secs(1));
            if let Ok(acquired) = tokio::time::timeout(pause, acquiring).await {
                return acquired.map(Place).map_err(io::Error::other);
            }
        }
    }

    /// Gives a place to an address; a connection of the same address that waits for its client makes room. `None`: the
    /// address has all that it may.
    pub fn seat(self: &Arc<Self>, place: Place, address: IpAddr) -> Option<Seat> {
        // An IPv4 client is the same whether the listener has IPv4 or both.
        let address = address.to_canonical();
        let mut taken = self.taken.lock();
        let of_address = taken.entry(address).or_default();
        if of_address.len() >= self.max_per_address {
            let victim = longest(of_address.iter(), self.shed_after)?;
            victim.ask_to_leave();
            of_address.retain(|sitting| !Arc::ptr_eq(sitting, &victim));
        }
        let sitting = Arc::new(Sitting::default());
        of_address.push(Arc::clone(&sitting));
        Some(Seat { _place: place, seats: Arc::clone(self), address, sitting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_no_more_than_its_share_and_nothing_stays_behind() {
        let seats = Seats::new(&ConnectionLimits { max: 3, max_per_address: 2, ..ConnectionLimits::default() });
        let (one, mapped, other) = ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2");
        let mut held = Vec::new();
        for (address, want) in [(one, true), (mapped, true), (one, false), (mapped, false), (other, true)] {
            let seat = seats.seat(seats.place().await.unwrap(), address.parse().unwrap());
            assert_eq!(seat.is_some(), want, "{address}");
            held.extend(seat);
        }
        assert_eq!(seats.places.available_permits(), 0);
        held.clear();
        assert_eq!((seats.places.available_permits(), seats.taken.lock().len()), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_longest_for_their_client_make_room() {
        let limits = ConnectionLimits { max: 4, max_per_address: 2, ..ConnectionLimits::default() };
        let seats = Seats::new(&limits);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let sit = |address| {
            let seats = Arc::clone(&seats);
            async move { seats.seat(seats.place().await.unwrap(), address) }
        };
        let asked = |seat: &Seat| seat.sitting.leave.is_cancelled();
        let (first, second) = (sit(one).await.unwrap(), sit(one).await.unwrap());
        second.sitting.waits();
        assert!(sit(one).await.is_none(), "it waits since this moment only");
        tokio::time::advance(limits.shed_after).await;
        first.sitting.waits();
        let third = sit(one).await.unwrap();
        assert!(asked(&second) && !asked(&first), "the one that waited longest");
        // The second has not gone yet: with a fourth, all places are taken, and somebody of any address makes room.
        let fourth = sit(other).await.unwrap();
        fourth.sitting.waits();
        tokio::time::advance(limits.shed_after).await;
        first.sitting.works();
        let waiting = sit(other);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(asked(&fourth) && !asked(&first) && !asked(&third));
        drop(fourth);
        assert!(waiting.await.is_some());
        drop((second, first, third));
        assert_eq!(seats.places.available_permits(), 4);
    }
}
