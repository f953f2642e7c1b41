//! `millrace tap`: live records at a stage of the pipeline, on standard output.
//!
//! In: stages, a filter. Out: a line for each record. Side effects: network; the agent's HTTP endpoint for records read,
//! sent and dropped, the Loki API for those indexed. Observing consumes no records.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use millrace_agent::tap::{Seen, Stage};
use serde::Deserialize;
use serde_json::Value as Json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::door::DoorFlags;
use super::runtime::block_on;
use super::table::or_dash;
use super::terminal::{Output, print};
use crate::escape;
use crate::exit::{Code, Failure};
use crate::human::time;

/// Stages as they are named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TapStage {
    /// As sources read them, before transforms
    Read,
    /// As the log stored them
    Sent,
    /// Dropped by a transform, or sent to the dead letters, with the reason
    Dropped,
    /// As they can be searched; asks the aggregator
    Indexed,
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct TapArgs {
    #[command(flatten)]
    door: DoorFlags,
    /// Stages, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sent")]
    stage: Vec<TapStage>,
    /// Only sources whose name or file path contains this
    #[arg(long, default_value = "")]
    source: String,
    /// Exit after this many records
    #[arg(short = 'n', long, value_name = "RECORDS")]
    limit: Option<u64>,
    /// Output format; json prints one record per line
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Same as `--output json`
    #[arg(long, hide = true)]
    json: bool,
    /// LogQL query, e.g. '{service="api"} |= "error"' [default: all records]
    query: Option<String>,
}

impl TapArgs {
    fn is_json(&self) -> bool {
        self.json || self.output == Output::Json
    }
}

/// A line of the agent's answer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Told {
    Seen(Box<Seen>),
    Missed { missed: u64 },
}

/// Shows records until `limit`, a signal, or the end of the process that is looked at.
pub fn tap(args: &TapArgs) -> Result<(), Failure> {
    block_on(async {
        let looking = async {
            if args.stage.contains(&TapStage::Indexed) {
                if args.stage.len() > 1 {
                    let text = "stage `indexed` comes from the aggregator, the others from the agent: run two commands";
                    return Err(Failure::text(Code::Usage, text));
                }
                indexed(args).await
            } else {
                of_agent(args).await
            }
        };
        tokio::select! {
            ended = looking => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn of_agent(args: &TapArgs) -> Result<(), Failure> {
    let mut asked = url::form_urlencoded::Serializer::new(String::new());
    for stage in &args.stage {
        let name = match stage {
            TapStage::Read => "read",
            TapStage::Dropped => "dropped",
            TapStage::Sent | TapStage::Indexed => "sent",
        };
        asked.append_pair("stage", name);
    }
    if !args.source.is_empty() {
        asked.append_pair("source", &args.source);
    }
    if let Some(query) = &args.query {
        asked.append_pair("query", query);
    }
    if let Some(limit) = args.limit {
        asked.append_pair("limit", &limit.to_string());
    }
    let path = format!("/api/v1/tap?{}", asked.finish());
    let answer = args.door.send(args.door.get(&args.door.client()?, &path)).await?;
    let mut pieces = answer.bytes_stream();
    let mut rest = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| broken(&args.door, error.into()))?;
        rest.extend_from_slice(&piece);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        let mut out = String::new();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Told::Seen(_)) if args.is_json() => {
                    out.push_str(&String::from_utf8_lossy(line));
                    out.push('\n');
                }
                Ok(Told::Seen(seen)) => out.push_str(&shown(&seen)),
                Ok(Told::Missed { missed }) => print_missed(missed),
                Err(error) => return Err(broken(&args.door, error.into())),
            }
        }
        print(&out)?;
    }
    Ok(())
}

fn broken(door: &DoorFlags, error: anyhow::Error) -> Failure {
    Failure::new(Code::Unavailable, error.context(format!("connection to {} was lost", door.addr)))
}

fn print_missed(missed: u64) {
    tracing::warn!(missed, "records arrived faster than they could be shown: narrow --source or the query");
}

fn text_of_stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Read => "read",
        Stage::Sent => "sent",
        Stage::Dropped => "dropped",
    }
}

/// One line: time, stage, where it is, labels, text.
fn shown(seen: &Seen) -> String {
    let place = match (&seen.topic, &seen.reason) {
        (_, Some(reason)) => format!(" ({reason})"),
        (Some(topic), None) => format!(" {topic}"),
        (None, None) => String::new(),
    };
    let mut labels = braces(&seen.labels);
    if !seen.metadata.is_empty() {
        labels.push_str(&format!(" {}", braces(&seen.metadata)));
    }
    let more = if seen.not_shown > 0 { format!(" ... and {} bytes", seen.not_shown) } else { String::new() };
    let (time, stage) = (time_text(seen.time_ns), text_of_stage(seen.stage));
    format!("{time} {stage}{place} {labels} {}{more}\n", escape::line(&seen.line))
}

