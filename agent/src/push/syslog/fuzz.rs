//! Fuzz target `syslog`: what comes over a connection.
//!
//! In: any bytes. Out: a panic if a promise is broken: pieces make no difference, no byte is lost uncounted, a message keeps its
//! text, and its labels and metadata keep to their bounds. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use bytes::Bytes;
use chrono::FixedOffset;
use millrace_fuzzing::memory;
use millrace_log::record::is_label_name;

use super::frames::Frames;
use super::message::{MAX_FIELDS, MAX_VALUE, MessageReader};
use crate::config::syslog::{Framing, SyslogFormat, SyslogSource};

/// Bytes of a message at most.
const MAX: usize = 300;
/// 2026-01-02 00:00 UTC.
const NOW_NS: i64 = 1_767_312_000_000_000_000;

/// The first byte chooses framing and format, the second the size of the pieces.
pub(crate) fn syslog(bytes: &[u8]) {
    let [how, size, stream @ ..] = bytes else { return };
    let framing = [Framing::Auto, Framing::Newline, Framing::OctetCounting][usize::from(how % 3)];
    let format = [SyslogFormat::Auto, SyslogFormat::Rfc3164, SyslogFormat::Rfc5424][usize::from(how / 3 % 3)];
    let whole = run(framing, stream, stream.len().max(1));
    assert_eq!(run(framing, stream, usize::from(*size).max(1)), whole, "pieces of {size} make a difference");
    let (messages, lost, _) = whole;
    let kept: usize = messages.iter().map(Bytes::len).sum();
    assert!(kept + usize::try_from(lost).unwrap() <= stream.len(), "{kept} bytes kept and {lost} lost");
    let zone = FixedOffset::east_opt(0).unwrap();
    let mut config = SyslogSource::default();
    config.label_fields.insert("severity".to_owned(), "severity".to_owned());
    let reader = MessageReader::new(format, zone, config.label_fields);
    for message in messages {
        assert!(!message.is_empty() && message.len() <= MAX, "{} bytes", message.len());
        let (read, held) = memory::most(|| reader.read(&message, "10.0.0.1", NOW_NS));
        // Each field has its name and its value, twice while it is sorted.
        assert!(held <= 64 * 1024 + 64 * message.len() as u64, "{held} bytes held for {message:?}");
        assert!(message.ends_with(read.text), "{:?} is not the end of {message:?}", read.text);
        if read.metadata.get("syslog") == Some("malformed") {
            assert_eq!(read.text, &message[..], "a malformed line stays as it is");
        }
        assert!(read.metadata.len() <= MAX_FIELDS + 1, "{:?}", read.metadata);
        for (name, value) in read.metadata.iter().chain(read.labels.iter()) {
            assert!(is_label_name(name) && value.len() <= MAX_VALUE, "{name}={value}");
        }
    }
}

/// Messages, bytes that were cut off, and whether the stream broke its framing.
fn run(framing: Framing, stream: &[u8], size: usize) -> (Vec<Bytes>, u64, bool) {
    let mut frames = Frames::new(framing, MAX);
    let mut found = Vec::new();
    for piece in stream.chunks(size) {
        frames.buffer().extend_from_slice(piece);
        loop {
            match frames.next() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                // The connection ends here.
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return (found, frames.take_lost(), true);
                }
            }
        }
        assert!(frames.len() <= MAX + 16 + size, "{} bytes wait", frames.len());
    }
    found.extend(frames.finish());
    (found, frames.take_lost(), false)
}

/// Streams of each framing and format.
pub(crate) fn syslog_seeds(_: u64) -> Vec<Vec<u8>> {
    let streams = [
        "<165>1 2025-10-11T22:14:15.003Z mymachine.example.com evntslog 17 ID47 [ex@32473 iut=\"3\" src=\"A\\\"p\"][b c=\"d\"] \u{feff}An event\n<34>1 2025-10-11T22:14:15Z host su - - - 'su root' failed\n",
        "<13>Dec 31 23:59:58 web01 nginx[99]: GET / 200\r\n<13>Jan  2 00:00:01 web01 cron: job \u{e9} done\nno syslog at all\n<999>x\n",
        "47 <13>Jan  2 00:00:01 web01 cron: counted message10 <14>1 - - 400 <15>Feb 29 10:00:00 h a: cut off beyond the limit",
        "<0>1 - - - - - -\n<191>2026-01-02T03:04:05+02:00 h a: b\n<86>Jan  2 03:04:05.123456 h %ASA-6-1: c\n<30>: \n",
        "<189>: 2026 Jan  2 00:00:01.5 CET: %SYS-5-CONFIG_I: d\0\n<7>Jan 32 25:61:61 h\n<8>1 2026-13-01T00:00:00Z a b c d [x] e\n",
    ];
    let all = streams.iter().enumerate();
    all.flat_map(|(n, stream)| {
        (0..3u8).map(move |framing| [&[framing + 3 * (n as u8 % 3), 7], stream.as_bytes()].concat())
    })
    .collect()
}
