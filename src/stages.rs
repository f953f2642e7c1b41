//! Order of start and of stop: stages are started one after the other and stopped in reverse, each within a limit; those
//! of one part can stop and start again while the others go on.
//!
//! In: a future per stage that ends when its token is cancelled. Out: which stage ended by itself, and what each
//! said at the stop. Touches the clock (limits). Owns every task of the process that lives as long as it.
//!
//! Start: broker, audit events, routes, index, notifier, rules, exports, agent, then the APIs: nobody asks a part that is not
//! there yet. Stop: agent, exports, APIs, and the others in reverse. The agent goes first, so that nothing new comes in; the
//! broker goes last, so that everything that waits for an acknowledgement still gets it.

use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// What a stage gets at the stop before it is cut off. The agent bounds its own draining below that.
pub const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a stage ends with.
pub type StageResult = Result<(), anyhow::Error>;

struct Stage<P> {
    part: P,
    name: &'static str,
    task: AbortHandle,
    token: CancellationToken,
    limit: Duration,
    ended: Option<StageResult>,
    /// That it ended by itself was said already.
    reported: bool,
}

/// All stages: those of a part stop before those of the parts that are less than it.
pub struct Stages<P> {
    tasks: JoinSet<StageResult>,
    list: Vec<Stage<P>>,
}

impl<P> Default for Stages<P> {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), list: Vec::new() }
    }
}

/// How a stage stopped.
#[derive(Debug)]
pub struct Stopped {
    /// Its name.
    pub name: &'static str,
    /// Whether it ended within its limit; else it was cut off.
    pub in_time: bool,
    /// What it ended with.
    pub result: StageResult,
}

