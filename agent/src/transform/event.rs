//! One event between reading and sending: as a line as long as nobody asks for more, as a VRL value from the first
//! program on, and at the end as the parts of a record.
//!
//! In: a line with its time, what its source says of all its lines ([`Origin`]). Out: [`Transformed`]. Touches nothing.
//!
//! # What a program sees and what its writes do
//! | path | at first | after a program |
//! |---|---|---|
//! | `.message` | the line | alone and still a text: the record's value, as a line. Beside other fields: one of them |
//! | `.timestamp` | event time | a timestamp: the event time. Anything else is a field |
//! | `.labels` | labels of the stream | a map: the labels, within their bounds; texts, numbers and booleans, null removes. Not there: as before. Anything else is a field |
//! | `.metadata` | structured metadata | a map: the metadata; what is not text becomes JSON. Not there: as before. Anything else is a field |
//! | `.host`, `.filename`, `.source_type` | where the line is from | unchanged: nothing. Changed: a field |
//! | any other | | a field |
//!
//! `. = …` replaces the fields, `.message` among them; the others of this table stay unless the new value names them.
//!
//! A record with fields has a JSON object as its value and the header `content-type`.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use millrace_log::record::Labels;
use vrl::value::{KeyString, ObjectMap, Value};

use super::outcome::{Content, Destination, Transformed};
use super::value::{article, check_metadata, labels_of, measure, metadata_of, text, texts_of};

const MESSAGE: &str = "message";
const TIMESTAMP: &str = "timestamp";
const LABELS: &str = "labels";
const METADATA: &str = "metadata";
/// What stands beside the fields and stays when a program replaces them all by `. = …`.
pub(crate) const BESIDE: [&str; 6] = [TIMESTAMP, LABELS, METADATA, "host", "filename", "source_type"];
/// Copies that are no fields as long as nobody changes them.
const COPIES: [&str; 3] = ["host", "filename", "source_type"];

/// What all lines of a source have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    labels: Value,
    template: ObjectMap,
}

impl Origin {
    pub fn new(labels: &Labels, filename: &str, source_type: &'static str) -> Self {
        let pairs: ObjectMap = labels.iter().map(|(n, v)| (KeyString::from(n), Value::from(v))).collect();
        let labels_value = Value::Object(pairs);
        let host = labels.get("host").unwrap_or_default();
        let template = [
            (LABELS, labels_value.clone()),
            (METADATA, Value::Object(ObjectMap::new())),
            ("host", Value::from(host)),
            ("filename", Value::from(filename)),
            ("source_type", Value::from(source_type)),
        ];
        let template = template.into_iter().map(|(name, value)| (KeyString::from(name), value)).collect();
        Self { labels: labels_value, template }
    }
}

/// An event as it was before a program.
#[derive(Debug)]
pub(crate) struct Backup(Option<Value>, Option<Labels>);

/// One event on its way through the steps.
#[derive(Debug)]
pub(crate) struct Event<'o> {
    origin: &'o Origin,
    line: Bytes,
    line_changed: bool,
    time: DateTime<Utc>,
    /// Decides by what is sampled.
    pub seed: u64,
    root: Option<Value>,
    /// Labels other than the source's.
    labels: Option<Labels>,
    /// Metadata that steps added while there was no VRL value.
    notes: Vec<(Cow<'static, str>, String)>,
    pub to: Destination,
}

impl<'o> Event<'o> {
    pub fn new(origin: &'o Origin, line: Bytes, time_ns: i64, seed: u64) -> Self {
        let time = DateTime::from_timestamp_nanos(time_ns);
        let (root, labels, notes) = (None, None, Vec::new());
        Self { origin, line, line_changed: false, time, seed, root, labels, notes, to: Destination::Default }
    }

    /// With the metadata that it came with, as its header has it.
    pub fn with_meta(mut self, meta: Option<&[u8]>) -> Self {
        // Written by ourselves.
        let pairs = meta.map(|json| Labels::from_json(json).unwrap_or_default()).unwrap_or_default();
        self.notes.extend(pairs.iter().map(|(name, value)| (name.to_owned().into(), value.to_owned())));
        self
    }

    /// Replaces the line of an event that is still one.
    pub fn set_line(&mut self, line: Vec<u8>) {
        self.line = line.into();
        self.line_changed = true;
    }

