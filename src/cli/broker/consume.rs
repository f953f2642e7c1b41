//! `millrace broker consume`: prints records of a topic.
//!
//! In: topic, start, end, labels. Out: one line per record, by a format or as JSON; on a terminal control characters are
//! written out. Side effects: network. A thread of its own reads; it ends at the limits, at a signal, or when the output is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use millrace_log::admin::{Admin, OffsetAt, TopicInfo};
use millrace_log::client::reader::{Met, TopicReader};
use millrace_log::client::{ClientError, ConnectionConfig};
use millrace_log::record::HEADER_LABELS;
use millrace_streams::route::Selector;

use super::format::{Piece, as_json, header, pieces, render};
use crate::cli::cluster::failed;
use crate::cli::serve::Signals;
use crate::cli::terminal::Output;
use crate::cli::time::time_ms;
use crate::escape;
use crate::exit::{Code, Failure};

const POLL: Duration = Duration::from_millis(200);
/// Lines are written at least so often while records come.
const COMMIT_EVERY: usize = 1000;

#[derive(Debug, Args)]
pub struct ConsumeFlags {
    /// TOPIC, TOPIC:PARTITION or TOPIC:PARTITION:OFFSET
    topic: String,
    /// Start: `earliest`, `latest`, an offset, `-N` for the last N records of each partition, or a time (RFC 3339, or 2h for
    /// 2 hours ago) [default: earliest, with --follow latest]
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    from: Option<String>,
    /// End: an offset, a time, or `latest` for the current end [default: latest, with --follow none]
    #[arg(long, value_name = "POSITION")]
    until: Option<String>,
    /// Exit after this many records
    #[arg(short = 'n', long, alias = "count", value_name = "RECORDS")]
    limit: Option<u64>,
    /// Join this consumer group: start from its committed offsets and commit what was printed
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
    /// Keep printing new records
    #[arg(short, long)]
    follow: bool,
    /// Only records whose labels match, e.g. `{service="checkout", level=~"error|warn"}`
    #[arg(short, long = "match", value_name = "SELECTOR")]
    selector: Option<String>,
    /// Visibility of transactions
    #[arg(long, value_enum, default_value_t = Isolation::Committed)]
    isolation: Isolation,
    /// Format of a record, with {topic} {partition} {offset} {time} {timestamp} {key} {value} {headers} {header:NAME}
    /// {labels} {label:NAME} {source} {position} {size}, and \n \t \0
    #[arg(long, value_name = "FORMAT", default_value = "{time} {partition}@{offset} {labels} {value}\\n")]
    format: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Records of committed transactions, and non-transactional ones
    Committed,
    /// All records
    Uncommitted,
}

/// A position as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Earliest,
    Latest,
    Offset(i64),
    Last(i64),
    Time(i64),
}

impl Where {
    fn parse(flag: &str, text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        match text {
            "earliest" | "beginning" | "start" => return Ok(Self::Earliest),
            "latest" | "end" => return Ok(Self::Latest),
            _ => {}
        }
        match text.parse::<i64>() {
            // Nobody asks for offset 1700000000000, and nobody for the year 1970.
            Ok(number) if number >= 100_000_000_000 => Ok(Self::Time(number)),
            Ok(number) if number >= 0 && !text.starts_with('-') => Ok(Self::Offset(number)),
            Ok(number) => Ok(Self::Last(number.saturating_neg())),
            Err(_) => time_ms(text).map(Self::Time).map_err(|_| {
                let text =
                    format!("--{flag} `{text}`: expected earliest, latest, an offset, -N, a time or a span such as 2h");
                Failure::text(Code::Usage, text)
            }),
        }
    }
}

/// What to read, in offsets.
#[derive(Debug)]
struct Plan {
    topic: String,
    /// Of each partition; unused with a group.
    starts: BTreeMap<i32, i64>,
    /// One past the last record of each partition, if there is an end.
    ends: Option<BTreeMap<i32, i64>>,
    selector: Selector,
    count: u64,
    json: bool,
    format: Vec<Piece>,
    committed_only: bool,
    group: Option<String>,
    earliest: bool,
}

/// Reads until the end, a limit or a signal.
pub async fn consume(connection: ConnectionConfig, flags: ConsumeFlags, output: Output) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let stop = Arc::new(AtomicBool::new(false));
    let plan = tokio::select! {
        plan = plan(&connection, flags, output) => plan?,
        () = signals.next() => return Ok(()),
    };
    let flag = Arc::clone(&stop);
    let mut reading = tokio::task::spawn_blocking(move || read(&connection, &plan, &flag));
    tokio::select! {
        ended = &mut reading => return ended?,
        () = signals.next() => stop.store(true, Ordering::Release),
    }
    tokio::select! {
        ended = &mut reading => ended?,
        () = signals.next() => Err(Failure::text(Code::Interrupted, "ended by a second signal")),
    }
}

