//! Bodies of pushes in protobuf (`logproto.PushRequest`), compressed with snappy's block format.
//!
//! In: the body. Out: streams as sent; lines are slices of the decompressed body. Touches nothing.
//! Message: <https://github.com/grafana/loki/blob/main/pkg/push/push.proto>

use crate::record::{Labels, is_label_name};
use bytes::Bytes;
use prost::Message;

use super::budget::Reserved;
use super::entries::{PushEntry, PushStream};
use super::error::PushError;
use super::protobuf::{Shape, cost};

/// `logproto.PushRequest`
#[derive(Clone, PartialEq, Message)]
pub struct PushRequest {
    /// The streams.
    #[prost(message, repeated, tag = "1")]
    pub streams: Vec<StreamAdapter>,
}

/// `logproto.StreamAdapter`
#[derive(Clone, PartialEq, Message)]
pub struct StreamAdapter {
    /// `{app="api", env="prod"}`
    #[prost(string, tag = "1")]
    pub labels: String,
    /// The entries.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<EntryAdapter>,
}

/// `logproto.EntryAdapter`. The line is read as bytes: what is no UTF-8 is kept.
#[derive(Clone, PartialEq, Message)]
pub struct EntryAdapter {
    /// `google.protobuf.Timestamp`
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// The line.
    #[prost(bytes = "bytes", tag = "2")]
    pub line: Bytes,
    /// Structured metadata.
    #[prost(message, repeated, tag = "3")]
    pub structured_metadata: Vec<LabelPair>,
}

/// `google.protobuf.Timestamp`
#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Ns of the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `logproto.LabelPairAdapter`
#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

// Sizes with the doubling of lists, and with what streams and entries are turned into.
static PUSH: Shape = Shape { bytes: 0, fields: &[(1, &STREAM)] };
static STREAM: Shape = Shape { bytes: 400, fields: &[(2, &ENTRY)] };
static ENTRY: Shape = Shape { bytes: 400, fields: &[(1, &TIME), (3, &PAIR)] };
static TIME: Shape = Shape { bytes: 0, fields: &[] };
static PAIR: Shape = Shape { bytes: 256, fields: &[] };

/// Reads a body; `allowed` bytes at most when decompressed.
pub(super) fn decode(body: &Bytes, allowed: u64, memory: &mut Reserved) -> Result<Vec<PushStream>, PushError> {
    let fault = |e: &dyn std::fmt::Display| {
        PushError::Bad(format!(
            "body of the push is not as expected: {e}; protobuf is compressed with snappy, JSON needs the header \
             `Content-Type: application/json`"
        ))
    };
    let found = snap::raw::decompress_len(body).map_err(|e| fault(&e))? as u64;
    if found > allowed {
        return Err(PushError::TooLarge { found, allowed });
    }
    memory.grow(found)?;
    let plain = Bytes::from(snap::raw::Decoder::new().decompress_vec(body).map_err(|e| fault(&e))?);
    memory.grow(cost(&plain, &PUSH).map_err(|e| fault(&e))?)?;
    let request = PushRequest::decode(plain).map_err(|e| fault(&e))?;
    Ok(request.streams.into_iter().map(stream).collect())
}

fn stream(sent: StreamAdapter) -> PushStream {
    let labels = parse_labels(&sent.labels)
        .map_err(|fault| format!("Error parsing labels '{}' with error: {fault}", sent.labels));
    let entry = |e: EntryAdapter| PushEntry {
        time_ns: e.timestamp.map_or(Some(0), |t| {
            t.seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(i64::from(t.nanos)))
        }),
        line: e.line,
        metadata: Labels::new(e.structured_metadata.into_iter().map(|p| (p.name, p.value))),
    };
    PushStream { labels, entries: sent.entries.into_iter().map(entry).collect() }
}

/// `{app="api", env="prod"}`: names and values, quoted as in Go.
fn parse_labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim().strip_prefix('{').ok_or("expected `{`")?.trim_start();
    loop {
        if let Some(end) = rest.strip_prefix('}') {
            return if end.trim().is_empty() {
                Ok(pairs)
            } else {
                Err(format!("unexpected `{}` after `}}`", end.trim()))
            };
        }
        let (name, value) = rest.split_once('=').ok_or("expected name=\"value\"")?;
        let name = name.trim();
        if !is_label_name(name) {
            return Err(format!("label name `{name}` is not of the form [a-zA-Z_][a-zA-Z0-9_]*"));
        }
        let (value, behind) = quoted(value.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = behind.trim_start();
        if let Some(more) = rest.strip_prefix(',') {
            rest = more.trim_start();
        } else if !rest.starts_with('}') {
            return Err(format!("expected `,` or `}}` after label `{name}`"));
        }
    }
}

