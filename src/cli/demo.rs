//! `millrace demo`.

use std::time::Duration;

use super::runtime::block_on;
use super::serve::Signals;
use super::terminal::print;
use crate::demo::Demo;
use crate::exit::{Code, Failure};

/// Runs until the time is over or a signal comes.
pub fn demo(time: Option<Duration>) -> Result<(), Failure> {
    block_on(async {
        let mut signals = Signals::listen()?;
        let show = |line: &str| drop(print(&format!("{line}\n")));
        let mut demo = tokio::select! {
            started = Demo::start(show) => started?,
            () = signals.next() => return Ok(()),
        };
        let over = async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = over => None,
            () = signals.next() => None,
            ended = demo.ended_early() => Some(ended),
        };
        let seen = demo.seen();
        tokio::select! {
            stopped = demo.stop() => stopped?,
            () = signals.next() => return Err(Failure::text(Code::Interrupted, "ended by a second signal")),
        }
        if let Some((stage, result)) = ended {
            let error = result.err().unwrap_or_else(|| anyhow::anyhow!("it ended unexpectedly"));
            return Err(Failure::new(Code::Failed, error.context(format!("{stage} failed"))));
        }
        match (seen.paged_after, seen.resolved) {
            (Some(_), true) => Ok(()),
            _ if time.is_none() => Ok(()),
            (None, _) => Err(Failure::text(Code::Failed, "no page arrived within the given time")),
            (Some(_), false) => {
                Err(Failure::text(Code::Failed, "a page arrived, but was not resolved within the given time"))
            }
        }
    })
}
