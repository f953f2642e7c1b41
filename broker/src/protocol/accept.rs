//! Accepting connections: one task per connection until the stop, then a drain.
//!
//! In: bound sockets. Out: connections within the limits, served by [`crate::protocol::connection`]. Touches the network.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::protocol::admission::admit;
use crate::protocol::connection;
use crate::protocol::context::Core;
use crate::protocol::listener::Listener;

/// Pause after the system refused a connection (mostly: out of file handles).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that open connections have for their last answers at a stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Takes connections until the stop; then lets them finish.
pub(crate) async fn serve(core: Arc<Core>, listener: Arc<Listener>, socket: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, from)) => {
                    let Some(seat) = admit(&core, &listener, from) else { continue };
                    let served = connection::serve(Arc::clone(&core), Arc::clone(&listener), seat, stream, from);
                    // Boxed: a task is compiled for each kind of scheduler, this one is the whole protocol.
                    connections.spawn(served.boxed());
                }
                Err(error) => {
                    if listener.log_limit.may() {
                        tracing::warn!(listener = listener.name, %error, "connections can't be accepted: check the limit of open files");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(socket);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(
            listener = listener.name,
            open = connections.len(),
            "connections are closed before their last answer"
        );
    }
    connections.shutdown().await;
}
