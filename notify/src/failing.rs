//! Receivers that take no notifications: which, why, since when.
//!
//! In: attempts that failed, messages that were taken. Out: texts for `/ready` and `millrace doctor`. Touches nothing. Holds
//! one entry for each integration at most, and forgets all at a reload, as receivers may have gone.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long attempts may fail before that is worth a notice: a receiver that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Receiver, type of the integration, its number in the receiver.
type Name = (String, &'static str, usize);

#[derive(Debug)]
struct Failure {
    since: Instant,
    reason: String,
    /// Another try would end the same way.
    refused: bool,
}

/// Integrations whose last attempt failed.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<BTreeMap<Name, Failure>>);

impl Failing {
    /// An attempt failed; `refused`: for good.
    pub(crate) fn failed(&self, receiver: &str, integration: &'static str, number: usize, reason: &str, refused: bool) {
        let mut all = self.0.lock();
        let failure = all.entry((receiver.to_owned(), integration, number)).or_insert_with(|| Failure {
            since: Instant::now(),
            reason: String::new(),
            refused,
        });
        reason.clone_into(&mut failure.reason);
        failure.refused = refused;
    }

    /// A message was taken.
    pub(crate) fn took(&self, receiver: &str, integration: &'static str, number: usize) {
        self.0.lock().remove(&(receiver.to_owned(), integration, number));
    }

    /// Other receivers are at work now.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// What lasts: refusals at once, attempts that fail after a while.
    pub(crate) fn notices(&self) -> Vec<String> {
        let all = self.0.lock();
        let lasting = all.iter().filter(|(_, failure)| failure.refused || failure.since.elapsed() >= PATIENCE);
        let text = |((receiver, integration, _), failure): (&Name, &Failure)| {
            let (seconds, reason) = (failure.since.elapsed().as_secs(), &failure.reason);
            format!(
                "receiver `{receiver}` ({integration}) has taken no notification for {seconds} s, and is tried again: {reason}"
            )
        };
        lasting.map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_noticed_at_once_and_attempts_that_fail_when_it_lasts() {
        let failing = Failing::default();
        failing.failed("ops", "webhook", 0, "connection refused", false);
        assert!(failing.notices().is_empty(), "it may only restart");
        tokio::time::advance(PATIENCE).await;
        failing.failed("ops", "webhook", 0, "HTTP 503", false);
        let want = "receiver `ops` (webhook) has taken no notification for 30 s, and is tried again: HTTP 503";
        assert_eq!(failing.notices(), [want]);
        failing.failed("dba", "webhook", 1, "HTTP 404", true);
        assert_eq!(failing.notices().len(), 2);
        failing.took("ops", "webhook", 0);
        assert!(failing.notices()[0].starts_with("receiver `dba`"), "{:?}", failing.notices());
        failing.clear();
        assert!(failing.notices().is_empty());
    }
}