    /// The line: of an event that has fields, its `.message` if that is a text.
    pub fn message(&self) -> Option<&[u8]> {
        match &self.root {
            None => Some(&self.line),
            Some(root) => text(root.as_object()?.get(MESSAGE)?),
        }
    }

    /// The event as a VRL value.
    pub fn root(&mut self) -> &mut Value {
        self.root.get_or_insert_with(|| {
            let mut root = self.origin.template.clone();
            root.insert(MESSAGE.into(), Value::Bytes(self.line.clone()));
            root.insert(TIMESTAMP.into(), Value::Timestamp(self.time));
            if !self.notes.is_empty() {
                let notes =
                    self.notes.iter().map(|(name, text)| (KeyString::from(&**name), Value::from(text.as_str())));
                root.insert(METADATA.into(), Value::Object(notes.collect()));
            }
            Value::Object(root)
        })
    }

    /// Every text of the event's own content: the line, or fields and metadata; not the labels and where it is from.
    pub fn texts(&mut self, change: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>) {
        match self.root.as_mut().and_then(Value::as_object_mut) {
            None => {
                if let Some(new) = change(&self.line) {
                    self.set_line(new);
                }
                for (_, text) in &mut self.notes {
                    if let Some(new) = change(text.as_bytes()) {
                        *text = String::from_utf8_lossy(&new).into_owned();
                    }
                }
            }
            Some(root) => {
                for (name, value) in root.iter_mut() {
                    let of_source = self.origin.template.get(name).is_some_and(|copy| copy == &*value);
                    let is_labels = name.as_str() == LABELS && value.is_object();
                    if !of_source && !is_labels {
                        texts_of(value, change, 0);
                    }
                }
            }
        }
    }

    /// What a step must be able to go back to.
    pub fn backup(&self) -> Backup {
        Backup(self.root.clone(), self.labels.clone())
    }

    /// Goes back.
    pub fn restore(&mut self, backup: Backup) {
        Backup(self.root, self.labels) = backup;
    }

    /// Adds metadata.
    pub fn note(&mut self, name: &'static str, text: String) {
        let metadata = self.root.as_mut().and_then(Value::as_object_mut).map(|root| root.entry(METADATA.into()));
        if let Some(metadata) = metadata
            && let Value::Object(metadata) = metadata.or_insert_with(|| Value::Object(ObjectMap::new()))
        {
            metadata.insert(name.into(), Value::from(text.as_str()));
        }
        match self.notes.iter_mut().find(|(known, _)| *known == name) {
            Some(note) => note.1 = text,
            None => self.notes.push((name.into(), text)),
        }
    }

    /// Whether a program left something that can be a record; remembers the labels.
    pub fn verify(&mut self, max_bytes: usize) -> Result<(), String> {
        let Some(root) = &self.root else { return Ok(()) };
        let Value::Object(fields) = root else {
            return Err(format!(
                "the event is {} after the program: a program must leave an object in `.`",
                article(root)
            ));
        };
        let mut left = max_bytes;
        measure(root, &mut left, 0, max_bytes)?;
        if let Some(Value::Timestamp(time)) = fields.get(TIMESTAMP)
            && time.timestamp_nanos_opt().is_none()
        {
            return Err(format!("`.timestamp` is {time}: expected 1677 to 2262"));
        }
        self.labels = match fields.get(LABELS) {
            Some(labels @ Value::Object(pairs)) if *labels != self.origin.labels => Some(labels_of(pairs)?),
            _ => None,
        };
        match fields.get(METADATA) {
            Some(Value::Object(pairs)) => check_metadata(pairs),
            _ => Ok(()),
        }
    }

