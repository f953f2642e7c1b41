//! The journal's export format, as `journalctl --output=export` writes it
//! (<https://systemd.io/JOURNAL_EXPORT_FORMATS/#journal-export-format>).
//!
//! In: bytes as they come, in pieces of any size. Out: entries with the fields that were asked for, and what was no entry.
//! Touches nothing. Holds no more of an entry than the limits of its fields, however large it is.
//!
//! | bytes | meaning |
//! |---|---|
//! | `NAME=text\n` | a field whose value is text without a line end |
//! | `NAME\n`, length as u64 little-endian, bytes, `\n` | any other field |
//! | `\n` | end of the entry |
//! | `-- … --\n` before an entry | what journalctl tells people, as at a change of boots: passed over |
//!
//! What is none of that is malformed. Everything up to the next line that begins with `__CURSOR=`, which is the first
//! of every entry, is then passed over and counted; the entry that was broken off is lost.

use bytes::{Buf as _, BytesMut};
use memchr::memchr;

/// First field of each entry.
pub(super) const CURSOR: &str = "__CURSOR";
/// Its name, as it stands at the start of a line.
const HEAD: &[u8] = b"__CURSOR=";
/// Longest name of a field; journald's own limit is 64.
const MAX_NAME: usize = 128;
/// Longest value of a field; journald's own limit is 768 MiB.
const MAX_VALUE: u64 = 1 << 30;

/// A field to keep.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub name: String,
    /// Bytes of it that are kept.
    pub max: usize,
}

