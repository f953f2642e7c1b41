//! One stream of bytes on its way to batches: standard input, or an output of a command.
//!
//! In: bytes in pieces of any size. Out: records in a batch. Touches nothing.

use std::time::{Duration, Instant};

use millrace_log::record::Labels;

use super::intake::{Batch, Intake};
use super::lines::Lines;
use super::records::Line;
use super::streams::Stream;
use crate::ledger::REASON_CUT;
use crate::multiline::MultilineConfig;

/// One stream of bytes on its way to batches.
pub(super) struct Channel {
    lines: Lines,
    stream: Stream,
    metadata: Labels,
    /// How long an event that may go on is waited for.
    quiet: Duration,
    fed: Instant,
}

impl Channel {
    pub fn new(lines: Lines, stream: Stream, metadata: Labels, multiline: Option<&MultilineConfig>) -> Self {
        let quiet = multiline.map_or(Duration::ZERO, |multiline| multiline.timeout.0);
        Self { lines, stream, metadata, quiet, fed: Instant::now() }
    }

    fn each<'b>(
        stream: &'b Stream,
        metadata: &'b Labels,
        batch: &'b mut Batch,
        bytes: &'b mut u64,
    ) -> impl FnMut(&[u8]) {
        let metadata = (!metadata.is_empty()).then_some(metadata);
        move |text| {
            *bytes += text.len() as u64;
            batch.push(stream, Line { text, time_ns: None, metadata });
        }
    }

    /// Takes a piece; gives the bytes of the lines that it added to the batch.
    pub fn feed(&mut self, piece: &[u8], batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.feed(piece, &mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        self.fed = Instant::now();
        bytes
    }

    /// When an event that may go on will have waited long enough; `None` if there is none.
    pub fn due(&self) -> Option<Instant> {
        self.lines.is_waiting().then(|| self.fed + self.quiet)
    }

    /// Nothing came for a while.
    pub fn flush(&mut self, batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.flush(&mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        bytes
    }

    /// Nothing more comes.
    pub fn finish(&mut self, batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.finish(&mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        bytes
    }

    /// Counts what was cut off.
    pub fn count_lost(&mut self, intake: &Intake) {
        let lost = self.lines.take_lost();
        if lost > 0 {
            intake.dropped(REASON_CUT, 0, lost);
        }
    }
}