    /// The parts of the record.
    pub fn finish(mut self) -> Transformed {
        let to = std::mem::take(&mut self.to);
        if matches!(to, Destination::Dropped(_)) {
            return Transformed { to, content: Content::Line, labels: None, meta: None, time_ns: None };
        }
        let labels = self.labels.map(|labels| Bytes::from(labels.to_json()));
        let notes = Labels::new(std::mem::take(&mut self.notes));
        let Some(Value::Object(mut fields)) = self.root.take() else {
            let content = if self.line_changed { Content::Text(self.line) } else { Content::Line };
            return Transformed { to, content, labels, meta: header(&notes), time_ns: None };
        };
        let mut time_ns = None;
        if let Some(Value::Timestamp(time)) = fields.get(TIMESTAMP) {
            time_ns = (*time != self.time).then(|| time.timestamp_nanos_opt()).flatten();
            fields.remove(TIMESTAMP);
        }
        if fields.get(LABELS).is_some_and(Value::is_object) {
            fields.remove(LABELS);
        }
        let mut metadata = notes;
        if fields.get(METADATA).is_some_and(Value::is_object)
            && let Some(Value::Object(pairs)) = fields.remove(METADATA)
        {
            metadata = metadata_of(&pairs);
        }
        for name in COPIES {
            if fields.get(name).is_some_and(|value| self.origin.template.get(name) == Some(value)) {
                fields.remove(name);
            }
        }
        let alone = if fields.len() == 1 { fields.get(MESSAGE).and_then(text) } else { None };
        let content = match alone {
            Some(line) if line == &self.line[..] && !self.line_changed => Content::Line,
            Some(line) => Content::Text(Bytes::copy_from_slice(line)),
            // A map of VRL values is always JSON: keys are texts, and what is no number becomes null.
            None => Content::Json(serde_json::to_vec(&fields).unwrap_or_default().into()),
        };
        Transformed { to, content, labels, meta: header(&metadata), time_ns }
    }
}