async fn plan(connection: &ConnectionConfig, flags: ConsumeFlags, output: Output) -> Result<Plan, Failure> {
    let mut parts = flags.topic.splitn(3, ':');
    let name = parts.next().unwrap_or_default().to_owned();
    let number = |text: Option<&str>| -> Result<Option<i64>, Failure> {
        let bad = || Failure::text(Code::Usage, format!("`{}`: expected TOPIC[:PARTITION[:OFFSET]]", flags.topic));
        text.map(|text| text.parse::<i64>().map_err(|_| bad())).transpose()
    };
    let (partition, offset) = (number(parts.next())?, number(parts.next())?);
    let from = match (&flags.from, offset) {
        (Some(_), Some(_)) => {
            return Err(Failure::text(Code::Usage, "two start offsets: one in the topic argument, one in --from"));
        }
        (Some(text), None) => Some(Where::parse("from", text)?),
        (None, Some(offset)) => Some(Where::Offset(offset)),
        (None, None) => None,
    };
    let until = flags.until.as_deref().map(|text| Where::parse("until", text)).transpose()?;
    let from = from.unwrap_or(if flags.follow { Where::Latest } else { Where::Earliest });
    if flags.group.is_some() && partition.is_some() {
        return Err(Failure::text(
            Code::Usage,
            "--group reads the partitions assigned by the group: give the topic without a partition",
        ));
    }
    if flags.group.is_some() && !matches!(from, Where::Earliest | Where::Latest) {
        let text = "--group starts from its committed offsets: change them with `millrace broker groups reset`";
        return Err(Failure::text(Code::Usage, text));
    }
    let selector = Selector::parse(flags.selector.as_deref().unwrap_or(""))
        .map_err(|error| Failure::text(Code::Usage, format!("--match: {error}")))?;
    let format = pieces(&flags.format)?;

    let mut admin = Admin::connect(connection).await.map_err(failed)?;
    let mut topic = admin.topic(&name).await.map_err(failed)?;
    if let Some(partition) = partition {
        topic.partitions.retain(|p| i64::from(p.partition) == partition);
        if topic.partitions.is_empty() {
            return Err(Failure::text(Code::Failed, format!("topic `{name}` has no partition {partition}")));
        }
    }
    let committed_only = flags.isolation == Isolation::Committed;
    let end = if committed_only { OffsetAt::StableEnd } else { OffsetAt::End };
    let lows = offsets(&mut admin, &topic, OffsetAt::Start).await?;
    let highs = offsets(&mut admin, &topic, end).await?;
    let starts = places(&mut admin, &topic, from, &lows, &highs).await?;
    let ends = match (until, flags.follow) {
        (Some(place), _) => Some(places(&mut admin, &topic, place, &lows, &highs).await?),
        (None, true) => None,
        (None, false) => Some(highs),
    };
    Ok(Plan {
        topic: name,
        starts,
        ends,
        selector,
        count: flags.limit.unwrap_or(u64::MAX),
        json: output == Output::Json,
        format,
        committed_only,
        group: flags.group,
        earliest: from == Where::Earliest,
    })
}

async fn offsets(admin: &mut Admin, topic: &TopicInfo, at: OffsetAt) -> Result<BTreeMap<i32, i64>, Failure> {
    let found = admin.offsets(std::slice::from_ref(topic), at).await.map_err(failed)?;
    Ok(found.into_iter().map(|(tp, offset)| (tp.partition, offset)).collect())
}

/// A place in each partition, within what it holds.
async fn places(
    admin: &mut Admin,
    topic: &TopicInfo,
    place: Where,
    lows: &BTreeMap<i32, i64>,
    highs: &BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let by_time = match place {
        Where::Time(ms) => offsets(admin, topic, OffsetAt::Time(ms)).await?,
        _ => BTreeMap::new(),
    };
    let of = |(partition, high): (&i32, &i64)| {
        let low = lows.get(partition).copied().unwrap_or(0).min(*high);
        let offset = match place {
            Where::Earliest => low,
            Where::Latest => *high,
            Where::Offset(offset) => offset,
            Where::Last(count) => high.saturating_sub(count),
            Where::Time(_) => by_time.get(partition).copied().unwrap_or(*high),
        };
        (*partition, offset.clamp(low, *high))
    };
    Ok(highs.iter().map(of).collect())
}