fn braces(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn time_text(ns: i64) -> String {
    or_dash(time(ns.div_euclid(1_000_000)))
}

/// A frame of Loki's `/tail`.
#[derive(Debug, Deserialize)]
struct Frame {
    #[serde(default)]
    streams: Vec<FrameStream>,
    #[serde(default)]
    dropped_entries: Option<Vec<Json>>,
}

#[derive(Debug, Deserialize)]
struct FrameStream {
    stream: BTreeMap<String, String>,
    values: Vec<(String, String)>,
}

async fn indexed(args: &TapArgs) -> Result<(), Failure> {
    let door = &args.door;
    let Some(address) = door.addr.strip_prefix("http://") else {
        let text = "stage `indexed` needs an address with http://: behind TLS use `logcli query --tail`";
        return Err(Failure::text(Code::Usage, text));
    };
    let Some(query) = &args.query else {
        let text = "stage `indexed` needs a query, such as '{service=\"api\"}'";
        return Err(Failure::text(Code::Usage, text));
    };
    let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let url = format!("ws://{}/loki/api/v1/tail?query={query}", address.trim_end_matches('/'));
    let mut request = url.into_client_request().map_err(|error| Failure::new(Code::Usage, error))?;
    if let Some(value) = door.authorization()
        && let Ok(value) = value.parse()
    {
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.map_err(|error| {
        let text = match &error {
            tokio_tungstenite::tungstenite::Error::Http(answer) => {
                String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).trim().to_owned()
            }
            _ => String::new(),
        };
        let context = format!("cannot tail {} {text}: is an aggregator running there?", door.addr);
        Failure::new(Code::Unavailable, anyhow::Error::new(error).context(context))
    })?;
    let mut left = args.limit;
    while left != Some(0)
        && let Some(message) = socket.next().await
    {
        let text = match message.map_err(|error| broken(door, error.into()))? {
            Message::Text(text) => text,
            Message::Close(_) => break,
            _ => continue,
        };
        let frame: Frame = serde_json::from_str(&text).map_err(|error| broken(door, error.into()))?;
        let mut out = String::new();
        for stream in &frame.streams {
            for (time, line) in &stream.values {
                if left == Some(0) {
                    break;
                }
                left = left.map(|left| left - 1);
                let time_ns: i64 = time.parse().unwrap_or_default();
                if args.is_json() {
                    let record = serde_json::json!({"stage": "indexed", "time_ns": time_ns, "labels": stream.stream, "line": line});
                    out.push_str(&format!("{record}\n"));
                } else {
                    let labels = braces(&stream.stream);
                    out.push_str(&format!("{} indexed {labels} {}\n", time_text(time_ns), escape::line(line)));
                }
            }
        }
        print(&out)?;
        if let Some(dropped) = frame.dropped_entries.filter(|dropped| !dropped.is_empty()) {
            print_missed(dropped.len() as u64);
        }
    }
    // Whoever has gone already needs no farewell.
    socket.close(None).await.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let mut seen = Seen {
            stage: Stage::Dropped,
            kind: "file".to_owned(),
            source: "/var/log/a".to_owned(),
            position: 7,
            time_ns: 1_767_323_045_500_000_000,
            topic: None,
            reason: Some("noise".to_owned()),
            labels: [("service".to_owned(), "a\"b".to_owned())].into(),
            metadata: BTreeMap::new(),
            line: "one\n\x1b[2Jtwo\tthree".to_owned(),
            not_shown: 0,
        };
        assert_eq!(
            shown(&seen),
            "2026-01-02T03:04:05.500Z dropped (noise) {service=\"a\\\"b\"} one\\n\\u{1b}[2Jtwo\tthree\n"
        );
        seen = Seen {
            stage: Stage::Sent,
            topic: Some("logs/3".to_owned()),
            reason: None,
            metadata: [("trace".to_owned(), "7".to_owned())].into(),
            line: "x".to_owned(),
            not_shown: 9,
            ..seen
        };
        assert_eq!(
            shown(&seen),
            "2026-01-02T03:04:05.500Z sent logs/3 {service=\"a\\\"b\"} {trace=\"7\"} x ... and 9 bytes\n"
        );
        let text = serde_json::to_string(&seen).unwrap();
        let Ok(Told::Seen(back)) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(*back, seen);
        assert!(matches!(serde_json::from_str(r#"{"missed":3}"#), Ok(Told::Missed { missed: 3 })));
    }
}
