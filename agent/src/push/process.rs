//! A program that a source runs, in a process group of its own.
//!
//! In: what to start. Out: its pipes and how it ended. Touches processes. The group ends with its first process: what that
//! one left running is killed, and so is everything when this is dropped.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::metrics::{AgentMetrics, ProgramEnd};

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    group: Group,
}

/// Its process group, killed when it is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        let Some(group) = self.0 else { return };
        // One that is gone already is what is wanted.
        if let Err(error) = kill_process_group(group, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::debug!(%error, ?group, "process group can't be signalled");
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        // From now on the number may be that of others.
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Program {
    /// Starts it, with nothing on its standard input.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, group: Group(pid) })
    }

    /// Its output, if it is a pipe; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its other output.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Asks the whole group to end.
    pub fn ask_to_end(&self) {
        self.group.signal(Signal::TERM);
    }

    /// Ends the whole group.
    pub fn kill(&self) {
        self.group.signal(Signal::KILL);
    }

    /// Waits for the end of its first process, then kills what is left of the group. Dropping the call loses nothing.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.group.kill();
        status
    }

    /// Ends it: asks, and kills what has not ended in time.
    pub async fn stop(mut self, patience: Duration) {
        self.ask_to_end();
        if tokio::time::timeout(patience, self.wait()).await.is_err() {
            self.kill();
            // A process that was killed ends, unless the kernel holds it: then init gets it.
            tokio::time::timeout(patience, self.wait()).await.ok();
        }
    }
}

/// How a program ended, for people and metrics: `exit code 1`, `signal 9`.
pub(super) fn ending(status: &io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        },
        Err(_) => "an unknown end".to_owned(),
    }
}

/// Counts an end.
pub(super) fn count_end(metrics: &AgentMetrics, source: &str, end: &str) {
    let end = ProgramEnd { source: source.to_owned(), end: end.to_owned() };
    metrics.program_ends.get_or_create(&end).inc();
}

/// Waits between starts: twice as long each time, up to a limit.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait, after a run of this length: a run longer than the longest wait begins anew.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran > self.most {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::start(Command::new("sh").args(["-c", script]).stdout(Stdio::piped())).unwrap()
    }

    /// Until all that hold the pipe are gone.
    async fn rest(program: &mut Program) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut text = String::new();
        program.stdout().unwrap().read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn ends_are_told_and_what_is_left_running_is_killed() {
        for (script, want) in
            [("exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ("sleep 600 & exit 0", "exit code 0")]
        {
            let mut program = shell(script);
            assert_eq!(ending(&program.wait().await), want);
            assert_eq!(rest(&mut program).await, "", "{script}");
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_when_it_is_asked_is_killed_with_its_children() {
        use tokio::io::AsyncReadExt as _;
        let mut program = shell("trap '' TERM; sleep 600 & echo ready; wait; sleep 600");
        let mut output = program.stdout().unwrap();
        let mut ready = [0; 6];
        output.read_exact(&mut ready).await.unwrap();
        program.stop(Duration::from_millis(20)).await;
        assert_eq!(output.read_to_end(&mut Vec::new()).await.unwrap(), 0, "nobody holds the pipe");
        let mut program = shell("sleep 600 & echo ready; wait");
        let mut output = program.stdout().unwrap();
        output.read_exact(&mut ready).await.unwrap();
        drop(program);
        assert_eq!(output.read_to_end(&mut Vec::new()).await.unwrap(), 0, "nor after a drop");
    }

    #[test]
    fn waits_grow_and_begin_anew_after_a_long_run() {
        let second = Duration::from_secs;
        let mut backoff = Backoff::new(second(1), second(5));
        let waits: Vec<u64> = [0, 0, 5, 0, 0, 6, 0].map(|ran| backoff.after(second(ran)).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 5, 5, 1, 2]);
    }
}