impl<P: Copy + Ord> Stages<P> {
    /// Starts a stage of a part; `limit` is what it gets at the stop.
    pub fn start<F>(&mut self, part: P, name: &'static str, limit: Duration, stage: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = StageResult> + Send + 'static,
    {
        let token = CancellationToken::new();
        let task = self.tasks.spawn(stage(token.clone()));
        tracing::debug!(stage = name, "started");
        self.list.push(Stage { part, name, task, token, limit, ended: None, reported: false });
    }

    /// Waits until a stage ends although nobody stopped it, and gives its name and what it said.
    pub async fn ended_early(&mut self) -> (&'static str, StageResult) {
        loop {
            if let Some(stage) = self.list.iter_mut().find(|stage| stage.ended.is_some() && !stage.reported) {
                stage.reported = true;
                return (stage.name, stage.ended.replace(Ok(())).unwrap_or(Ok(())));
            }
            if !self.join_one().await {
                // Nothing runs: nothing can end.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops all, the greatest part first and within a part in reverse, each within its limit.
    pub async fn stop(mut self) -> Vec<Stopped> {
        let stopped = self.stop_where(|_| true).await;
        self.tasks.shutdown().await;
        stopped
    }

    /// Stops the stages of some parts, in the same order. The others go on.
    pub async fn stop_where(&mut self, chosen: impl Fn(P) -> bool) -> Vec<Stopped> {
        let mut order: Vec<(P, usize, Id)> =
            self.list.iter().enumerate().map(|(i, s)| (s.part, i, s.task.id())).collect();
        order.retain(|(part, ..)| chosen(*part));
        order.sort_unstable_by_key(|(part, i, _)| std::cmp::Reverse((*part, *i)));
        let mut stopped = Vec::with_capacity(order.len());
        for (.., task) in order {
            stopped.extend(self.stop_one(task).await);
        }
        stopped
    }

    /// Stops one stage and forgets it.
    async fn stop_one(&mut self, task: Id) -> Option<Stopped> {
        let index = self.list.iter().position(|stage| stage.task.id() == task)?;
        self.list[index].token.cancel();
        let limit = self.list[index].limit;
        let waited = tokio::time::timeout(limit, self.wait_for(task)).await;
        let stage = self.list.remove(index);
        if waited.is_err() {
            stage.task.abort();
            tracing::warn!(stage = stage.name, limit = ?stage.limit, "stage did not stop within its time limit and was aborted");
        }
        Some(Stopped { name: stage.name, in_time: waited.is_ok(), result: stage.ended.unwrap_or(Ok(())) })
    }

    async fn wait_for(&mut self, task: Id) {
        while self.list.iter().any(|stage| stage.task.id() == task && stage.ended.is_none()) {
            if !self.join_one().await {
                return;
            }
        }
    }

    /// Waits for the next task to end and notes its result; false when there is none left.
    async fn join_one(&mut self) -> bool {
        let (id, result) = match self.tasks.join_next_with_id().await {
            None => return false,
            Some(Ok((id, result))) => (id, result),
            Some(Err(error)) => (error.id(), Err(anyhow::Error::new(error).context("the stage's task was aborted"))),
        };
        if let Some(stage) = self.list.iter_mut().find(|stage| stage.task.id() == id) {
            stage.ended = Some(result);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    type Book = Arc<Mutex<Vec<String>>>;

    fn note(book: &Book, word: &str) {
        book.lock().push(word.to_owned());
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_reverse_order() {
        let book = Book::default();
        let mut stages = Stages::<u8>::default();
        for (part, name) in [(0, "broker"), (9, "agent"), (3, "aggregator")] {
            let book = Arc::clone(&book);
            stages.start(part, name, Duration::from_secs(1), |token| async move {
                token.cancelled().await;
                note(&book, name);
                Ok(())
            });
        }
        let stopped = stages.stop().await;
        assert_eq!(*book.lock(), ["agent", "aggregator", "broker"]);
        assert!(stopped.iter().all(|s| s.in_time && s.result.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_hangs_is_cut_off_after_its_limit() {
        let mut stages = Stages::<u8>::default();
        let begun = tokio::time::Instant::now();
        stages.start(0, "broker", Duration::from_secs(5), |token| async move {
            token.cancelled().await;
            Ok(())
        });
        stages.start(9, "agent", Duration::from_secs(3), |_| std::future::pending());
        let stopped = stages.stop().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        let told: Vec<(&str, bool)> = stopped.iter().map(|s| (s.name, s.in_time)).collect();
        assert_eq!(told, [("agent", false), ("broker", true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_ends_by_itself_is_told_with_its_error() {
        let mut stages = Stages::<u8>::default();
        stages.start(0, "broker", Duration::from_secs(1), |_| async { Err(anyhow::anyhow!("disk is gone")) });
        stages.start(9, "agent", Duration::from_secs(1), |token| async move {
            token.cancelled().await;
            Ok(())
        });
        let (name, result) = stages.ended_early().await;
        assert_eq!((name, result.expect_err("told").to_string().as_str()), ("broker", "disk is gone"));
        let stopped = stages.stop().await;
        assert_eq!(stopped.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_part_stops_and_starts_while_the_others_go_on() {
        let book = Book::default();
        let mut stages = Stages::<u8>::default();
        let start = |stages: &mut Stages<u8>, part: u8, name: &'static str| {
            let book = Arc::clone(&book);
            stages.start(part, name, Duration::from_secs(1), |token| async move {
                token.cancelled().await;
                note(&book, name);
                Ok(())
            });
        };
        for (part, name) in [(0, "broker"), (1, "rules"), (9, "agent")] {
            start(&mut stages, part, name);
        }
        let stopped = stages.stop_where(|part| part == 1).await;
        assert_eq!(stopped.len(), 1);
        assert_eq!(*book.lock(), ["rules"]);
        start(&mut stages, 1, "rules");
        assert_eq!(stages.stop().await.len(), 3);
        assert_eq!(*book.lock(), ["rules", "agent", "rules", "broker"], "started again, it has its place in the order");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_ends_while_another_stops_is_reported_afterwards() {
        let mut stages = Stages::<u8>::default();
        stages.start(0, "broker", Duration::from_secs(1), |_| async { Err(anyhow::anyhow!("disk is gone")) });
        stages.start(9, "agent", Duration::from_secs(1), |token| async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        });
        stages.stop_where(|part| part == 9).await;
        assert_eq!(stages.ended_early().await.0, "broker");
    }
}
