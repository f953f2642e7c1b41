//! `millrace dlq replay`: sends letters back to the topics they came from, each once.
//!
//! In: filters. Out: what went where, what was left and why; an exit code. Touches the network: reads the dead-letter
//! topic, writes to others by the idempotent producer, commits to the group that remembers ([`super::memory`]).
//! A batch is committed after it was acknowledged: a crash in between repeats it with the next replay, and the index
//! drops the repeats ([`millrace_log::dead_letter::replayed`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millrace_doors::access::config::AuditKafkaConfig;
use millrace_doors::access::{Audit as _, AuditEvent};
use millrace_log::admin::Admin;
use millrace_log::client::{BatchProducer, ClientError, ConnectionConfig, WireProducer};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::dead_letter::{HEADER_CUT, replayed};
use millrace_log::record::{Record, SourceId, TopicPartition, is_topic_name};
use serde::Serialize;

use super::letter::{Letter, header};
use super::memory::{MAX_METADATA, Memory};
use super::reading::{DeadLetters, Filter, FilterFlags};
use crate::audit::{AuditQueue, AuditWriter};
use crate::cli::cluster::failed;
use crate::cli::table::Table;
use crate::cli::terminal::{Output, print, print_json};
use crate::exit::{Code, Failure};
use crate::human::shortened;

/// Letters in one round of sending and committing.
const ROUND_LETTERS: usize = 500;
/// Bytes of values in one round, about.
const ROUND_BYTES: usize = 1 << 20;
/// How long a batch is tried before the replay ends.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Reasons for letters that were left, told apart at most.
const MAX_LEFT: usize = 50;

#[derive(Debug, Args)]
pub struct ReplayFlags {
    #[command(flatten)]
    filter: FilterFlags,
    /// Write to this topic instead of the one they came from
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Exit after this many letters
    #[arg(short = 'n', long, alias = "count", value_name = "LETTERS")]
    limit: Option<u64>,
    /// Print what would be replayed, and replay nothing
    #[arg(long)]
    dry_run: bool,
    /// Include letters that were replayed before
    #[arg(long)]
    again: bool,
}

/// What became of the letters.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    /// By topic.
    sent: BTreeMap<String, u64>,
    /// Not meant by the filters, and waiting still.
    waiting: u64,
    /// Meant, but replayed before.
    replayed_before: u64,
    /// Meant, but it could not be: reason and count.
    left: BTreeMap<String, u64>,
}

/// Everything that the thread of the reader works with.
struct Replay {
    filter: Filter,
    to: Option<String>,
    count: u64,
    again: bool,
    /// None: nothing is sent.
    sending: Option<Sending>,
    memory: Memory,
    topic: String,
    topic_id: u128,
    /// Partitions of every topic.
    targets: BTreeMap<String, i32>,
    round: Vec<(Letter, TopicPartition, Option<i64>)>,
    round_bytes: usize,
    taken: u64,
    report: Report,
}

struct Sending {
    admin: Admin,
    producer: Arc<dyn BatchProducer>,
    group: String,
    runtime: tokio::runtime::Handle,
}

/// The letter's own source: the same for every replay of it (FNV-1a over topic id, partition, offset).
fn identity(topic_id: u128, partition: i32, offset: i64) -> SourceId {
    let bytes = topic_id.to_be_bytes().into_iter().chain(partition.to_be_bytes()).chain(offset.to_be_bytes());
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    SourceId(hash.to_be_bytes())
}

fn producer(connection: &ConnectionConfig) -> Result<Arc<dyn BatchProducer>, Failure> {
    let producer = WireProducer::new(connection, Some(GIVE_UP));
    Ok(Arc::new(producer.map_err(|error| Failure::new(Code::Config, error))?))
}

