//! Reads the journal by a child process: starts journalctl, follows what it prints, keeps cursors.
//!
//! In: bytes of journalctl. Out: batches, and a cursor that is kept once the log has everything before it. Touches one
//! process.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use millrace_log::record::Labels;
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::complaints::Complaints;
use super::entry::{Fields, JournalEntry};
use super::export::{Export, ExportItem};
use super::position::{EntryAction, JournalPosition, Missing};
use crate::config::ReadFrom;
use crate::config::local::{Boots, JournaldSource};
use crate::error::AgentError;
use crate::ledger::REASON_CUT;
use crate::metrics::OfSource;
use crate::push::intake::{Batch, Intake};
use crate::push::outbox::Outbox;
use crate::push::process::{Backoff, Program, count_end, ending};
use crate::push::records::Line;
use crate::push::rejected::Rejected;
use crate::push::streams::Stream;

/// Bytes read at a time.
const READ: usize = 64 << 10;
/// Memory of a batch at most, about.
const BATCH_BYTES: usize = 256 << 10;
/// Entries of a batch at most.
const BATCH_ENTRIES: usize = 4096;
/// Waits before journalctl is started again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long journalctl may take to end.
const STOP: Duration = Duration::from_secs(1);
/// How long it may take to find the end of the journal.
const FIND: Duration = Duration::from_secs(60);
/// Entries that are not there any more, in the ledger.
const REASON_GAP: &str = "gap";
/// What was no entry, in the ledger.
const REASON_MALFORMED: &str = "malformed";

/// Why journalctl is read from no more.
enum FollowEnd {
    /// The agent stops.
    Stop,
    /// It ended, or could not be started.
    Program(String),
    /// Something was not sent: it is to be read again.
    Again,
}

/// Reads the journal from where it stands, by one journalctl after the other.
pub(super) struct Follower {
    pub name: String,
    pub config: JournaldSource,
    pub intake: Intake,
    pub fields: Fields,
    pub plain: Stream,
    pub position: JournalPosition,
    /// Batches with the bookmark that may be kept once the log has them.
    pub outbox: Outbox<Bytes>,
    /// Entries were passed over since the last batch.
    pub idle_mark: bool,
    /// This user does not see everything: numbers that are left out mean nothing.
    pub partial_sight: bool,
}

