//! `type: stdin`: lines of the standard input, as in `producer | millrace agent`.
//!
//! In: whatever stands at file descriptor 0: a pipe, a file, a terminal. Out: batches through the intake. Touches the
//! descriptor from a thread of its own, which waits for input and for the stop at once and so always ends.
//!
//! # What can be promised
//! The producer waits while the agent has no room. At the end of the input everything is sent, and where no other source goes
//! on the agent ends. The input can't be read again: what a killed agent had read and not yet sent is lost (with `agent.spool`
//! only what was not yet in the spool). A line that has no end when the agent stops is sent as it is.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_log::record::Labels;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::intake::Intake;
use super::lines::Lines;
use super::outbox::{Unrepeatable, at};
use super::source::PushSource;
use crate::config::local::StdinSource;
use crate::error::AgentError;
use crate::multiline::Join;

/// Bytes read at a time.
const READ: usize = 64 << 10;
/// Memory of a batch at most, about.
const BATCH_BYTES: usize = 256 << 10;
/// Pieces between the thread and the source.
const PIECES: usize = 4;

/// The source, not yet running.
pub(super) struct Stdin {
    config: StdinSource,
    input: File,
    join: Option<Join>,
}

impl Stdin {
    /// Takes hold of the standard input.
    pub fn open(config: &StdinSource) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Input { name: config.full_name(), source };
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let join = config.multiline.as_ref().map(Join::new).transpose()?;
        Ok(Self { config: config.clone(), input: input.into(), join })
    }
}

/// Reads until the end of the input, until nobody takes it, or until the other end of `wake` is closed.
fn pump(mut input: impl Read + AsFd, wake: &PipeReader, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; READ];
    loop {
        let mut waiting = [PollFd::new(&input, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) if !waiting[1].revents().is_empty() => return,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                // Nobody has to listen any more.
                pieces.blocking_send(Err(error.into())).ok();
                return;
            }
        }
        let piece = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default())),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
            Err(error) => Err(error),
        };
        let is_end = piece.is_err();
        if pieces.blocking_send(piece).is_err() || is_end {
            return;
        }
    }
}

/// The reading thread's end: closing it ends the thread.
struct Pump {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    _wake: PipeWriter,
}

impl Pump {
    fn start(input: File) -> io::Result<Self> {
        let (wake, writer) = io::pipe()?;
        let (sender, pieces) = mpsc::channel(PIECES);
        std::thread::Builder::new().name("agent-stdin".to_owned()).spawn(move || pump(input, &wake, &sender))?;
        Ok(Self { pieces, _wake: writer })
    }
}

#[async_trait]
impl PushSource for Stdin {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let name = self.config.full_name();
        let started = Pump::start(self.input);
        let mut input = started.map_err(|source| AgentError::Thread { name: "agent-stdin", source })?;
        let stream = intake
            .stream(&Labels::default(), None)
            .map_err(|why| AgentError::Setting { key: format!("sources[{name}].labels"), reason: why.to_string() })?;
        let lines = Lines::new(intake.max_line(), self.join);
        let mut channel = Channel::new(lines, stream, Labels::default(), self.config.multiline.as_ref());
        let mut sent = Unrepeatable::new(&name);
        let mut outcome = Ok(());
        loop {
            let mut batch = intake.batch();
            let mut bytes = 0;
            let mut ended = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sent.settle(&intake), if !sent.is_empty() => continue,
                piece = input.pieces.recv() => match piece {
                    Some(Ok(piece)) => bytes += channel.feed(&piece, &mut batch),
                    Some(Err(source)) => {
                        outcome = Err(AgentError::Input { name: name.clone(), source });
                        ended = true;
                    }
                    None => ended = true,
                },
                () = at(channel.due()) => bytes += channel.flush(&mut batch),
            }
            while !ended && batch.cost() < BATCH_BYTES {
                match input.pieces.try_recv() {
                    Ok(Ok(piece)) => bytes += channel.feed(&piece, &mut batch),
                    Ok(Err(source)) => {
                        outcome = Err(AgentError::Input { name: name.clone(), source });
                        ended = true;
                    }
                    Err(_) => break,
                }
            }
            channel.count_lost(&intake);
            if !sent.send(&intake, batch, bytes).await || ended {
                break;
            }
        }
        // What the thread has read already is as good as taken.
        let mut batch = intake.batch();
        let mut bytes = 0;
        input.pieces.close();
        while let Ok(Ok(piece)) = input.pieces.try_recv() {
            bytes += channel.feed(&piece, &mut batch);
        }
        bytes += channel.finish(&mut batch);
        channel.count_lost(&intake);
        sent.send(&intake, batch, bytes).await;
        drop(input);
        tracing::info!(source = name, "stopped reading standard input");
        sent.drain(&intake).await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_thread_ends_with_its_input_with_its_reader_and_at_the_stop() {
        // The end of the input.
        let (reader, mut writer) = io::pipe().unwrap();
        let mut pump = Pump::start(File::from(std::os::fd::OwnedFd::from(reader))).unwrap();
        writer.write_all(b"one").unwrap();
        assert_eq!(pump.pieces.blocking_recv().unwrap().unwrap(), "one");
        drop(writer);
        assert!(pump.pieces.blocking_recv().is_none());
        // The stop, while nothing comes.
        let (reader, _writer) = io::pipe().unwrap();
        let (wake, wake_writer) = io::pipe().unwrap();
        let (sender, _pieces) = mpsc::channel(PIECES);
        let thread = std::thread::spawn(move || super::pump(reader, &wake, &sender));
        drop(wake_writer);
        thread.join().unwrap();
        // Nobody takes what comes.
        let (reader, mut writer) = io::pipe().unwrap();
        let (wake, _wake_writer) = io::pipe().unwrap();
        let (sender, pieces) = mpsc::channel(PIECES);
        drop(pieces);
        let thread = std::thread::spawn(move || super::pump(reader, &wake, &sender));
        writer.write_all(b"x").unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn files_and_folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "text").unwrap();
        let mut pump = Pump::start(File::open(&path).unwrap()).unwrap();
        assert_eq!(pump.pieces.blocking_recv().unwrap().unwrap(), "text");
        assert!(pump.pieces.blocking_recv().is_none());
        let mut pump = Pump::start(File::open(folder.path()).unwrap()).unwrap();
        assert!(pump.pieces.blocking_recv().unwrap().is_err());
        assert!(pump.pieces.blocking_recv().is_none());
    }
}