fn header(metadata: &Labels) -> Option<Bytes> {
    (!metadata.is_empty()).then(|| metadata.to_json().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_772_366_400_000_000_001;

    fn origin() -> Origin {
        Origin::new(&Labels::new([("app", "shop"), ("host", "h1")]), "/var/log/a.log", "file")
    }

    /// Shapes a line by a change of its VRL value.
    fn shaped(change: impl FnOnce(&mut ObjectMap)) -> Result<Transformed, String> {
        let origin = origin();
        let mut event = Event::new(&origin, Bytes::from_static(b"a line"), TIME, 0);
        change(event.root().as_object_mut().unwrap());
        event.verify(10_000)?;
        Ok(event.finish())
    }

    fn json(text: &str) -> Value {
        serde_json::from_str::<serde_json::Value>(text).unwrap().into()
    }

    #[test]
    fn what_a_write_does_depends_on_where() {
        type Change = fn(&mut ObjectMap);
        let same = Transformed::unchanged;
        let cases: [(&str, Change, Transformed); 14] = [
            ("nothing", |_| {}, same()),
            (
                "message",
                |e| drop(e.insert("message".into(), "b".into())),
                Transformed { content: Content::Text("b".into()), ..same() },
            ),
            (
                "message and field",
                |e| drop(e.insert("level".into(), "info".into())),
                Transformed { content: Content::Json(r#"{"level":"info","message":"a line"}"#.into()), ..same() },
            ),
            (
                "no message",
                |e| drop(e.remove("message")),
                Transformed { content: Content::Json("{}".into()), ..same() },
            ),
            (
                "message is a number",
                |e| drop(e.insert("message".into(), 3.into())),
                Transformed { content: Content::Json(r#"{"message":3}"#.into()), ..same() },
            ),
            (
                "label added, one removed",
                |e| {
                    e.insert("labels".into(), json(r#"{"app":"shop","level":"warn","host":null,"n":7}"#));
                },
                Transformed { labels: Some(r#"{"app":"shop","level":"warn","n":"7"}"#.into()), ..same() },
            ),
            ("labels gone", |e| drop(e.remove("labels")), same()),
            (
                "labels are data",
                |e| drop(e.insert("labels".into(), "x".into())),
                Transformed { content: Content::Json(r#"{"labels":"x","message":"a line"}"#.into()), ..same() },
            ),
            (
                "metadata",
                |e| drop(e.insert("metadata".into(), json(r#"{"trace":"t1","n":[1],"no":null}"#))),
                Transformed { meta: Some(r#"{"n":"[1]","trace":"t1"}"#.into()), ..same() },
            ),
            (
                "timestamp",
                |e| drop(e.insert("timestamp".into(), DateTime::from_timestamp_nanos(5).into())),
                Transformed { time_ns: Some(5), ..same() },
            ),
            (
                "timestamp is a text",
                |e| drop(e.insert("timestamp".into(), "noon".into())),
                Transformed { content: Content::Json(r#"{"message":"a line","timestamp":"noon"}"#.into()), ..same() },
            ),
            (
                "host",
                |e| drop(e.insert("host".into(), "h2".into())),
                Transformed { content: Content::Json(r#"{"host":"h2","message":"a line"}"#.into()), ..same() },
            ),
            ("host gone", |e| drop(e.remove("host")), same()),
            (
                "everything replaced",
                |e| {
                    e.clear();
                    e.insert("a".into(), json("[1,null]"));
                },
                Transformed { content: Content::Json(r#"{"a":[1,null]}"#.into()), ..same() },
            ),
        ];
        for (name, change, want) in cases {
            assert_eq!(shaped(change), Ok(want), "{name}");
        }
    }

    #[test]
    fn what_can_be_no_record_is_refused_with_the_reason() {
        type Change = fn(&mut ObjectMap);
        let cases: [(Change, &str); 7] = [
            (|e| drop(e.insert("labels".into(), json(r#"{"a-b":"x"}"#))), "`.labels`: "),
            (|e| drop(e.insert("labels".into(), json(r#"{"a":{}}"#))), "`.labels.a` is a map"),
            (
                |e| {
                    drop(e.insert(
                        "labels".into(),
                        Value::Object((0..16).map(|i| (format!("l{i}").into(), 1.into())).collect()),
                    ))
                },
                "`.labels`: ",
            ),
            (|e| drop(e.insert("x".into(), "x".repeat(10_000).into())), "larger than 10000 bytes"),
            (|e| drop(e.insert("timestamp".into(), DateTime::<Utc>::MAX_UTC.into())), "expected 1677 to 2262"),
            (
                |e| {
                    drop(e.insert(
                        "metadata".into(),
                        Value::Object((0..129).map(|i| (format!("{i}").into(), 1.into())).collect()),
                    ))
                },
                "129 entries",
            ),
            (
                |e| {
                    let deep = (0..70).fold(Value::from(1), |inner, _| Value::Array(vec![inner]));
                    e.insert("x".into(), deep);
                },
                "deeper than 64 levels",
            ),
        ];
        for (change, want) in cases {
            let error = shaped(change).expect_err(want);
            assert!(error.contains(want), "{error}");
        }
        let origin = origin();
        let mut event = Event::new(&origin, Bytes::from_static(b"x"), TIME, 0);
        *event.root() = json("[1]");
        assert_eq!(
            event.verify(100),
            Err("the event is an array after the program: a program must leave an object in `.`".to_owned())
        );
    }

    #[test]
    fn notes_are_metadata_whether_or_not_programs_follow() {
        let origin = origin();
        let mut event = Event::new(&origin, Bytes::from_static(b"x"), TIME, 0);
        event.note("transform_error", "first".to_owned());
        assert!(event.root().to_string().contains("first"));
        event.note("transform_error", "second".to_owned());
        let shaped = event.finish();
        assert_eq!(shaped.meta.as_deref(), Some(&br#"{"transform_error":"second"}"#[..]));
        assert_eq!(shaped.content, Content::Line);
        let mut event = Event::new(&origin, Bytes::from_static(b"x"), TIME, 0);
        event.note("a", "b".to_owned());
        assert_eq!(event.finish().meta.as_deref(), Some(&br#"{"a":"b"}"#[..]));
    }

    #[test]
    fn bytes_that_are_no_text_stay_as_they_are() {
        let origin = origin();
        let mut event = Event::new(&origin, Bytes::from_static(b"a\xff"), TIME, 0);
        event.root();
        event.verify(1000).unwrap();
        assert_eq!(event.finish().content, Content::Line);
    }

    #[test]
    fn texts_are_those_of_the_event_itself() {
        let origin = origin();
        let mut event = Event::new(&origin, Bytes::from_static(b"secret"), TIME, 0);
        let root = event.root().as_object_mut().unwrap();
        root.insert("a".into(), json(r#"{"b":["secret",1,4111]}"#));
        root.insert("metadata".into(), json(r#"{"m":"secret"}"#));
        let mut seen = Vec::new();
        event.texts(&mut |text| {
            seen.push(String::from_utf8_lossy(text).into_owned());
            (text != b"1").then(|| b"-".to_vec())
        });
        assert_eq!(seen, ["secret", "1", "4111", "secret", "secret"]);
        event.verify(1000).unwrap();
        let shaped = event.finish();
        assert_eq!(shaped.content, Content::Json(r#"{"a":{"b":["-",1,"-"]},"message":"-"}"#.into()));
        assert_eq!(shaped.meta.as_deref(), Some(&br#"{"m":"-"}"#[..]));
    }
}