/// Blocks until the plan is fulfilled.
fn read(connection: &ConnectionConfig, plan: &Plan, stop: &AtomicBool) -> Result<(), Failure> {
    let unavailable = |error| Failure::new(Code::Unavailable, error);
    let group = plan.group.as_deref();
    let reader =
        TopicReader::new(connection, &plan.topic, group, plan.earliest, plan.committed_only).map_err(unavailable)?;
    // Partitions that are at their end.
    let mut done: BTreeSet<i32> = BTreeSet::new();
    if group.is_none() {
        let open = |(partition, start): &(&i32, &i64)| {
            plan.ends.as_ref().is_none_or(|ends| ends.get(partition).is_none_or(|end| *start < end))
        };
        let starts: Vec<(i32, i64)> = plan.starts.iter().filter(open).map(|(p, o)| (*p, *o)).collect();
        done.extend(plan.starts.keys().filter(|p| starts.iter().all(|(open, _)| open != *p)));
        if starts.is_empty() {
            return Ok(());
        }
        reader.assign(&starts).map_err(unavailable)?;
    }
    let on_terminal = std::io::stdout().is_terminal();
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let (mut shown, mut uncommitted) = (0, 0);
    let mut line = Vec::new();
    let finished = |done: &BTreeSet<i32>, reader: &TopicReader| match (&plan.ends, group) {
        (None, _) => false,
        (Some(_), None) => plan.starts.keys().all(|partition| done.contains(partition)),
        (Some(_), Some(_)) => {
            let mine = reader.assigned();
            !mine.is_empty() && mine.iter().all(|partition| done.contains(partition))
        }
    };
    let result = loop {
        if shown >= plan.count || stop.load(Ordering::Acquire) || finished(&done, &reader) {
            break Ok(());
        }
        match reader.next(if out.buffer().is_empty() { POLL } else { Duration::ZERO }) {
            Err(ClientError::Unreadable { topic_partition, from, to, reason }) => {
                let text = format!("{topic_partition}: offsets {from} to {} can't be read: {reason}", to - 1);
                drop(writeln!(std::io::stderr(), "millrace: {}", escape::text(&text)));
                let partition = topic_partition.partition;
                next.insert(partition, to);
                if plan.ends.as_ref().and_then(|ends| ends.get(&partition)).is_some_and(|end| to >= *end) {
                    done.insert(partition);
                }
            }
            Err(error) => break Err(unavailable(error)),
            // Nothing more at once: what there is shall be seen.
            Ok(Met::Nothing) => {
                if !flushed(&mut out)? {
                    break Ok(());
                }
            }
            Ok(Met::End(partition)) => drop(done.insert(partition)),
            Ok(Met::Record(record)) => {
                let end = plan.ends.as_ref().and_then(|ends| ends.get(&record.partition));
                if end.is_some_and(|end| record.offset >= *end) {
                    done.insert(record.partition);
                    continue;
                }
                if end.is_some_and(|end| record.offset + 1 >= *end) {
                    done.insert(record.partition);
                }
                next.insert(record.partition, record.offset + 1);
                uncommitted += 1;
                if !plan.selector.is_open() && !plan.selector.matches_header(header(&record, HEADER_LABELS)) {
                    continue;
                }
                line.clear();
                if plan.json {
                    serde_json::to_writer(&mut line, &as_json(&plan.topic, &record))?;
                    line.push(b'\n');
                } else {
                    render(&plan.format, &plan.topic, &record, &mut line);
                }
                if on_terminal {
                    line = escape::bytes(&line);
                }
                shown += 1;
                if !written(out.write_all(&line))? {
                    break Ok(());
                }
                if uncommitted >= COMMIT_EVERY && group.is_some() {
                    if !flushed(&mut out)? {
                        break Ok(());
                    }
                    let list: Vec<(i32, i64)> = next.iter().map(|(p, o)| (*p, *o)).collect();
                    reader.commit(&list).map_err(unavailable)?;
                    uncommitted = 0;
                }
            }
        }
    };
    let seen = flushed(&mut out)?;
    // What nobody saw is not committed.
    if seen && uncommitted > 0 {
        let list: Vec<(i32, i64)> = next.into_iter().collect();
        reader.commit(&list).map_err(unavailable)?;
    }
    result
}

/// Whether somebody still reads (`| head` does not).
fn written(result: std::io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn flushed(out: &mut impl std::io::Write) -> Result<bool, Failure> {
    written(out.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_people_write_them() {
        for (text, want) in [
            ("earliest", Where::Earliest),
            ("latest", Where::Latest),
            ("0", Where::Offset(0)),
            ("-5", Where::Last(5)),
            ("1700000000000", Where::Time(1_700_000_000_000)),
            ("2023-11-14T22:13:20Z", Where::Time(1_700_000_000_000)),
        ] {
            assert_eq!(Where::parse("from", text).unwrap(), want, "{text}");
        }
        assert!(matches!(Where::parse("from", "2h").unwrap(), Where::Time(_)));
        assert_eq!(Where::parse("from", "soon").unwrap_err().kind(), Code::Usage);
    }
}
