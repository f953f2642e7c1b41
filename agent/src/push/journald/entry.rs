//! What an entry of the journal says: its line, its time, its labels and its metadata.
//!
//! In: fields as [`Export`] kept them. Out: what a record is made of. Touches nothing.

use millrace_log::record::Labels;

use super::export::{CURSOR, Export, Wanted};
use super::position::MAX_CURSOR;
use crate::config::local::{JournaldSource, priority_name};

/// Longest value of a label or of metadata; what is beyond is left out.
const MAX_VALUE: usize = 1024;
/// Where these stand in the list of fields that are asked for.
const AT_CURSOR: usize = 0;
const AT_MESSAGE: usize = 1;
const AT_SOURCE_TIME: usize = 2;
const AT_TIME: usize = 3;
const AT_TRANSPORT: usize = 4;

/// Which fields are wanted, and for what.
#[derive(Debug)]
pub(super) struct Fields {
    wanted: Vec<Wanted>,
    /// Label to places of fields; the first that is there counts.
    labels: Vec<(String, Vec<usize>)>,
    metadata: Vec<(String, usize)>,
}

impl Fields {
    pub fn new(config: &JournaldSource, max_line: usize) -> Self {
        let field = |name: &str, max| Wanted { name: name.to_owned(), max };
        let mut wanted = vec![
            field(CURSOR, MAX_CURSOR),
            // One more, so that a line that is too long is seen to be.
            field("MESSAGE", max_line.saturating_add(1)),
            field("_SOURCE_REALTIME_TIMESTAMP", 32),
            field("__REALTIME_TIMESTAMP", 32),
            field("_TRANSPORT", MAX_VALUE),
        ];
        let mut place = |name: &String| {
            wanted.iter().position(|wanted| wanted.name == *name).unwrap_or_else(|| {
                wanted.push(field(name, MAX_VALUE));
                wanted.len() - 1
            })
        };
        let labels = config
            .label_fields
            .iter()
            .map(|(label, from)| (label.clone(), from.iter().map(&mut place).collect()))
            .collect();
        let metadata = config.metadata_fields.iter().map(|(name, field)| (name.clone(), place(field))).collect();
        Self { wanted, labels, metadata }
    }

    /// A reader for them.
    pub fn reader(&self) -> Export {
        Export::new(self.wanted.clone())
    }

    /// Names and values of the fields of the entry that the reader found last.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn kept(&self, export: &Export) -> Vec<(String, Vec<u8>)> {
        let values = self.wanted.iter().enumerate();
        values.filter_map(|(at, wanted)| Some((wanted.name.clone(), export.field(at)?.to_vec()))).collect()
    }

    /// The entry that the reader found last.
    pub fn entry<'e>(&'e self, export: &'e Export) -> JournalEntry<'e> {
        JournalEntry { fields: self, export }
    }
}

/// One entry.
pub(super) struct JournalEntry<'e> {
    fields: &'e Fields,
    export: &'e Export,
}