impl Follower {
    /// Until the agent stops.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<(), AgentError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let started = Instant::now();
            let end = match self.find_end(stop).await? {
                Some(end) => end,
                None => self.follow(stop).await?,
            };
            let wait = backoff.after(started.elapsed());
            match end {
                FollowEnd::Stop => break,
                FollowEnd::Again => {
                    tracing::warn!(source = self.name, "reading the journal again from the last saved cursor");
                    self.outbox = Outbox::new();
                    let kept = self.intake.bookmark();
                    let damaged = |source| AgentError::StateEntry { key: self.name.clone(), source };
                    self.position.back_to(kept.as_deref()).map_err(damaged)?;
                    self.intake.keep_bookmark_now(self.position.bookmark()).await?;
                }
                FollowEnd::Program(why) => {
                    tracing::error!(source = self.name, why, retry_in = ?wait, "can't read the journal: {}", self.cure(&why));
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // The senders go on: what they still bring to the log need not be read again.
        while let Some((result, mark)) = self.outbox.next().await {
            if result.is_err() {
                break;
            }
            self.intake.keep_bookmark(mark);
        }
        Ok(())
    }

    fn cure(&self, why: &str) -> String {
        let program = &self.config.journalctl;
        if why.contains("not found") {
            return format!(
                "install systemd, or name the program by `journalctl` of the source ({program} is not there)"
            );
        }
        if why.contains("ermission") {
            return "add the agent's user to the group systemd-journal".to_owned();
        }
        format!("try `{program} -n 1` as the agent's user, which must be in the group systemd-journal")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.config.journalctl);
        command.env("LC_ALL", "C").args(["--output=export", "--no-pager", "--all"]);
        if !self.config.directory.is_empty() {
            command.arg(format!("--directory={}", self.config.directory));
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Everything but where to begin.
    fn selection(&self) -> Vec<String> {
        let config = &self.config;
        let option = |name: &'static str| move |value: &String| format!("--{name}={value}");
        let mut all: Vec<String> = config.units.iter().map(option("unit")).collect();
        all.extend(config.identifiers.iter().map(option("identifier")));
        if !config.priority.is_empty() {
            all.push(format!("--priority={}", config.priority));
        }
        if config.boot == Boots::Current {
            all.push("--boot".to_owned());
        }
        all.extend(config.matches.iter().cloned());
        all
    }

    fn start(&self, command: &mut Command) -> Result<Program, FollowEnd> {
        let of_source = OfSource { source: self.name.clone() };
        match Program::start(command) {
            Ok(program) => {
                self.intake.metrics().program_starts.get_or_create(&of_source).inc();
                Ok(program)
            }
            Err(error) => {
                count_end(self.intake.metrics(), &self.name, "not started");
                let why = if error.kind() == std::io::ErrorKind::NotFound { "not found" } else { "can't be started" };
                Err(FollowEnd::Program(format!("{} {why}: {error}", self.config.journalctl)))
            }
        }
    }

    /// At the very first start with `read_from: end`: keeps where the journal ends now, so that a crash before the first
    /// entry skips nothing.
    async fn find_end(&mut self, stop: &CancellationToken) -> Result<Option<FollowEnd>, AgentError> {
        if self.config.read_from == ReadFrom::Beginning || self.intake.bookmark().is_some() {
            return Ok(None);
        }
        let mut program = match self.start(self.command().arg("--lines=1")) {
            Ok(program) => program,
            Err(end) => return Ok(Some(end)),
        };
        let (Some(mut stdout), Some(mut stderr)) = (program.stdout(), program.stderr()) else {
            return Ok(Some(FollowEnd::Program("journalctl has no pipes".to_owned())));
        };
        let (mut export, mut buffer, mut complaints) = (self.fields.reader(), BytesMut::new(), Complaints::new());
        let mut cursor = None;
        let limit = tokio::time::sleep(FIND);
        tokio::pin!(limit);
        loop {
            buffer.reserve(READ);
            tokio::select! {
                () = stop.cancelled() => return Ok(Some(FollowEnd::Stop)),
                () = &mut limit => return Ok(Some(FollowEnd::Program("journalctl did not find the end of the journal in time".to_owned()))),
                read = stderr.read_buf(complaints.buffer()), if complaints.is_open() => self.heard(&mut complaints, read),
                read = stdout.read_buf(&mut buffer) => {
                    if read.unwrap_or(0) == 0 {
                        break;
                    }
                    while let Some(found) = export.next(&mut buffer) {
                        if found == ExportItem::Entry {
                            cursor = Some(self.fields.entry(&export).cursor().to_vec());
                        }
                    }
                }
            }
        }
        let status = program.wait().await;
        let end = ending(&status);
        count_end(self.intake.metrics(), &self.name, &end);
        if !status.is_ok_and(|status| status.success()) {
            return Ok(Some(FollowEnd::Program(complaints.with(&end))));
        }
        if let Some(cursor) = cursor {
            self.position.begin_at(&cursor);
        }
        self.intake.keep_bookmark_now(self.position.bookmark()).await?;
        Ok(None)
    }

    /// Reads until journalctl ends, the agent stops, or something must be read again.
    async fn follow(&mut self, stop: &CancellationToken) -> Result<FollowEnd, AgentError> {
        let mut command = self.command();
        command.args(["--follow", "--no-tail"]);
        if let Some(cursor) = self.position.cursor() {
            // Not --after-cursor: the entry itself tells whether anything is missing behind it.
            command.arg(format!("--cursor={cursor}"));
        }
        command.args(self.selection());
        self.position.started();
        let mut program = match self.start(&mut command) {
            Ok(program) => program,
            Err(end) => return Ok(end),
        };
        let (Some(stdout), Some(stderr)) = (program.stdout(), program.stderr()) else {
            return Ok(FollowEnd::Program("journalctl has no pipes".to_owned()));
        };
        tracing::info!(source = self.name, cursor = self.position.cursor(), "reading the journal");
        let mut complaints = Complaints::new();
        let end = self.read(stdout, stderr, &mut complaints, stop).await?;
        if let Some(end) = end {
            program.stop(STOP).await;
            return Ok(end);
        }
        // It closed its output: it ends, or is made to.
        let status = match tokio::time::timeout(STOP, program.wait()).await {
            Ok(status) => ending(&status),
            Err(_) => {
                program.stop(STOP).await;
                "closed output".to_owned()
            }
        };
        count_end(self.intake.metrics(), &self.name, &status);
        Ok(FollowEnd::Program(complaints.with(&status)))
    }

    /// `None`: its output has ended.
    async fn read(
        &mut self,
        mut stdout: ChildStdout,
        mut stderr: ChildStderr,
        complaints: &mut Complaints,
        stop: &CancellationToken,
    ) -> Result<Option<FollowEnd>, AgentError> {
        let (mut export, mut buffer) = (self.fields.reader(), BytesMut::new());
        let mut batch = self.intake.batch();
        loop {
            buffer.reserve(READ);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Some(FollowEnd::Stop)),
                Some((result, mark)) = self.outbox.next(), if !self.outbox.is_empty() => {
                    if let Some(end) = self.settled(result, mark) {
                        return Ok(Some(end));
                    }
                }
                read = stderr.read_buf(complaints.buffer()), if complaints.is_open() => self.heard(complaints, read),
                read = stdout.read_buf(&mut buffer) => match read {
                    Ok(0) => {
                        let end = self.flush(&mut batch, stop).await;
                        // What it said last may still be in its pipe.
                        while complaints.is_open() {
                            let Some(read) = stderr.read_buf(complaints.buffer()).now_or_never() else { break };
                            self.heard(complaints, read);
                        }
                        return Ok(end);
                    }
                    Ok(_) => {
                        if let Some(end) = self.take(&mut export, &mut buffer, &mut batch, stop).await? {
                            return Ok(Some(end));
                        }
                    }
                    Err(error) => return Ok(Some(FollowEnd::Program(format!("can't read the output of journalctl: {error}")))),
                },
                // Nothing more at the moment.
                () = std::future::ready(()), if !batch.is_empty() || self.idle_mark => {
                    if let Some(end) = self.flush(&mut batch, stop).await {
                        return Ok(Some(end));
                    }
                }
            }
        }
    }

