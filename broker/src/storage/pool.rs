//! Threads for disk work, so that a slow disk never blocks the network.
//!
//! In: closures. Out: their results. What waits is bounded by the permits that callers take first.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopping: bool,
}

#[derive(Default)]
struct SharedQueue {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The pool takes no more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// Named threads that share one queue.
pub(super) struct Pool {
    shared: Arc<SharedQueue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// Starts the threads. `waiting` bounds the calls of [`Self::run`] that have begun and not ended.
    pub fn start(name: &str, threads: usize, waiting: usize) -> std::io::Result<Self> {
        let shared = Arc::new(SharedQueue::default());
        let threads = (0..threads.max(1))
            .map(|n| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("{name}-{n}")).spawn(move || work(&shared))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let permits = Arc::new(Semaphore::new(waiting.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self { shared, threads: Mutex::new(threads), permits })
    }

    /// Queues work that is bounded by its caller. Runs it here and now if the threads have ended.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if queue.stopping {
            drop(queue);
            job();
            return;
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Runs work on a thread; waits before while too much is waiting already.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stopped> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Stopped)?;
        let (done, result) = oneshot::channel();
        self.submit(move || {
            // Nobody may be waiting any more, the work counts all the same.
            let _unheard = done.send(work());
            drop(permit);
        });
        result.await.map_err(|_| Stopped)
    }

    /// The permits that [`Self::run`] takes, for those who queue work themselves.
    pub fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&self) {
        self.permits.close();
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_all();
        let me = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last owner may be one of the jobs.
            if thread.thread().id() != me && thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(shared: &SharedQueue) {
    loop {
        let mut queue = shared.queue.lock();
        let job = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if queue.stopping {
                return;
            }
            shared.wake.wait(&mut queue);
        };
        drop(queue);
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("disk work panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_and_panics_end_no_thread() {
        let pool = Pool::start("test", 1, 2).unwrap();
        assert_eq!(pool.run(|| panic!("on purpose")).await.map(|()| 0), Err(Stopped));
        assert_eq!(pool.run(|| 7).await, Ok(7));
        pool.stop();
        assert_eq!(pool.run(|| 7).await, Err(Stopped));
    }
}
