//! Rate limit of log lines: clients must not be able to fill the log.
//!
//! In: something to report. Out: whether it is time for a log line, with the number of what was left out before it.
//! Touches the clock.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Time between two log lines of the same kind.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of log line.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Counts one; how many there were since the last log line, if it is time for another.
    pub fn another(&self) -> Option<u64> {
        let now = Instant::now();
        let (last, count) = &mut *self.0.lock();
        *count += 1;
        if last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn log_lines_are_rare_and_count() {
        let seldom = Seldom::default();
        assert_eq!((seldom.another(), seldom.another(), seldom.another()), (Some(1), None, None));
        tokio::time::advance(PAUSE).await;
        assert_eq!(seldom.another(), Some(3));
    }
}