/// Reads, sends, remembers, and prints the report.
pub async fn replay(place: &DeadLetters, flags: ReplayFlags, output: Output) -> Result<(), Failure> {
    let filter = flags.filter.check()?;
    if let Some(to) = &flags.to
        && (!is_topic_name(to) || *to == place.topic)
    {
        return Err(Failure::text(
            Code::Usage,
            format!("--to `{to}`: expected a valid topic other than that of the dead letters"),
        ));
    }
    let mut admin = Admin::connect(&place.connection).await.map_err(failed)?;
    let mut report = Report { dry_run: flags.dry_run, ..Report::default() };
    let mut result = Ok(());
    if let Some(extent) = place.extent(&mut admin).await? {
        let mut memory = Memory::load(&mut admin, &place.group, &extent.info).await?;
        memory.start_at(&extent.starts);
        let from = if flags.again { extent.starts.clone() } else { memory.waiting_from() };
        memory.begin(&from);
        let topics = admin.topics().await.map_err(failed)?;
        let targets = topics
            .into_iter()
            .filter(|topic| !topic.internal)
            .map(|topic| (topic.name, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)))
            .collect();
        let sending = match flags.dry_run {
            true => None,
            false => Some(Sending {
                admin,
                producer: producer(&place.connection)?,
                group: place.group.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let replay = Replay {
            filter,
            to: flags.to,
            count: flags.limit.unwrap_or(u64::MAX),
            again: flags.again,
            sending,
            memory,
            topic: place.topic.clone(),
            topic_id: extent.info.id.as_u128(),
            targets,
            round: Vec::new(),
            round_bytes: 0,
            taken: 0,
            report,
        };
        let (mut replay, ended) = place.read(&extent, &from, replay, |replay, letter| replay.take(letter)).await?;
        result = match ended {
            Ok(()) => {
                // The last round sends from a thread of its own too.
                let last = tokio::task::spawn_blocking(move || {
                    let result = replay.send();
                    (replay, result)
                });
                let (after, sent) = last.await?;
                replay = after;
                sent
            }
            failure => failure,
        };
        report = replay.report;
    }
    if !report.dry_run && !report.sent.is_empty() {
        audit(place, &report).await;
    }
    match output {
        Output::Json => print_json(&report)?,
        Output::Table => print(&as_text(&report, &place.topic))?,
    }
    result?;
    match report.left.values().sum::<u64>() {
        0 => Ok(()),
        left => Err(Failure::text(
            Code::Failed,
            format!("{left} dead letters were not replayed; they remain in {}", place.topic),
        )),
    }
}

/// Notes the replay in the audit topic. Letters are where they belong already: a fault here is a warning.
async fn audit(place: &DeadLetters, report: &Report) {
    if place.audit.topic.is_empty() {
        return;
    }
    let sent = report.sent.iter().map(|(topic, count)| format!("{count} to {topic}"));
    let detail = format!("millrace dlq replay from {}: {}", place.topic, sent.collect::<Vec<_>>().join(", "));
    // Whoever became root is who they were before.
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let event = AuditEvent { event: AuditEvent::REPLAY, user, detail, ..AuditEvent::default() };
    let queue = AuditQueue::new(SystemClock::shared());
    queue.note(event.bounded());
    let connection = place.audit.kafka.as_ref().map_or_else(|| place.connection.clone(), AuditKafkaConfig::connection);
    let written = match AuditWriter::new(queue, place.audit.clone(), connection) {
        Ok(writer) => writer.write_once().await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = written {
        tracing::warn!(topic = place.audit.topic, "replay could not be written to the audit topic: {error:#}");
    }
}

/// Whether a letter is all of its record.
fn whole(letter: &Letter) -> Result<(), String> {
    let is_left_out = letter.record.value.is_none() && letter.reason.ends_with("is left out");
    if is_left_out || header(&letter.record, HEADER_CUT).is_some() {
        return Err("it was too large for the dead-letter topic: copy the record from its origin (`from`)".into());
    }
    Ok(())
}

impl Replay {
    /// Takes one letter into the round, or says why not. Gives whether to read on.
    fn take(&mut self, letter: Letter) -> Result<bool, Failure> {
        let (partition, offset) = (letter.record.partition, letter.record.offset);
        let before = self.memory.meet(partition, offset);
        let known = self.memory.has(partition, offset);
        if !self.filter.takes(&letter) {
            self.report.waiting += u64::from(!known);
            return Ok(true);
        }
        if known && !self.again {
            self.report.replayed_before += 1;
            return Ok(true);
        }
        match self.target(&letter) {
            Err(reason) => self.leave(reason),
            Ok(target) => {
                self.taken += 1;
                self.round_bytes += letter.record.value.as_ref().map_or(0, |value| value.len()) + 256;
                self.round.push((letter, target, before));
                if self.round.len() >= ROUND_LETTERS || self.round_bytes >= ROUND_BYTES {
                    self.send()?;
                }
            }
        }
        Ok(self.taken < self.count)
    }

    fn leave(&mut self, reason: String) {
        let full = self.report.left.len() >= MAX_LEFT && !self.report.left.contains_key(&reason);
        let reason = if full { "further reasons".to_owned() } else { reason };
        *self.report.left.entry(reason).or_default() += 1;
    }

    /// Where a letter goes.
    fn target(&self, letter: &Letter) -> Result<TopicPartition, String> {
        whole(letter)?;
        let from = letter.from.as_ref();
        let topic = match (&self.to, from) {
            (Some(to), _) => to.as_str(),
            (None, Some(from)) => from.topic.as_str(),
            (None, None) => return Err("its origin is unknown: give a topic with --to".into()),
        };
        match self.targets.get(topic) {
            Some(partitions) if *partitions > 0 => {
                let partition = from.map_or(letter.record.partition, |from| from.partition);
                Ok(TopicPartition::new(topic, partition % *partitions))
            }
            _ => Err(format!("topic `{topic}` does not exist: create it, or give another with --to")),
        }
    }

    /// Sends the round and remembers it.
    fn send(&mut self) -> Result<(), Failure> {
        let round = std::mem::take(&mut self.round);
        self.round_bytes = 0;
        if round.is_empty() {
            return Ok(());
        }
        let Some(sending) = &mut self.sending else {
            for (_, to, _) in round {
                *self.report.sent.entry(to.topic.to_string()).or_default() += 1;
            }
            return Ok(());
        };
        // Asked before anything is sent: what can't be remembered would be sent twice.
        let mut after = self.memory.clone();
        for (letter, _, before) in &round {
            after.add(letter.record.partition, letter.record.offset, *before);
        }
        if after.metadata_bytes() > MAX_METADATA {
            let text = "the selected letters are too scattered to be remembered in the group's offsets: select by --topic or \
                        --since alone, or replay all; nothing of this batch was sent";
            return Err(Failure::text(Code::Failed, text));
        }
        let now_ms = SystemClock.now_ms();
        let mut batches: BTreeMap<TopicPartition, Vec<(Letter, Option<i64>)>> = BTreeMap::new();
        for (letter, to, before) in round {
            batches.entry(to).or_default().push((letter, before));
        }
        let mut refused = Vec::new();
        let mut ended = Ok(());
        for (to, letters) in batches {
            let records =
                letters.iter().map(|(letter, _)| record(letter, &self.topic, self.topic_id, now_ms)).collect();
            let failed = match sending.runtime.block_on(sending.producer.send(&to, records)) {
                Ok(_) => Vec::new(),
                Err(ClientError::Refused { failed, retriable: false, source, .. }) => {
                    refused.extend(failed.iter().map(|_| format!("{} rejected it again: {source}", to.topic)));
                    failed
                }
                Err(ClientError::Refused { failed, source, topic_partition, count, retriable }) => {
                    let error =
                        ClientError::Refused { failed: failed.clone(), source, topic_partition, count, retriable };
                    ended = Err(Failure::new(Code::Unavailable, error));
                    failed
                }
                Err(error) => {
                    ended = Err(Failure::new(Code::Unavailable, error));
                    break;
                }
            };
            for (i, (letter, before)) in letters.iter().enumerate() {
                if !failed.contains(&i) {
                    self.memory.add(letter.record.partition, letter.record.offset, *before);
                    *self.report.sent.entry(to.topic.to_string()).or_default() += 1;
                }
            }
            if ended.is_err() {
                break;
            }
        }
        let saved = sending.runtime.block_on(self.memory.save(&mut sending.admin, &sending.group));
        for reason in refused {
            self.leave(reason);
        }
        ended.and(saved)
    }
}

/// The letter as it goes back.
fn record(letter: &Letter, topic: &str, topic_id: u128, now_ms: i64) -> Record {
    let raw = &letter.record;
    let record = Record {
        timestamp_ms: raw.timestamp_ms.unwrap_or(now_ms),
        key: raw.key.clone(),
        value: raw.value.clone(),
        headers: raw
            .headers
            .iter()
            .map(|(name, value)| (name.clone().into(), value.clone().unwrap_or_default()))
            .collect(),
    };
    let place = format!("{topic}-{}@{}", raw.partition, raw.offset);
    replayed(record, &place, identity(topic_id, raw.partition, raw.offset), now_ms)
}

fn as_text(report: &Report, topic: &str) -> String {
    let sent: u64 = report.sent.values().sum();
    let verb = if report.dry_run { "would be replayed" } else { "replayed" };
    let mut text = format!("{topic}: {sent} dead letters {verb}");
    if report.replayed_before > 0 {
        text.push_str(&format!(", {} already replayed (--again replays them once more)", report.replayed_before));
    }
    text.push('\n');
    if sent > 0 {
        let mut table = Table::new(&["to", ">letters"]);
        for (topic, count) in &report.sent {
            table.row([topic.clone(), count.to_string()]);
        }
        text.push_str(&table.to_string());
    }
    for (reason, count) in &report.left {
        text.push_str(&format!("not replayed: {count}: {}\n", shortened(reason, 300)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests_support::letter;
    use super::*;

    #[test]
    fn letters_have_a_source_each() {
        let all = [identity(1, 0, 0), identity(2, 0, 0), identity(1, 1, 0), identity(1, 0, 1)];
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert_eq!(identity(1, 0, 1), all[3]);
    }

    #[test]
    fn letters_that_are_not_whole_are_not_replayed() {
        for (headers, want) in [
            (&[("dlq.reason", "too long")][..], true),
            (&[("dlq.reason", "too long"), ("dlq.cut", "209715200")], false),
        ] {
            assert_eq!(whole(&letter(headers)).is_ok(), want, "{headers:?}");
        }
        let mut left_out = letter(&[("dlq.reason", "its value of 9 bytes is left out")]);
        left_out.record.value = None;
        assert!(whole(&left_out).is_err_and(|reason| reason.contains("copy the record from its origin")));
    }

    #[test]
    fn the_report_lists_what_was_not_replayed() {
        let report = Report {
            dry_run: true,
            sent: BTreeMap::from([("logs".to_owned(), 3)]),
            waiting: 2,
            replayed_before: 1,
            left: BTreeMap::from([("topic `a` does not exist".to_owned(), 4)]),
        };
        assert_eq!(
            as_text(&report, "dlq"),
            "dlq: 3 dead letters would be replayed, 1 already replayed (--again replays them once more)\nTO    LETTERS\nlogs        3\nnot replayed: 4: topic `a` does not exist\n"
        );
    }
}
