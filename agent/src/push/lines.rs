//! Lines, or events of several lines, out of a stream of bytes that is read once.
//!
//! In: bytes in pieces of any size. Out: texts without their line ends. Touches nothing. Holds one line and one event, each
//! up to the limit; what is beyond is counted. The rules are those of files (`split.rs`), but for positions.

use memchr::memchr;

use crate::multiline::{Join, Stage};

/// An event that may go on.
#[derive(Debug)]
struct OpenEvent {
    text: Vec<u8>,
    /// Where its last line begins.
    last: usize,
    stage: Stage,
    lines: u32,
}

/// Cuts bytes into events.
#[derive(Debug)]
pub(super) struct Lines {
    max_line: usize,
    join: Option<Join>,
    /// The line that has no end yet: one byte more than the limit at most, so that it is seen to be too long.
    line: Vec<u8>,
    /// Bytes of it beyond.
    beyond: u64,
    event: Option<OpenEvent>,
    lost: u64,
}

impl Lines {
    pub fn new(max_line: usize, join: Option<Join>) -> Self {
        Self { max_line, join, line: Vec::new(), beyond: 0, event: None, lost: 0 }
    }

    /// Takes a piece; `each` gets the events that are whole.
    pub fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() && line.len() <= self.max_line {
                self.whole(line.strip_suffix(b"\r").unwrap_or(line), false, each);
            } else {
                self.keep(line);
                self.end(each);
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = (self.max_line + 1).saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.beyond += (bytes.len() - room) as u64;
    }

    /// The kept line has its end.
    fn end(&mut self, each: &mut impl FnMut(&[u8])) {
        let mut line = std::mem::take(&mut self.line);
        let beyond = std::mem::take(&mut self.beyond);
        self.lost += beyond;
        if beyond == 0 && line.last() == Some(&b'\r') {
            line.pop();
        }
        self.whole(&line, line.len() > self.max_line, each);
        // One huge line must not hold its memory for ever.
        line.clear();
        line.shrink_to(64 << 10);
        self.line = line;
    }

    fn whole(&mut self, line: &[u8], is_cut: bool, each: &mut impl FnMut(&[u8])) {
        let Some(join) = &self.join else { return each(line) };
        if let Some(open) = &mut self.event {
            let fits = open.text.len() + 1 + line.len() <= self.max_line && open.lines < join.max_lines;
            let last = open.text.get(open.last..).unwrap_or_default();
            if fits
                && !is_cut
                && let Some(stage) = join.next(open.stage, last, line)
            {
                open.text.push(b'\n');
                (open.last, open.stage, open.lines) = (open.text.len(), stage, open.lines + 1);
                open.text.extend_from_slice(line);
                return;
            }
            each(&open.text);
            self.event = None;
        }
        if is_cut {
            each(line);
        } else {
            self.event = Some(OpenEvent { text: line.to_vec(), last: 0, stage: join.begin(line), lines: 1 });
        }
    }

    /// Whether an event waits for lines that may belong to it.
    pub fn is_waiting(&self) -> bool {
        self.event.is_some()
    }

    /// Nothing came for a while: the event that waits is whole.
    pub fn flush(&mut self, each: &mut impl FnMut(&[u8])) {
        if let Some(open) = self.event.take() {
            each(&open.text);
        }
    }

    /// Nothing more comes: a line without its end is one.
    pub fn finish(&mut self, each: &mut impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.end(each);
        }
        self.flush(each);
    }

    /// Bytes of lines beyond the limit since the last call, but for the first of each, which goes with its line.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::multiline::MultilineConfig;

    fn traces() -> Option<Join> {
        let config = MultilineConfig { r#continue: Some(r"^\s".into()), max_lines: 3, ..MultilineConfig::default() };
        Some(Join::new(&config).unwrap())
    }

    fn run(join: Option<Join>, max: usize, text: &[u8], size: usize) -> (Vec<String>, u64) {
        let mut lines = Lines::new(max, join);
        let mut found = Vec::new();
        let mut each = |text: &[u8]| found.push(String::from_utf8_lossy(text).into_owned());
        for piece in text.chunks(size) {
            lines.feed(piece, &mut each);
        }
        lines.finish(&mut each);
        (found, lines.take_lost())
    }

    #[test]
    fn lines_come_out_as_the_table_says() {
        for (text, want, lost) in [
            ("a\nb\r\n\nc", &["a", "b", "", "c"][..], 0),
            ("", &[], 0),
            ("\n", &[""], 0),
            ("12345678\r\n12345678\n", &["12345678", "12345678"], 0),
            ("123456789\n1234567890ab\nx\n", &["123456789", "123456789", "x"], 3),
            ("12345678\rxyz\n\r\n", &["12345678\r", ""], 3),
            ("end\r", &["end"], 0),
        ] {
            for size in [1, 2, 5, 100] {
                let (found, beyond) = run(None, 8, text.as_bytes(), size);
                assert_eq!(
                    (found.as_slice(), beyond),
                    (&want.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..], lost),
                    "{text:?} {size}"
                );
            }
        }
    }

    #[test]
    fn lines_that_belong_together_are_one_event() {
        for (text, want) in [
            ("a\n 1\n 2\nb\n", &["a\n 1\n 2", "b"][..]),
            ("a\n 1\n 2\n 3\nb", &["a\n 1\n 2", " 3", "b"]),
            ("a\n 0123456789abcdefgh\n", &["a", " 0123456789abcdefgh"]),
            ("a\n 0123456789abcdefghijklmnop\n 1\n", &["a", " 0123456789abcdefghij", " 1"]),
        ] {
            for size in [1, 3, 100] {
                assert_eq!(run(traces(), 20, text.as_bytes(), size).0, want, "{text:?} {size}");
            }
        }
        let (mut lines, mut found) = (Lines::new(20, traces()), Vec::new());
        lines.feed(b"a\n b\n", &mut |text: &[u8]| found.push(text.to_vec()));
        assert!(lines.is_waiting());
        lines.flush(&mut |text: &[u8]| found.push(text.to_vec()));
        assert!(!lines.is_waiting() && found == [b"a\n b"]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_nothing_is_forgotten(text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300), size in 1usize..40) {
            let whole = run(None, 10, &text, text.len().max(1));
            prop_assert_eq!(run(None, 10, &text, size), whole.clone());
            let lines = text.iter().filter(|b| **b == b'\n').count() + usize::from(text.last().is_some_and(|b| *b != b'\n'));
            prop_assert_eq!(whole.0.len(), lines);
        }
    }
}
