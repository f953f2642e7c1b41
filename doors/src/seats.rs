//! Places of a listener: how many connections there may be in all, and how many of one address.
//!
//! In: limits, addresses of clients. Out: a [`Seat`] for each connection, given back when it is dropped. Touches nothing.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::ConnectionLimits;

/// A place for a connection whose client is not known yet.
#[derive(Debug)]
pub struct Place(#[allow(dead_code)] OwnedSemaphorePermit); // held, given back when dropped

/// A place of a listener, as long as a connection has it.
#[derive(Debug)]
pub struct Seat {
    _place: Place,
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// Places of a listener, and how many each address has.
#[derive(Debug)]
pub struct Seats {
    places: Arc<Semaphore>,
    max_per_address: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Seats {
    /// All free.
    pub fn new(limits: &ConnectionLimits) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(limits.max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { places, max_per_address: limits.max_per_address, taken: Mutex::default() })
    }

    /// Waits for a place.
    pub async fn place(&self) -> io::Result<Place> {
        Arc::clone(&self.places).acquire_owned().await.map(Place).map_err(io::Error::other)
    }

    /// Gives a place to an address. `None`: it has all that it may.
    pub fn seat(self: &Arc<Self>, place: Place, address: IpAddr) -> Option<Seat> {
        // An IPv4 client is the same whether the listener has IPv4 or both.
        let address = address.to_canonical();
        let mut taken = self.taken.lock();
        let count = taken.entry(address).or_default();
        if *count >= self.max_per_address {
            return None;
        }
        *count += 1;
        Some(Seat { _place: place, seats: Arc::clone(self), address })
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
}
