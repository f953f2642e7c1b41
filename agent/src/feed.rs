//! What the lanes know of a source, whatever it is: a file, or one of the sources that are pushed to.
//!
//! In: what the lanes got acknowledged. Out: identities for records. Touches nothing itself.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use crate::error::AgentError;
use crate::ledger::Lost;
use crate::source::{Anchor, Identity, Taken};
use crate::state::State;
use crate::transform::Chain;

/// A source as the lanes see it.
pub(crate) trait Feed: Debug + Send + Sync {
    /// Id and key for the records to be sent now.
    fn identity(&self) -> Identity;

    /// What happens to its events before they are sent; `None`: nothing.
    fn chain(&self) -> Option<&Arc<Chain>>;

    /// For people and programs: the file, or the name of the source.
    fn name(&self) -> Cow<'_, str>;

    /// Its type as the configuration has it.
    fn kind(&self) -> &'static str;

    /// What was taken is acknowledged, but for the part that was dropped or went to the dead letters.
    fn settle(&self, to: Anchor, taken: Taken, lost: &Lost);

    /// Goes on under a new id, because the log took later records of the old one before earlier ones: a reader that
    /// keeps the highest position of each source would drop the earlier ones. Durable when this returns. Blocks.
    fn move_on(&self, state: &State) -> Result<(), AgentError>;
}

/// Tells who waits for several hauls when the last of them is gone: acknowledged, or given up.
#[derive(Debug)]
struct Ticket {
    reply: Option<oneshot::Sender<bool>>,
    lost: AtomicBool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            // Nobody has to wait for it.
            reply.send(!*self.lost.get_mut()).ok();
        }
    }
}

/// One haul's part of a ticket.
#[derive(Debug)]
pub(crate) struct Done {
    ticket: Arc<Ticket>,
    settled: AtomicBool,
}

impl Done {
    /// So many parts; the answer is true when all of them are settled, false if one was dropped before it was.
    pub fn parts(count: usize) -> (Vec<Self>, oneshot::Receiver<bool>) {
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket { reply: Some(reply), lost: AtomicBool::new(false) });
        let part = |_| Self { ticket: Arc::clone(&ticket), settled: AtomicBool::new(false) };
        ((0..count).map(part).collect(), answer)
    }

    /// Acknowledged.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if !*self.settled.get_mut() {
            self.ticket.lost.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_answered_once_all_parts_are_gone() {
        for (settled, want) in [(vec![true, true, true], true), (vec![true, false, true], false), (vec![], true)] {
            let (parts, mut answer) = Done::parts(settled.len());
            for (part, settled) in parts.into_iter().zip(&settled) {
                assert!(answer.try_recv().is_err(), "not before the last");
                if *settled {
                    part.settle();
                }
            }
            assert_eq!(answer.try_recv(), Ok(want), "{settled:?}");
        }
    }
}
