//! Order of start and of stop: stages are started one after the other and stopped in reverse, each within a limit.
//!
//! In: a future per stage that ends when its token is cancelled. Out: which stage ended by itself, and what each
//! said at the stop. Touches the clock (limits). Owns every task of the process that lives as long as it.
//!
//! Start: broker, routes, catalog, aggregator, rules, APIs, agent: nobody asks a part that is not there yet.
//! Stop: the reverse. The agent goes first, so that nothing new comes in; the broker goes last, so that everything
//! that waits for an acknowledgement still gets it.

use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// What a stage ends with.
pub type StageResult = Result<(), anyhow::Error>;

struct Stage {
    name: &'static str,
    task: Id,
    token: CancellationToken,
    limit: Duration,
    ended: Option<StageResult>,
}

/// All stages, in the order of their start.
#[derive(Default)]
pub struct Stages {
    tasks: JoinSet<StageResult>,
    list: Vec<Stage>,
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

impl Stages {
    /// Starts a stage; `limit` is what it gets at the stop.
    pub fn start<F>(&mut self, name: &'static str, limit: Duration, stage: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = StageResult> + Send + 'static,
    {
        let token = CancellationToken::new();
        let task = self.tasks.spawn(stage(token.clone())).id();
        tracing::debug!(stage = name, "started");
        self.list.push(Stage { name, task, token, limit, ended: None });
    }

    /// Waits until a stage ends although nobody stopped it, and gives its name and what it said.
    pub async fn ended_early(&mut self) -> (&'static str, StageResult) {
        loop {
            match self.join_one().await {
                Some(index) => {
                    let stage = &mut self.list[index];
                    let result = stage.ended.replace(Ok(())).unwrap_or(Ok(()));
                    return (stage.name, result);
                }
                // Nothing runs: nothing can end.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops all in reverse, each within its limit.
    pub async fn stop(mut self) -> Vec<Stopped> {
        let mut stopped = Vec::with_capacity(self.list.len());
        for index in (0..self.list.len()).rev() {
            self.list[index].token.cancel();
            let limit = self.list[index].limit;
            let waited = tokio::time::timeout(limit, self.wait_for(index)).await;
            let stage = &mut self.list[index];
            let result = stage.ended.take().unwrap_or(Ok(()));
            if waited.is_err() {
                tracing::warn!(stage = stage.name, limit = ?stage.limit, "stage did not end within its limit, cut off");
            }
            stopped.push(Stopped { name: stage.name, in_time: waited.is_ok(), result });
        }
        self.tasks.shutdown().await;
        stopped
    }

    async fn wait_for(&mut self, index: usize) {
        while self.list[index].ended.is_none() {
            if self.join_one().await.is_none() {
                return;
            }
        }
    }

    /// Waits for the next task to end and notes its result; `None` when there is none left.
    async fn join_one(&mut self) -> Option<usize> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(anyhow::Error::new(error).context("the stage's task broke off"))),
        };
        let index = self.list.iter().position(|stage| stage.task == id)?;
        self.list[index].ended = Some(result);
        Some(index)
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
        let mut stages = Stages::default();
        for name in ["broker", "aggregator", "agent"] {
            let book = Arc::clone(&book);
            stages.start(name, Duration::from_secs(1), |token| async move {
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
        let mut stages = Stages::default();
        let begun = tokio::time::Instant::now();
        stages.start("broker", Duration::from_secs(5), |token| async move {
            token.cancelled().await;
            Ok(())
        });
        stages.start("agent", Duration::from_secs(3), |_| std::future::pending());
        let stopped = stages.stop().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        let told: Vec<(&str, bool)> = stopped.iter().map(|s| (s.name, s.in_time)).collect();
        assert_eq!(told, [("agent", false), ("broker", true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_ends_by_itself_is_told_with_its_error() {
        let mut stages = Stages::default();
        stages.start("broker", Duration::from_secs(1), |_| async { Err(anyhow::anyhow!("disk is gone")) });
        stages.start("agent", Duration::from_secs(1), |token| async move {
            token.cancelled().await;
            Ok(())
        });
        let (name, result) = stages.ended_early().await;
        assert_eq!((name, result.expect_err("told").to_string().as_str()), ("broker", "disk is gone"));
        let stopped = stages.stop().await;
        assert_eq!(stopped.len(), 2);
    }
}