/// One kept field.
#[derive(Debug, Clone, Default)]
struct FieldValue {
    found: bool,
    value: Vec<u8>,
    /// Bytes of the value beyond the limit.
    lost: u64,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExportItem {
    /// An entry: see [`Export::field`].
    Entry,
    /// Something else begins here.
    Malformed(&'static str),
    /// An entry begins again; so many bytes were passed over.
    Resumed(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParserState {
    /// At the start of a line.
    Line,
    /// In a value that ends with its line.
    Text,
    /// At the length of a value.
    Length,
    /// In a value of which so much is left.
    Value(u64),
    /// At the line end behind such a value.
    Close,
    /// In a line to be passed over, in order or out of it.
    Skip { malformed: bool },
    /// At the start of a line, out of order.
    Lost,
}

/// Reads entries.
#[derive(Debug)]
pub(super) struct Export {
    state: ParserState,
    wanted: Vec<Wanted>,
    kept: Vec<FieldValue>,
    /// The field that is being read, if it is kept.
    field: Option<usize>,
    /// Fields of the entry so far.
    fields: usize,
    /// The entry was given out: the next field begins another.
    given: bool,
    passed: u64,
}

impl Export {
    pub fn new(wanted: Vec<Wanted>) -> Self {
        let kept = vec![FieldValue::default(); wanted.len()];
        Self { state: ParserState::Line, wanted, kept, field: None, fields: 0, given: false, passed: 0 }
    }

    /// A field of the entry that was found last, by its place in the list of those asked for.
    pub fn field(&self, at: usize) -> Option<&[u8]> {
        self.kept.get(at).filter(|kept| kept.found).map(|kept| kept.value.as_slice())
    }

    /// Bytes of such a field beyond its limit.
    pub fn lost(&self, at: usize) -> u64 {
        self.kept.get(at).map_or(0, |kept| kept.lost)
    }

    /// Takes what it can use off `input`. `None`: more is needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Option<ExportItem> {
        loop {
            if input.is_empty() {
                return None;
            }
            match self.state {
                ParserState::Line => {
                    if let Some(found) = self.line(input)? {
                        return Some(found);
                    }
                }
                ParserState::Text => {
                    let end = memchr(b'\n', input);
                    let taken = end.unwrap_or(input.len());
                    self.keep(input.get(..taken).unwrap_or_default());
                    input.advance(taken + usize::from(end.is_some()));
                    if end.is_some() {
                        self.state = ParserState::Line;
                    }
                }
                ParserState::Length => {
                    if input.len() < 8 {
                        return None;
                    }
                    let length = input.get_u64_le();
                    if length > MAX_VALUE {
                        return Some(self.malformed("a field of more than 1 GiB"));
                    }
                    self.state = ParserState::Value(length);
                    if length == 0 {
                        self.state = ParserState::Close;
                    }
                }
                ParserState::Value(left) => {
                    let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                    self.keep(input.get(..taken).unwrap_or_default());
                    input.advance(taken);
                    let left = left - taken as u64;
                    self.state = if left == 0 { ParserState::Close } else { ParserState::Value(left) };
                }
                ParserState::Close => {
                    if input.first() != Some(&b'\n') {
                        return Some(self.malformed("a field longer than it says"));
                    }
                    input.advance(1);
                    self.state = ParserState::Line;
                }
                ParserState::Skip { malformed } => {
                    let end = memchr(b'\n', input);
                    let taken = end.map_or(input.len(), |end| end + 1);
                    if malformed {
                        self.passed += taken as u64;
                    }
                    input.advance(taken);
                    if end.is_some() {
                        self.state = if malformed { ParserState::Lost } else { ParserState::Line };
                    }
                }
                ParserState::Lost => {
                    let known = input.len().min(HEAD.len());
                    if input.get(..known) != HEAD.get(..known) {
                        self.state = ParserState::Skip { malformed: true };
                    } else if known < HEAD.len() {
                        return None;
                    } else {
                        self.state = ParserState::Line;
                        return Some(ExportItem::Resumed(std::mem::take(&mut self.passed)));
                    }
                }
            }
        }
    }

    /// The head of a line. Outer `None`: more is needed.
    #[allow(clippy::option_option)] // the two are different things
    fn line(&mut self, input: &mut BytesMut) -> Option<Option<ExportItem>> {
        if input.first() == Some(&b'\n') {
            input.advance(1);
            // Empty lines may stand between entries.
            if self.fields == 0 || self.given {
                return Some(None);
            }
            self.given = true;
            return Some(Some(ExportItem::Entry));
        }
        let head = input.get(..input.len().min(MAX_NAME + 1)).unwrap_or_default();
        let between = self.fields == 0 || self.given;
        if between && head.starts_with(b"--") {
            self.state = ParserState::Skip { malformed: false };
            return Some(None);
        }
        let Some(end) = head.iter().position(|b| matches!(b, b'=' | b'\n')) else {
            let may_go_on = is_name(head) || between && head == b"-";
            if head.len() > MAX_NAME || !may_go_on {
                return Some(Some(self.malformed("a line without the name of a field")));
            }
            return None;
        };
        let (name, is_text) = (head.get(..end).unwrap_or_default(), head.get(end) == Some(&b'='));
        if !is_name(name) {
            return Some(Some(self.malformed("a line without the name of a field")));
        }
        let is_head = name == CURSOR.as_bytes();
        if is_head && self.fields > 0 && !self.given {
            // The one before was broken off; this one is taken with the next turn.
            self.forget();
            return Some(Some(ExportItem::Malformed("an entry without its end")));
        }
        if is_head || self.given {
            self.forget();
        }
        self.fields += 1;
        self.field = self.wanted.iter().position(|wanted| wanted.name.as_bytes() == name);
        // Of a field that stands there several times, the first counts.
        if let Some(at) = self.field {
            match self.kept.get_mut(at) {
                Some(kept) if !kept.found => kept.found = true,
                _ => self.field = None,
            }
        }
        self.state = if is_text { ParserState::Text } else { ParserState::Length };
        input.advance(end + 1);
        Some(None)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Some(at) = self.field else { return };
        if let (Some(kept), Some(wanted)) = (self.kept.get_mut(at), self.wanted.get(at)) {
            let room = wanted.max.saturating_sub(kept.value.len()).min(bytes.len());
            kept.value.extend_from_slice(bytes.get(..room).unwrap_or_default());
            kept.lost += (bytes.len() - room) as u64;
        }
    }

    fn malformed(&mut self, why: &'static str) -> ExportItem {
        self.forget();
        self.state = ParserState::Skip { malformed: true };
        ExportItem::Malformed(why)
    }

    fn forget(&mut self) {
        for kept in &mut self.kept {
            kept.found = false;
            kept.value.clear();
            kept.lost = 0;
            // One huge message must not hold its memory for ever.
            kept.value.shrink_to(64 << 10);
        }
        (self.fields, self.given, self.field) = (0, false, None);
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(max: usize) -> Export {
        let wanted = |name: &str, max| Wanted { name: name.into(), max };
        Export::new(vec![wanted(CURSOR, 64), wanted("MESSAGE", max), wanted("_PID", 8)])
    }

    /// Entries as `cursor|message|pid`, `…` where a message was cut, and what else was found.
    fn read(export: &mut Export, pieces: &[&[u8]]) -> Vec<String> {
        let (mut found, mut input) = (Vec::new(), BytesMut::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(what) = export.next(&mut input) {
                found.push(match what {
                    ExportItem::Entry => {
                        let text = |at| String::from_utf8_lossy(export.field(at).unwrap_or(b"-")).into_owned();
                        let cut = if export.lost(1) > 0 { "…" } else { "" };
                        format!("{}|{}{cut}|{}", text(0), text(1), text(2))
                    }
                    ExportItem::Malformed(why) => why.to_owned(),
                    ExportItem::Resumed(passed) => format!("+{passed}"),
                });
            }
        }
        found
    }

    fn binary(name: &str, value: &[u8]) -> Vec<u8> {
        [name.as_bytes(), b"\n", &(value.len() as u64).to_le_bytes(), value, b"\n"].concat()
    }

    fn entry(cursor: &str, message: &[u8], pid: &str) -> Vec<u8> {
        let head = format!("__CURSOR={cursor}\n_PID={pid}\nOTHER=x=y\n");
        [head.as_bytes(), &binary("MESSAGE", message), b"\n"].concat()
    }

    #[test]
    fn what_stands_in_the_table_is_read_and_what_does_not_is_passed_over() {
        let one = entry("a", b"one", "1");
        let two = entry("b", b"two", "2");
        let cases: Vec<(Vec<u8>, &[&str])> = vec![
            (b"__CURSOR=a\nMESSAGE=x\n\n__CURSOR=b\n\n".to_vec(), &["a|x|-", "b|-|-"]),
            (b"\n\n__CURSOR=a\nMESSAGE=\n\n\n".to_vec(), &["a||-"]),
            (b"-- Boot 1234 --\n__CURSOR=a\nMESSAGE=x\n\n-- Boot 5 --\n__CURSOR=b\n\n".to_vec(), &["a|x|-", "b|-|-"]),
            (b"__CURSOR=a\nMESSAGE=x\nMESSAGE=y\n\n".to_vec(), &["a|x|-"]),
            ([&one[..], &two].concat(), &["a|one|1", "b|two|2"]),
            (entry("a", b"1\n\n__CURSOR=b\0\n", "3"), &["a|1\n\n__CUR…|3"]),
            (entry("a", b"0123456789", "1"), &["a|01234567…|1"]),
            (entry("a", b"", "1"), &["a||1"]),
            ([b"no field at all\n", &one[..]].concat(), &["a line without the name of a field", "+16", "a|one|1"]),
            (
                [b"__CURSOR=x\nlower=1\n__CU\n\n", &one[..]].concat(),
                &["a line without the name of a field", "+14", "a|one|1"],
            ),
            ([b"__CURSOR=x\n=1\n", &one[..]].concat(), &["a line without the name of a field", "+3", "a|one|1"]),
            ([b"__CURSOR=x\nMESSAGE=y\n", &one[..]].concat(), &["an entry without its end", "a|one|1"]),
            (
                [b"__CURSOR=x\nMESSAGE\n", &u64::MAX.to_le_bytes()[..], b"\n", &one].concat(),
                &["a field of more than 1 GiB", "+1", "a|one|1"],
            ),
            (
                [b"__CURSOR=x\nMESSAGE\n", &1u64.to_le_bytes()[..], b"12\n\n", &one].concat(),
                &["a field longer than it says", "+3", "a|one|1"],
            ),
            ([&[b'A'; 200], &b"\n"[..], &one].concat(), &["a line without the name of a field", "+201", "a|one|1"]),
        ];
        for (bytes, want) in cases {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(read(&mut reader(8), &[&bytes]), want, "{text}");
            // The same byte by byte.
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&mut reader(8), &single), want, "{text}");
        }
    }

    #[test]
    fn a_huge_field_takes_no_more_than_its_limit() {
        let mut export = reader(1000);
        let size = 64u64 << 20;
        let mut input = BytesMut::from(&[b"__CURSOR=a\nMESSAGE\n", &size.to_le_bytes()[..]].concat()[..]);
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            input.extend_from_slice(&piece);
            assert_eq!(export.next(&mut input), None);
            assert!(input.is_empty());
        }
        input.extend_from_slice(b"\n\n");
        assert_eq!(export.next(&mut input), Some(ExportItem::Entry));
        assert_eq!((export.field(1).map(<[u8]>::len), export.lost(1)), (Some(1000), size - 1000));
    }

    proptest! {
        #[test]
        fn entries_come_out_as_they_went_in(
            entries in proptest::collection::vec(("[a-z0-9;=]{1,20}", proptest::collection::vec(any::<u8>(), 0..200), "[0-9]{1,5}"), 0..8),
            size in 1usize..50,
        ) {
            let bytes: Vec<u8> = entries.iter().flat_map(|(cursor, message, pid)| entry(cursor, message, pid)).collect();
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let want: Vec<String> = entries
                .iter()
                .map(|(cursor, message, pid)| format!("{cursor}|{}|{pid}", String::from_utf8_lossy(message)))
                .collect();
            prop_assert_eq!(read(&mut reader(1000), &pieces), want);
        }

        #[test]
        fn damage_costs_its_entry_and_reading_goes_on(
            damage in proptest::collection::vec(any::<u8>(), 0..300),
            size in 1usize..50,
        ) {
            // A length in the damage may swallow what follows: a line of its own ends that.
            let mut bytes = damage;
            bytes.retain(|byte| *byte != b'\n');
            bytes.push(b'\n');
            bytes.insert(0, b'!');
            bytes.extend(entry("a", b"good", "1"));
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let found = read(&mut reader(1000), &pieces);
            prop_assert_eq!(found.last().map(String::as_str), Some("a|good|1"));
        }

        #[test]
        fn nothing_makes_it_panic_or_hold_more_than_its_limits(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut export = reader(16);
            let mut input = BytesMut::from(&bytes[..]);
            while export.next(&mut input).is_some() {}
            prop_assert!(input.len() <= MAX_NAME + 1);
            prop_assert!(export.kept.iter().all(|kept| kept.value.len() <= 64));
        }
    }
}
