//! Periodic work of the broker: sessions and expiry of groups, transactions, certificates that change.
//!
//! In: the clock. Out: changes through the coordinators. Touches the log through them, and the files of certificates. Each
//! function runs until the stop.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::context::Core;
use millrace_doors::tls::Tls;

/// Time between two checks of group members' sessions.
const GROUP_TICK: Duration = Duration::from_millis(100);
/// Time between two removals of expired offsets.
const GROUP_TIDY: Duration = Duration::from_secs(60);
/// Time between two looks at the files of certificates.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);

/// Looks at the files of certificates now and then, until the stop.
pub(crate) async fn keep_certificates(core: Arc<Core>) {
    let mut check = tokio::time::interval(CERTIFICATE_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = check.tick() => {}
        }
        for listener in core.listeners.iter().filter(|listener| listener.tls.is_some()) {
            let of = Arc::clone(listener);
            let refreshed = tokio::task::spawn_blocking(move || of.tls.as_ref().map(Tls::refresh)).await;
            match refreshed {
                Ok(Some(Ok(true))) => tracing::info!(listener = listener.name, "certificates reloaded"),
                Ok(Some(Err(error))) => {
                    tracing::error!(listener = listener.name, %error, "cannot reload certificates, the previous ones remain in use");
                }
                _ => {}
            }
        }
    }
}

/// Sessions, rebalances and expiry of groups, until the stop; then what changed last is kept.
pub(crate) async fn keep_groups(core: Arc<Core>) {
    let mut tick = tokio::time::interval(GROUP_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tidied = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        core.groups.tick().await;
        if tidied.elapsed() >= GROUP_TIDY {
            tidied = tokio::time::Instant::now();
            core.groups.tidy().await;
        }
    }
    core.groups.tick().await;
}

/// Markers, time-outs and expiry of transactions, until the stop.
pub(crate) async fn keep_transactions(core: Arc<Core>) {
    core.transactions.run(&core.groups, core.stop.clone()).await;
}
