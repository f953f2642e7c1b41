//! `millrace broker consume`: records of a topic for people and scripts.
//!
//! In: topic, where to begin and to end, which labels. Out: one line per record, by a format or as JSON. Touches the
//! network. A thread of its own reads; it ends at the limits, at a signal, or when nobody reads its output any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, ValueEnum};
use millrace_log::admin::{Admin, OffsetAt, TopicInfo};
use millrace_log::client::ConnectionConfig;
use millrace_log::client::reader::{Met, RawRecord, TopicReader};
use millrace_log::record::{Fixed, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT, Labels};
use millrace_streams::route::Selector;
use serde_json::{Map, Value as Json, json};

use super::{Output, failed};
use crate::cli::serve::Signals;
use crate::exit::{Code, Failure};
use crate::human::time;

const POLL: Duration = Duration::from_millis(200);
/// Lines are written at least so often while records come.
const COMMIT_EVERY: usize = 1000;

#[derive(Debug, Args)]
pub struct ConsumeFlags {
    /// TOPIC, TOPIC:PARTITION or TOPIC:PARTITION:OFFSET.
    topic: String,
    /// Where to begin: `earliest`, `latest`, an offset, `-N` for the last N records of each partition, or a time
    /// (RFC 3339, or a span such as 2h for 2 hours ago). Without it: earliest, with --follow latest.
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where to end: an offset, a time, or `latest`, the end as it is now. Without it: latest, with --follow never.
    #[arg(long, value_name = "WHERE")]
    until: Option<String>,
    /// Ends after so many records.
    #[arg(short = 'n', long, value_name = "RECORDS")]
    count: Option<u64>,
    /// Reads on from where this consumer group is, as its member, and commits what was shown.
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
    /// Goes on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// Only records whose labels agree: `{service="checkout", level=~"error|warn"}`.
    #[arg(short, long = "match", value_name = "SELECTOR")]
    selector: Option<String>,
    /// What transactions make visible.
    #[arg(long, value_enum, default_value_t = Isolation::Committed)]
    isolation: Isolation,
    /// One record, with {topic} {partition} {offset} {time} {timestamp} {key} {value} {headers} {header:NAME} {labels}
    /// {label:NAME} {source} {position} {size}, and \n \t \0.
    #[arg(long, value_name = "FORMAT", default_value = "{time} {partition}@{offset} {labels} {value}\\n")]
    format: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Only records of committed transactions, and those outside of any.
    Committed,
    /// Everything that is on the log.
    Uncommitted,
}

/// A place as people write it.
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
            Err(_) => crate::cli::time_ms(text).map(Self::Time).map_err(|_| {
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
            return Err(Failure::text(Code::Usage, "the offset stands twice: in the topic and in --from"));
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
            "--group reads the partitions that the group gives it: name the topic alone",
        ));
    }
    if flags.group.is_some() && !matches!(from, Where::Earliest | Where::Latest) {
        let text = "--group reads on from its offsets: set them with `millrace broker groups reset`";
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
        count: flags.count.unwrap_or(u64::MAX),
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

/// The last value of a header.
fn header<'r>(record: &'r RawRecord, name: &str) -> Option<&'r [u8]> {
    record.headers.iter().rev().find(|(n, _)| n == name)?.1.as_deref()
}

fn labels(record: &RawRecord, name: &str) -> Option<Labels> {
    Labels::from_json(header(record, name)?).ok()
}

/// One part of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
    Header(String),
    Label(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Time,
    Timestamp,
    Key,
    Value,
    Headers,
    Labels,
    Source,
    Position,
    Size,
}

const FIELDS: [(&str, Field); 12] = [
    ("topic", Field::Topic),
    ("partition", Field::Partition),
    ("offset", Field::Offset),
    ("time", Field::Time),
    ("timestamp", Field::Timestamp),
    ("key", Field::Key),
    ("value", Field::Value),
    ("headers", Field::Headers),
    ("labels", Field::Labels),
    ("source", Field::Source),
    ("position", Field::Position),
    ("size", Field::Size),
];

fn pieces(format: &str) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('0') => text.push('\0'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            '{' => {
                let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                let piece = match name.split_once(':') {
                    Some(("header", name)) => Some(Piece::Header(name.to_owned())),
                    Some(("label", name)) => Some(Piece::Label(name.to_owned())),
                    _ => FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| Piece::Field(*field)),
                };
                let Some(piece) = piece else {
                    let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
                    let text = format!(
                        "--format: `{{{name}}}` is no placeholder: known are {}, header:NAME, label:NAME; `\\{{` is a brace",
                        known.join(", ")
                    );
                    return Err(Failure::text(Code::Usage, text));
                };
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(piece);
            }
            other => text.push(other),
        }
    }
    pieces.push(Piece::Text(text));
    pieces.retain(|piece| *piece != Piece::Text(String::new()));
    Ok(pieces)
}