/// A string in double quotes or backticks, and what stands behind it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    if let Some(raw) = text.strip_prefix('`') {
        let (value, behind) = raw.split_once('`').ok_or("value is not terminated")?;
        return Ok((value.to_owned(), behind));
    }
    let body = text.strip_prefix('"').ok_or("expected a value in quotes")?;
    let mut bytes = Vec::new();
    let mut chars = body.char_indices();
    let mut utf8 = [0; 4];
    while let Some((i, c)) = chars.next() {
        let made = match c {
            '"' => {
                let value = String::from_utf8(bytes).map_err(|_| "value is not valid UTF-8")?;
                return Ok((value, body.get(i + 1..).unwrap_or_default()));
            }
            '\\' => {
                let (_, c) = chars.next().ok_or("value is not terminated")?;
                let mut digits = |n: usize, radix: u32, first: Option<char>| -> Result<u32, String> {
                    let mut text: String = first.into_iter().collect();
                    text.extend(chars.by_ref().take(n).map(|(_, c)| c));
                    u32::from_str_radix(&text, radix).map_err(|_| "invalid escape".to_owned())
                };
                match c {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' | '"' | '\'' => c,
                    'x' => {
                        bytes.push(u8::try_from(digits(2, 16, None)?).map_err(|_| "invalid escape")?);
                        continue;
                    }
                    '0'..='3' => {
                        bytes.push(u8::try_from(digits(2, 8, Some(c))?).map_err(|_| "invalid escape")?);
                        continue;
                    }
                    'u' => char::from_u32(digits(4, 16, None)?).ok_or("invalid escape")?,
                    'U' => char::from_u32(digits(8, 16, None)?).ok_or("invalid escape")?,
                    _ => return Err(format!("invalid escape `\\{c}`")),
                }
            }
            c => c,
        };
        bytes.extend_from_slice(made.encode_utf8(&mut utf8).as_bytes());
    }
    Err("value is not terminated".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::budget::DecodeBudget;
    use super::*;
    use proptest::prelude::*;

    fn decode(body: &Bytes, allowed: u64) -> Result<Vec<PushStream>, PushError> {
        super::decode(body, allowed, &mut DecodeBudget::new(1 << 20).begin())
    }

    #[test]
    fn elements_of_two_bytes_are_refused_before_they_are_made() {
        let labels = b"\x0a\x07{a=\"b\"}";
        let of = |tag: &[u8], times: usize| {
            let inner = [&labels[..], &tag.repeat(times)].concat();
            let mut message = vec![0x0a];
            prost::encoding::encode_varint(inner.len() as u64, &mut message);
            Bytes::from(snap::raw::Encoder::new().compress_vec(&[message, inner].concat()).unwrap())
        };
        let streams = snap::raw::Encoder::new().compress_vec(&b"\x0a\x00".repeat(100_000)).unwrap();
        for (name, body) in [
            ("streams", Bytes::from(streams)),
            ("entries", of(b"\x12\x00", 100_000)),
            ("metadata", of(b"\x12\x02\x1a\x00", 100_000)),
        ] {
            assert!(body.len() < 50_000, "{name}");
            let got = decode(&body, 1 << 20);
            assert!(
                matches!(got, Err(PushError::Costly { found: 40_000_000.., allowed: 1_048_576 })),
                "{name}: {got:?}"
            );
        }
        assert_eq!(decode(&of(b"\x12\x00", 100), 1 << 20).unwrap()[0].entries.len(), 100);
    }

    #[test]
    fn label_texts_read() {
        let pairs =
            |of: &[(&str, &str)]| Ok(of.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        for (text, want) in [
            ("{}", pairs(&[])),
            (r#"{app="api"}"#, pairs(&[("app", "api")])),
            (r#" { app = "api" , env=`p"r` , } "#, pairs(&[("app", "api"), ("env", "p\"r")])),
            (r#"{a="q\"\\\n\u00e9\xc3\xa9\101"}"#, pairs(&[("a", "q\"\\\néé\u{41}")])),
            (r#"{a="}"}"#, pairs(&[("a", "}")])),
            ("", Err("expected `{`".to_owned())),
            ("{a}", Err("expected name=\"value\"".to_owned())),
            (r#"{a="b"#, Err("value is not terminated".to_owned())),
            (r#"{a="b" c="d"}"#, Err("expected `,` or `}` after label `a`".to_owned())),
            (r#"{a="\xff"}"#, Err("value is not valid UTF-8".to_owned())),
            (r#"{a.b="c"}"#, Err("label name `a.b` is not of the form [a-zA-Z_][a-zA-Z0-9_]*".to_owned())),
            (r#"{a="b"}x"#, Err("unexpected `x` after `}`".to_owned())),
        ] {
            assert_eq!(parse_labels(text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn labels_printed_like_go_read_back(
            labels in proptest::collection::btree_map("[a-z_]{1,6}", "[ -~äöü\n\t]{0,10}", 0..5),
        ) {
            let inner: Vec<String> = labels.iter().map(|(n, v)| {
                let escaped = v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
                format!("{n}=\"{escaped}\"")
            }).collect();
            let got = parse_labels(&format!("{{{}}}", inner.join(", "))).unwrap();
            prop_assert_eq!(got, labels.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}", body in proptest::collection::vec(any::<u8>(), 0..100)) {
            parse_labels(&text).ok();
            decode(&Bytes::from(body), 1000).ok();
        }

        #[test]
        fn requests_read_back(seconds in -9_000_000_000i64..9_000_000_000, nanos in 0i32..1_000_000_000, line: Vec<u8>) {
            let entry = EntryAdapter {
                timestamp: Some(Timestamp { seconds, nanos }),
                line: line.clone().into(),
                structured_metadata: vec![LabelPair { name: "u".into(), value: "x".into() }],
            };
            let request = PushRequest {
                streams: vec![StreamAdapter { labels: r#"{a="b"}"#.into(), entries: vec![entry] }],
            };
            let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).unwrap();
            let streams = decode(&body.into(), 1 << 20).unwrap();
            let entry = &streams[0].entries[0];
            prop_assert_eq!(entry.time_ns, Some(seconds * 1_000_000_000 + i64::from(nanos)));
            prop_assert_eq!(&entry.line[..], &line[..]);
            prop_assert_eq!(entry.metadata.get("u"), Some("x"));
        }
    }
}
