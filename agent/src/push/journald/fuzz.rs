//! Fuzz target `journald`: what journalctl writes, or anything in its place.
//!
//! In: any bytes. Out: a panic if a promise is broken: pieces make no difference, fields keep to their limits, an entry is
//! written as what reads the same, and one behind damage is found again. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use bytes::BytesMut;
use millrace_fuzzing::memory;
use millrace_log::record::Labels;

use super::entry::Fields;
use super::export::ExportItem;
use super::position::MAX_CURSOR;
use crate::config::local::JournaldSource;

/// Bytes of a line at most.
const MAX_LINE: usize = 200;
/// Memory of all fields that are kept, and of one entry as it is read.
const HELD: u64 = 256 << 10;

/// The first byte is the size of the pieces.
pub(crate) fn journald(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let config = JournaldSource {
        metadata_fields: [("severity", "PRIORITY"), ("unit", "_SYSTEMD_UNIT")]
            .map(|(name, field)| (name.to_owned(), field.to_owned()))
            .into(),
        ..JournaldSource::default()
    };
    let fields = Fields::new(&config, MAX_LINE);
    let whole = read(&fields, stream, stream.len().max(1));
    assert_eq!(read(&fields, stream, usize::from(*size).max(1)), whole, "pieces of {size} make a difference");
    let mut passed = 0;
    for found in &whole {
        match found {
            Found::Malformed(why) => assert!(!why.is_empty()),
            Found::Resumed(bytes) => passed += bytes,
            Found::Entry(entry) => {
                let again = read(&fields, &entry.export(), 13);
                assert_eq!(again, [Found::Entry(entry.clone())], "{entry:?}");
            }
        }
    }
    assert!(passed <= stream.len() as u64, "{passed} of {} bytes were passed over", stream.len());
    // Whatever stands before it, an entry on a line of its own is found, unless a field swallows it.
    let behind = b"\n!\n!!!!!!!!\n!\n__CURSOR=z\nMESSAGE=good\n\n";
    if !stream.contains(&0) {
        let found = read(&fields, &[stream, behind].concat(), stream.len().max(1));
        let last = found.last().unwrap();
        assert!(matches!(last, Found::Entry(entry) if entry.text == b"good"), "{last:?}");
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Found {
    Entry(Entry),
    Malformed(&'static str),
    Resumed(u64),
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    cursor: Vec<u8>,
    text: Vec<u8>,
    /// Bytes beyond the limit.
    lost: u64,
    time_ns: Option<i64>,
    labels: Vec<(String, String)>,
    metadata: Labels,
    is_of_kernel: bool,
    /// All kept fields.
    fields: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// As journalctl writes it, every field with its length.
    fn export(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in &self.fields {
            let beyond = if name == "MESSAGE" { usize::try_from(self.lost).unwrap() } else { 0 };
            out.extend_from_slice(format!("{name}\n").as_bytes());
            out.extend_from_slice(&((value.len() + beyond) as u64).to_le_bytes());
            out.extend_from_slice(value);
            out.resize(out.len() + beyond, b'x');
            out.push(b'\n');
        }
        // An entry has one field at least.
        out.extend_from_slice(b"OTHER=x\n\n");
        out
    }
}

fn read(fields: &Fields, stream: &[u8], size: usize) -> Vec<Found> {
    let mut export = fields.reader();
    let (mut found, mut input) = (Vec::new(), BytesMut::new());
    for piece in stream.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            let (next, held) = memory::most(|| export.next(&mut input));
            assert!(held <= HELD, "{held} bytes held");
            found.push(match next {
                None => break,
                Some(ExportItem::Malformed(why)) => Found::Malformed(why),
                Some(ExportItem::Resumed(bytes)) => Found::Resumed(bytes),
                Some(ExportItem::Entry) => {
                    let entry = fields.entry(&export);
                    assert!(entry.text().len() <= MAX_LINE + 1 && entry.cursor().len() <= MAX_CURSOR);
                    assert!(entry.lost() == 0 || entry.text().len() == MAX_LINE + 1, "{} bytes lost", entry.lost());
                    let metadata = entry.metadata(Vec::new());
                    let labels = entry.labels();
                    let short = |value: &str| value.len() <= 1024;
                    assert!(
                        metadata.iter().all(|(_, value)| short(value)) && labels.iter().all(|(_, value)| short(value))
                    );
                    Found::Entry(Entry {
                        cursor: entry.cursor().to_vec(),
                        text: entry.text().to_vec(),
                        lost: entry.lost(),
                        time_ns: entry.time_ns(),
                        labels,
                        metadata,
                        is_of_kernel: entry.is_of_kernel(),
                        fields: fields.kept(&export),
                    })
                }
            });
        }
        // What waits is the name of a field, or a length.
        assert!(input.len() <= 256, "{} bytes wait", input.len());
    }
    found
}

/// Entries as journalctl writes them, and damage between them.
pub(crate) fn journald_seeds(_: u64) -> Vec<Vec<u8>> {
    let binary =
        |name: &str, value: &[u8]| [name.as_bytes(), b"\n", &(value.len() as u64).to_le_bytes(), value, b"\n"].concat();
    let entry = |cursor: &str, message: &[u8]| {
        let head = format!(
            "__CURSOR={cursor}\n__REALTIME_TIMESTAMP=1772366400000000\n_HOSTNAME=h\n_SYSTEMD_UNIT=nginx.service\nPRIORITY=3\n_TRANSPORT=kernel\nOTHER=x=y\n"
        );
        [head.as_bytes(), &binary("MESSAGE", message), b"\n"].concat()
    };
    let streams = [
        [entry("a", b"one"), entry("b", b"two\nlines\xff")].concat(),
        b"-- Boot 1234 --\n__CURSOR=a\nMESSAGE=x\nMESSAGE=y\nSYSLOG_IDENTIFIER=s\n_SYSTEMD_UNIT=session-3.scope\n\n\n__CURSOR=b\n_SOURCE_REALTIME_TIMESTAMP=4\n\n".to_vec(),
        [b"no field at all\n".to_vec(), entry("a", &[b'm'; 300]), b"__CURSOR=x\nlower=1\n__CU\n\n".to_vec(), entry("b", b"")].concat(),
        [b"__CURSOR=x\nMESSAGE\n".to_vec(), u64::MAX.to_le_bytes().to_vec(), b"\n".to_vec(), entry("c", b"good")].concat(),
        [vec![b'A'; 200], b"\n".to_vec(), b"__CURSOR=x\nMESSAGE=broken off\n".to_vec(), entry("d", b"1")].concat(),
    ];
    let all = streams.iter().enumerate();
    all.map(|(n, stream)| [&[n as u8 * 5 + 1], &stream[..]].concat()).collect()
}