fn render(format: &[Piece], topic: &str, record: &RawRecord, line: &mut Vec<u8>) {
    let fixed = || header(record, HEADER_FIXED).and_then(|bytes| Fixed::decode(bytes).ok());
    for piece in format {
        let text = match piece {
            Piece::Text(text) => text.clone(),
            Piece::Header(name) => {
                line.extend_from_slice(header(record, name).unwrap_or_default());
                continue;
            }
            Piece::Label(name) => {
                labels(record, HEADER_LABELS).and_then(|l| l.get(name).map(str::to_owned)).unwrap_or_default()
            }
            Piece::Field(field) => match field {
                Field::Topic => topic.to_owned(),
                Field::Partition => record.partition.to_string(),
                Field::Offset => record.offset.to_string(),
                Field::Time => record.timestamp_ms.and_then(time).unwrap_or_else(|| "-".to_owned()),
                Field::Timestamp => record.timestamp_ms.unwrap_or(-1).to_string(),
                Field::Key => {
                    line.extend_from_slice(record.key.as_deref().unwrap_or_default());
                    continue;
                }
                Field::Value => {
                    line.extend_from_slice(record.value.as_deref().unwrap_or_default());
                    continue;
                }
                Field::Headers => {
                    let all = record.headers.iter().map(|(name, value)| {
                        let value = value.as_deref().map(String::from_utf8_lossy);
                        format!("{name}={}", value.as_deref().unwrap_or("null"))
                    });
                    all.collect::<Vec<_>>().join(",")
                }
                Field::Labels => labels(record, HEADER_LABELS).unwrap_or_default().to_string(),
                Field::Source => fixed().map(|fixed| fixed.source.to_string()).unwrap_or_default(),
                Field::Position => fixed().map(|fixed| fixed.position.to_string()).unwrap_or_default(),
                Field::Size => record.value.as_ref().map_or(0, |value| value.len()).to_string(),
            },
        };
        line.extend_from_slice(text.as_bytes());
    }
}

/// Text, or its base64 under another name where it is none.
fn put_bytes(map: &mut Map<String, Json>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => drop(map.insert(name.to_owned(), Json::Null)),
        Some(Ok(text)) => drop(map.insert(name.to_owned(), Json::from(text))),
        Some(Err(_)) => {
            drop(map.insert(format!("{name}_base64"), Json::from(BASE64.encode(bytes.unwrap_or_default()))));
        }
    }
}

/// A record whole; key, value and headers that are no text in base64 under another name.
pub fn as_json(topic: &str, record: &RawRecord) -> Json {
    let mut map = Map::new();
    map.insert("topic".to_owned(), Json::from(topic));
    map.insert("partition".to_owned(), Json::from(record.partition));
    map.insert("offset".to_owned(), Json::from(record.offset));
    map.insert("timestamp_ms".to_owned(), Json::from(record.timestamp_ms));
    map.insert("time".to_owned(), Json::from(record.timestamp_ms.and_then(time)));
    put_bytes(&mut map, "key", record.key.as_deref());
    put_bytes(&mut map, "value", record.value.as_deref());
    let headers = record.headers.iter().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("name".to_owned(), Json::from(name.as_str()));
        put_bytes(&mut header, "value", value.as_deref());
        Json::Object(header)
    });
    map.insert("headers".to_owned(), headers.collect());
    map.insert("millrace".to_owned(), millrace(record).unwrap_or_default());
    Json::Object(map)
}

/// What Millrace wrote into the record, if it did.
fn millrace(record: &RawRecord) -> Option<Json> {
    let fixed = Fixed::decode(header(record, HEADER_FIXED)?).ok()?;
    let pairs = |name: &str| -> Map<String, Json> {
        let labels = labels(record, name).unwrap_or_default();
        labels.iter().map(|(name, value)| (name.to_owned(), Json::from(value))).collect()
    };
    let time = chrono::DateTime::from_timestamp_nanos(fixed.time_ns);
    Some(json!({
        "time": time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        "time_ns": fixed.time_ns,
        "source": fixed.source.to_string(),
        "position": fixed.position.offset,
        "sub": fixed.position.sub,
        "cut": fixed.cut,
        "time_from_line": fixed.time_from_line,
        "tenant": header(record, HEADER_TENANT).map_or("default".into(), String::from_utf8_lossy),
        "labels": pairs(HEADER_LABELS),
        "metadata": pairs(HEADER_META),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RawRecord {
        RawRecord {
            partition: 3,
            offset: 41,
            timestamp_ms: Some(1_700_000_000_123),
            key: Some("k".into()),
            value: Some(vec![b'v', 0xff].into()),
            headers: vec![
                ("labels".to_owned(), Some(r#"{"service":"checkout"}"#.into())),
                ("nothing".to_owned(), None),
            ],
        }
    }

    #[test]
    fn a_format_is_filled() {
        let format =
            pieces(r"{time} {topic}-{partition}@{offset} {key} {label:service} {headers} \{\t{size}\n").unwrap();
        let mut line = Vec::new();
        render(&format, "logs", &record(), &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "2023-11-14T22:13:20.123Z logs-3@41 k checkout labels={\"service\":\"checkout\"},nothing=null {\t2\n"
        );
        assert!(pieces("{valeu}").unwrap_err().to_string().contains("is no placeholder"));
    }

    #[test]
    fn json_keeps_what_is_no_text() {
        let told = as_json("logs", &record());
        assert_eq!(told["value_base64"], "dv8=");
        assert_eq!(told["headers"][1], json!({"name": "nothing", "value": null}));
        assert_eq!(told["millrace"], Json::Null);
    }

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