    /// Takes what the buffer has.
    async fn take(
        &mut self,
        export: &mut Export,
        buffer: &mut BytesMut,
        batch: &mut Batch,
        stop: &CancellationToken,
    ) -> Result<Option<FollowEnd>, AgentError> {
        while let Some(found) = export.next(buffer) {
            match found {
                ExportItem::Entry => {}
                ExportItem::Malformed(why) => {
                    let help = "journalctl printed something that is not a journal entry: check that `journalctl` of the source is the right program, and the health of the disk";
                    tracing::error!(source = self.name, why, behind = self.position.cursor(), "{help}");
                    self.intake.dropped(REASON_MALFORMED, 1, 0);
                    continue;
                }
                ExportItem::Resumed(bytes) => {
                    tracing::warn!(source = self.name, bytes, "skipped to the next journal entry");
                    self.intake.dropped(REASON_MALFORMED, 0, bytes);
                    continue;
                }
            }
            let whole = self.config.is_unfiltered() && !self.partial_sight;
            let mut step = self.position.step(self.fields.entry(export).cursor(), whole);
            if step == EntryAction::NewEpoch {
                if let Some(end) = self.begin_epoch(export, batch, stop).await? {
                    return Ok(Some(end));
                }
                step = self.position.step(self.fields.entry(export).cursor(), whole);
            }
            let EntryAction::Take { number, missing } = step else { continue };
            self.report_missing(missing);
            if self.fields.entry(export).is_of_kernel() && !self.config.include_kernel {
                self.idle_mark = true;
                continue;
            }
            let lost = self.add(batch, &self.fields.entry(export), number);
            if lost > 0 {
                self.intake.dropped(REASON_CUT, 0, lost);
            }
            if (batch.cost() >= BATCH_BYTES || batch.len() >= BATCH_ENTRIES)
                && let Some(end) = self.flush(batch, stop).await
            {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Adds an entry; gives the bytes that were left out.
    fn add(&self, batch: &mut Batch, entry: &JournalEntry<'_>, number: u64) -> u64 {
        let labels = entry.labels();
        let (text, time_ns) = (entry.text(), entry.time_ns());
        match self.intake.stream(&Labels::new(labels.iter().cloned()), None) {
            Ok(stream) => {
                let metadata = entry.metadata(Vec::new());
                batch.push_numbered(&stream, number, Line { text, time_ns, metadata: Some(&metadata) });
            }
            // Too many, or a value that no label takes: the entry goes on, with its fields beside it.
            Err(_) => {
                let metadata = entry.metadata(labels);
                batch.push_numbered(&self.plain, number, Line { text, time_ns, metadata: Some(&metadata) });
            }
        }
        entry.lost()
    }

    /// Hands in what there is, waiting for room.
    async fn flush(&mut self, batch: &mut Batch, stop: &CancellationToken) -> Option<FollowEnd> {
        let passed_over = std::mem::take(&mut self.idle_mark);
        if batch.is_empty() {
            // Else it goes with the last batch that is on its way, or with the next one.
            if passed_over && self.outbox.is_empty() {
                self.intake.keep_bookmark(self.position.bookmark());
            }
            return None;
        }
        let full = std::mem::replace(batch, self.intake.batch());
        let sent = tokio::select! {
            biased;
            () = stop.cancelled() => return Some(FollowEnd::Stop),
            sent = full.send() => sent,
        };
        match sent {
            Ok(receipt) => self.outbox.add(receipt, self.position.bookmark()),
            Err(why) => return self.settled(Err(why), Bytes::new()),
        }
        // A stream that never pauses must not keep cursors from being kept.
        while let Some(Some((result, mark))) = self.outbox.next().now_or_never() {
            if let Some(end) = self.settled(result, mark) {
                return Some(end);
            }
        }
        None
    }

    fn settled(&mut self, result: Result<(), Rejected>, mark: Bytes) -> Option<FollowEnd> {
        match result {
            Ok(()) => {
                self.intake.keep_bookmark(mark);
                None
            }
            Err(Rejected::Stopping | Rejected::NotReady) => Some(FollowEnd::Stop),
            Err(why) => {
                tracing::error!(source = self.name, %why, "journal entries were not accepted");
                Some(FollowEnd::Again)
            }
        }
    }

    /// Begins a new epoch of numbers before the entry that was found last.
    async fn begin_epoch(
        &mut self,
        export: &Export,
        batch: &mut Batch,
        stop: &CancellationToken,
    ) -> Result<Option<FollowEnd>, AgentError> {
        if let Some(end) = self.flush(batch, stop).await {
            return Ok(Some(end));
        }
        while !self.outbox.is_empty() {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Some(FollowEnd::Stop)),
                next = self.outbox.next() => next,
            };
            if let Some((result, mark)) = next
                && let Some(end) = self.settled(result, mark)
            {
                return Ok(Some(end));
            }
        }
        self.position.begin_epoch(self.fields.entry(export).cursor(), self.intake.now_ns() / 1_000_000);
        if self.position.is_counted() {
            tracing::warn!(
                source = self.name,
                "journal entries come from several hosts or have no sequence numbers: entries read again after a crash are stored twice. Configure a separate source for the folder of each host"
            );
        }
        self.intake.keep_bookmark_now(self.position.bookmark()).await?;
        Ok(None)
    }

    fn report_missing(&self, missing: Missing) {
        let lines = match missing {
            Missing::Nothing => return,
            Missing::Entries(lines) => Some(lines),
            Missing::Unknown => None,
        };
        self.intake.metrics().source_gaps.get_or_create(&OfSource { source: self.name.clone() }).inc();
        if let Some(lines) = lines {
            self.intake.dropped(REASON_GAP, lines, 0);
        }
        tracing::error!(
            source = self.name,
            lines,
            before = self.position.cursor(),
            "journald deleted entries before they were read, reading continues after them: give journald more space (SystemMaxUse= and RuntimeMaxUse= in journald.conf) or find out why the log was unreachable"
        );
    }

    /// What journalctl says to people.
    fn heard(&mut self, complaints: &mut Complaints, read: std::io::Result<usize>) {
        for line in complaints.heard(read) {
            if line.contains("not seeing messages") {
                self.partial_sight = true;
                let help = "the agent can read only a part of the journal: add its user to the group systemd-journal and restart it";
                tracing::error!(source = self.name, journalctl = line, "{help}");
            } else {
                tracing::warn!(source = self.name, journalctl = line, "message from journalctl");
            }
        }
    }
}
