//! Acknowledgements of several batches as one answer.
//!
//! In: parts that are acknowledged or dropped. Out: one answer, once the last of them is gone. Touches nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

/// Answers who waits for several batches when the last of them is gone: acknowledged, or given up.
#[derive(Debug)]
struct Pending {
    reply: Option<oneshot::Sender<bool>>,
    lost: AtomicBool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            // Nobody has to wait for it.
            reply.send(!*self.lost.get_mut()).ok();
        }
    }
}

/// The acknowledgement of one batch.
#[derive(Debug)]
pub(crate) struct BatchAck {
    pending: Arc<Pending>,
    settled: AtomicBool,
}

impl BatchAck {
    /// `count` parts and their common answer: true when all of them are settled, false if one was dropped before.
    pub fn parts(count: usize) -> (Vec<Self>, oneshot::Receiver<bool>) {
        let (reply, answer) = oneshot::channel();
        let pending = Arc::new(Pending { reply: Some(reply), lost: AtomicBool::new(false) });
        let part = |_| Self { pending: Arc::clone(&pending), settled: AtomicBool::new(false) };
        ((0..count).map(part).collect(), answer)
    }

    /// The log has the batch.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }
}

impl Drop for BatchAck {
    fn drop(&mut self) {
        if !*self.settled.get_mut() {
            self.pending.lost.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_once_all_parts_are_gone() {
        for (settled, want) in [(vec![true, true, true], true), (vec![true, false, true], false), (vec![], true)] {
            let (parts, mut answer) = BatchAck::parts(settled.len());
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
