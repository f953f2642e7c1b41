//! Admission of connections: the limits of the listener and of the broker.
//!
//! In: the address of a new connection. Out: [`Admitted`], given back when the connection ends; or a refusal, counted and
//! logged now and then. Touches nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_doors::seats::Sitting;

use crate::metrics::{EndLabel, ListenerLabel};
use crate::protocol::context::Core;
use crate::protocol::listener::Listener;
use crate::protocol::listener::limits::Seat;

/// A seat in the listener and one in the broker.
#[derive(Debug)]
pub(crate) struct Admitted {
    seat: Seat,
    core: Arc<Core>,
    listener: &'static str,
}

impl Admitted {
    /// What the connection says of itself, and what it is told.
    pub fn sitting(&self) -> Arc<Sitting> {
        self.seat.sitting()
    }

    /// The client has shown who it is.
    pub fn is_known_now(&mut self) {
        self.seat.is_known_now();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.core.open_connections.fetch_sub(1, Ordering::Relaxed);
        self.core.metrics.connections.get_or_create(&ListenerLabel { listener: self.listener }).dec();
    }
}

/// Takes a connection if the limits allow it.
pub(crate) fn admit(core: &Arc<Core>, listener: &Arc<Listener>, from: SocketAddr) -> Option<Admitted> {
    let seat = listener.limits.seat(from.ip(), listener.has_strangers());
    let (cause, setting) = match seat {
        Ok(seat) => {
            if core.open_connections.fetch_add(1, Ordering::Relaxed) < core.config.max_connections {
                let label = ListenerLabel { listener: listener.name };
                core.metrics.connections.get_or_create(&label).inc();
                return Some(Admitted { seat, core: Arc::clone(core), listener: listener.name });
            }
            core.open_connections.fetch_sub(1, Ordering::Relaxed);
            ("limit", "max_connections")
        }
        Err(full) => (full.cause(), full.setting()),
    };
    core.metrics.connections_ended.get_or_create(&EndLabel { listener: listener.name, cause }).inc();
    if listener.log_limit.may() {
        tracing::warn!(listener = listener.name, %from, setting, "connection refused: the limit is reached");
    }
    None
}
