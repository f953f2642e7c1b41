//! Records as text by a format, and as JSON.
//!
//! In: records, a format with placeholders. Out: bytes, JSON values. Side effects: none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millrace_log::client::reader::RawRecord;
use millrace_log::record::{Fixed, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT, Labels};
use serde_json::{Map, Value as Json, json};

use crate::exit::{Code, Failure};
use crate::human::time;

/// The last value of a header.
pub fn header<'r>(record: &'r RawRecord, name: &str) -> Option<&'r [u8]> {
    record.headers.iter().rev().find(|(n, _)| n == name)?.1.as_deref()
}

fn labels(record: &RawRecord, name: &str) -> Option<Labels> {
    Labels::from_json(header(record, name)?).ok()
}

/// One part of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Field(Field),
    Header(String),
    Label(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
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

/// Reads a format.
pub fn pieces(format: &str) -> Result<Vec<Piece>, Failure> {
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
                        "--format: unknown placeholder `{{{name}}}`: expected {}, header:NAME or label:NAME; write `\\{{` for a brace",
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

/// Appends a record to `line`.
pub fn render(format: &[Piece], topic: &str, record: &RawRecord, line: &mut Vec<u8>) {
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

/// Text, or base64 under another name where it is not UTF-8.
fn put_bytes(map: &mut Map<String, Json>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => drop(map.insert(name.to_owned(), Json::Null)),
        Some(Ok(text)) => drop(map.insert(name.to_owned(), Json::from(text))),
        Some(Err(_)) => {
            drop(map.insert(format!("{name}_base64"), Json::from(BASE64.encode(bytes.unwrap_or_default()))));
        }
    }
}

/// A whole record; key, value and headers that are not UTF-8 in base64 under another name.
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
        assert!(pieces("{valeu}").unwrap_err().to_string().contains("unknown placeholder `{valeu}`"));
    }

    #[test]
    fn json_keeps_bytes_that_are_not_text() {
        let told = as_json("logs", &record());
        assert_eq!(told["value_base64"], "dv8=");
        assert_eq!(told["headers"][1], json!({"name": "nothing", "value": null}));
        assert_eq!(told["millrace"], Json::Null);
    }
}