impl<'e> JournalEntry<'e> {
    /// Its place in the journal.
    pub fn cursor(&self) -> &'e [u8] {
        self.export.field(AT_CURSOR).unwrap_or_default()
    }

    /// The message: one byte more than the longest line at most. Empty where there is none.
    pub fn text(&self) -> &'e [u8] {
        self.export.field(AT_MESSAGE).unwrap_or_default()
    }

    /// Bytes of the message beyond that.
    pub fn lost(&self) -> u64 {
        self.export.lost(AT_MESSAGE)
    }

    /// When it happened, ns since 1970: as its sender says, else as the journal does.
    pub fn time_ns(&self) -> Option<i64> {
        let time = |at| {
            let us: i64 = std::str::from_utf8(self.export.field(at)?).ok()?.parse().ok()?;
            us.checked_mul(1000).filter(|ns| *ns > 0)
        };
        time(AT_SOURCE_TIME).or_else(|| time(AT_TIME))
    }

    /// Whether the kernel said it.
    pub fn is_of_kernel(&self) -> bool {
        self.export.field(AT_TRANSPORT) == Some(b"kernel")
    }

    fn name(&self, at: usize) -> &str {
        self.fields.wanted.get(at).map_or("", |wanted| &wanted.name)
    }

    /// A field as people read it; `None` if it is not there or empty.
    fn value(&self, at: usize) -> Option<String> {
        let bytes = self.export.field(at).filter(|bytes| !bytes.is_empty())?;
        if self.name(at) == "PRIORITY"
            && let Some(name) = priority_name(bytes)
        {
            return Some(name.to_owned());
        }
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        text.truncate(text.floor_char_boundary(MAX_VALUE));
        Some(text)
    }

    /// A label's value: the first of these fields that is there. Scopes give way, since there is one for each session.
    fn label(&self, from: &[usize]) -> Option<String> {
        let mut scope = None;
        for at in from {
            let Some(mut value) = self.value(*at) else { continue };
            if self.name(*at).ends_with("UNIT") {
                if value.ends_with(".scope") {
                    scope.get_or_insert(value);
                    continue;
                }
                if let Some(name) = value.strip_suffix(".service").filter(|name| !name.is_empty()) {
                    value = name.to_owned();
                }
            }
            return Some(value);
        }
        scope
    }

    /// Labels that the configuration asks for.
    pub fn labels(&self) -> Vec<(String, String)> {
        let found = self.fields.labels.iter();
        found.filter_map(|(label, from)| Some((label.clone(), self.label(from)?))).collect()
    }

    /// Metadata that it asks for, besides `more`.
    pub fn metadata(&self, more: Vec<(String, String)>) -> Labels {
        let found = self.fields.metadata.iter().filter_map(|(name, at)| Some((name.clone(), self.value(*at)?)));
        Labels::new(more.into_iter().chain(found))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::export::ExportItem;
    use super::*;

    fn read(config: &JournaldSource, entry: &str) -> (String, String, Option<i64>) {
        let fields = Fields::new(config, 100);
        let mut export = fields.reader();
        let text = format!("__CURSOR=c\n{}\n\n", entry.trim().replace("  ", "\n"));
        assert_eq!(export.next(&mut BytesMut::from(text.as_bytes())), Some(ExportItem::Entry), "{text}");
        let entry = fields.entry(&export);
        assert_eq!(entry.cursor(), b"c");
        (Labels::new(entry.labels()).to_json(), entry.metadata(Vec::new()).to_json(), entry.time_ns())
    }

    #[test]
    fn labels_and_metadata_follow_the_fields() {
        let config = JournaldSource {
            metadata_fields: [("severity", "PRIORITY"), ("unit", "_SYSTEMD_UNIT")]
                .map(|(name, field)| (name.to_owned(), field.to_owned()))
                .into(),
            ..JournaldSource::default()
        };
        for (entry, labels, metadata) in [
            (
                "_HOSTNAME=h  _SYSTEMD_UNIT=nginx.service  SYSLOG_IDENTIFIER=ng  PRIORITY=3",
                r#"{"host":"h","service":"nginx"}"#,
                r#"{"severity":"err","unit":"nginx.service"}"#,
            ),
            ("_SYSTEMD_UNIT=a@1.service", r#"{"service":"a@1"}"#, r#"{"unit":"a@1.service"}"#),
            ("_SYSTEMD_UNIT=x.socket", r#"{"service":"x.socket"}"#, r#"{"unit":"x.socket"}"#),
            (
                "_SYSTEMD_UNIT=session-3.scope  SYSLOG_IDENTIFIER=sshd",
                r#"{"service":"sshd"}"#,
                r#"{"unit":"session-3.scope"}"#,
            ),
            ("_SYSTEMD_UNIT=init.scope", r#"{"service":"init.scope"}"#, r#"{"unit":"init.scope"}"#),
            ("SYSLOG_IDENTIFIER=kernel  _TRANSPORT=kernel", r#"{"service":"kernel"}"#, "{}"),
            ("PRIORITY=9  _HOSTNAME=", "{}", r#"{"severity":"9"}"#),
        ] {
            let (found, kept, _) = read(&config, entry);
            assert_eq!((found.as_str(), kept.as_str()), (labels, metadata), "{entry}");
        }
        let long = "ä".repeat(600);
        let (found, ..) = read(&config, &format!("_HOSTNAME={long}"));
        assert_eq!(found.len(), r#"{"host":""}"#.len() + 1024);
    }

    #[test]
    fn the_time_is_that_of_the_sender_or_of_the_journal() {
        for (entry, want) in [
            ("__REALTIME_TIMESTAMP=5", Some(5000)),
            ("__REALTIME_TIMESTAMP=5  _SOURCE_REALTIME_TIMESTAMP=4", Some(4000)),
            ("__REALTIME_TIMESTAMP=5  _SOURCE_REALTIME_TIMESTAMP=x", Some(5000)),
            ("__REALTIME_TIMESTAMP=9223372036854775807", None),
            ("MESSAGE=x", None),
        ] {
            assert_eq!(read(&JournaldSource::default(), entry).2, want, "{entry}");
        }
    }
}
