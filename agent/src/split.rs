//! Cuts a window of a file's bytes into events.
//!
//! In: bytes from a [`Mark`] on. Out: [`Piece`]s (where each event's line stands in the window, how much of the file
//! it takes) and the mark of the first byte that is not yet an event. Touches nothing and keeps nothing: the same
//! bytes from the same mark give the same pieces, so that a line read again after a crash has the same position.
//!
//! | what stands in the file | what becomes of it |
//! |---|---|
//! | a line | an event without its line end (`\n` or `\r\n`) |
//! | a line over the limit | its first `max_line` bytes, marked as cut; the rest is skipped and counted |
//! | a line without an end when the window is flushed | an event; the mark remembers that its line end may still come |
//! | lines that belong together | one event with the line ends between them, at the position of the first |

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::ledger::Count;
use crate::multiline::{Join, Stage};

/// What stands at a position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The start of a line.
    #[default]
    Start,
    /// The rest of a line whose first part was sent when its writer paused; often only its line end.
    Rest,
    /// The inside of a line that was cut: everything up to its line end is skipped.
    Skip,
}

/// A place in a file from which reading goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Byte offset.
    pub offset: u64,
    /// What stands there.
    pub mode: Mode,
}

/// One event in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts, from the window's start.
    pub start: u32,
    /// Length of its line (or lines), without the last line end.
    pub len: u32,
    /// Bytes of the file that it takes: with line ends, without skipped bytes.
    pub span: u32,
    /// Lines that it joins.
    pub lines: u32,
    /// Cut at the limit.
    pub cut: bool,
}

impl Piece {
    /// What it counts for in the ledger.
    pub(crate) fn count(&self) -> Count {
        Count { lines: u64::from(self.lines), bytes: u64::from(self.span), records: 1 }
    }
}

/// What a window gave besides pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Where to go on.
    pub mark: Mark,
    /// Bytes of over-long lines beyond the limit.
    pub skipped: u64,
    /// Bytes of line ends whose line was sent before.
    pub ends: u64,
}

/// How to cut.
#[derive(Debug, Clone)]
pub struct Splitter {
    /// Longest line (or joined lines).
    pub max_line: usize,
    /// Joined lines, if any.
    pub join: Option<Join>,
}

/// An event that may go on.
struct OpenEvent {
    event: Piece,
    last: Piece,
    stage: Stage,
}

struct Cursor<'a> {
    window: &'a [u8],
    at: usize,
    mode: Mode,
    outcome: Outcome,
    pieces: &'a mut Vec<Piece>,
}

/// Windows are bounded by the configuration, far below 4 GiB.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Splitter {
    /// How many bytes a window must have so that one event always fits, with what follows it.
    pub fn min_window(&self) -> usize {
        let events = if self.join.is_some() { 2 } else { 1 };
        events * self.max_line + 4096
    }

    /// Cuts `window`, which stands at `mark`. With `flush` nothing is left over for later.
    pub fn split(&self, window: &[u8], mark: Mark, flush: bool, pieces: &mut Vec<Piece>) -> Outcome {
        let mut cursor = Cursor { window, at: 0, mode: mark.mode, outcome: Outcome::default(), pieces };
        match &self.join {
            None => while self.line(&mut cursor, flush).is_some() {},
            Some(join) => self.joined(join, &mut cursor, flush),
        }
        let offset = mark.offset + cursor.at as u64;
        Outcome { mark: Mark { offset, mode: cursor.mode }, ..cursor.outcome }
    }

    /// The next event of one line; `None` when the window holds no more.
    fn line(&self, c: &mut Cursor<'_>, flush: bool) -> Option<()> {
        let piece = self.next(c, flush)?;
        c.pieces.push(piece);
        Some(())
    }

    /// Takes the next line off the window.
    fn next(&self, c: &mut Cursor<'_>, flush: bool) -> Option<Piece> {
        loop {
            let rest = c.window.get(c.at..)?;
            if rest.is_empty() {
                return None;
            }
            let end = memchr(b'\n', rest);
            if c.mode == Mode::Skip {
                let skip = end.map_or(rest.len(), |end| end + 1);
                c.outcome.skipped += skip as u64;
                c.at += skip;
                end?;
                c.mode = Mode::Start;
                continue;
            }
            // With no line end yet, a last `\r` may belong to it: only from max_line + 2 on the line is surely too long.
            let (content, whole) = match end {
                Some(end) => (without_cr(&rest[..end]), end + 1),
                None if rest.len() > self.max_line + 1 || flush => (without_cr(rest), rest.len()),
                None => return None,
            };
            let start = c.at;
            if content.is_empty() && (c.mode == Mode::Rest || end.is_none()) {
                c.outcome.ends += whole as u64;
                c.at += whole;
                c.mode = if end.is_some() { Mode::Start } else { Mode::Rest };
                continue;
            }
            if content.len() > self.max_line {
                c.mode = Mode::Skip;
                c.at += self.max_line;
                let len = small(self.max_line);
                return Some(Piece { start: small(start), len, span: len, lines: 1, cut: true });
            }
            c.mode = if end.is_some() { Mode::Start } else { Mode::Rest };
            c.at += whole;
            let (len, span) = (small(content.len()), small(whole));
            return Some(Piece { start: small(start), len, span, lines: 1, cut: false });
        }
    }

    fn joined(&self, join: &Join, c: &mut Cursor<'_>, flush: bool) {
        let mut open: Option<OpenEvent> = None;
        loop {
            // Where the window goes on if the open event must wait for more.
            let back = (c.at, c.mode, c.outcome);
            let was_rest = c.mode == Mode::Rest;
            let Some(line) = self.next(c, flush) else {
                match open {
                    Some(OpenEvent { event, .. }) if flush => c.pieces.push(event),
                    Some(OpenEvent { event, .. }) => {
                        (c.at, c.mode, c.outcome) = (event.start as usize, Mode::Start, back.2);
                    }
                    None => {}
                }
                return;
            };
            let text = |piece: &Piece| &c.window[piece.start as usize..(piece.start + piece.len) as usize];
            if let Some(OpenEvent { event, last, stage }) = &mut open {
                let end = line.start + line.len;
                let fits = (end - event.start) as usize <= self.max_line && event.lines < join.max_lines;
                if fits
                    && !line.cut
                    && !was_rest
                    && let Some(next) = join.next(*stage, text(last), text(&line))
                {
                    event.len = end - event.start;
                    event.span += line.span;
                    event.lines += 1;
                    (*last, *stage) = (line, next);
                    continue;
                }
                let whole = *event;
                c.pieces.push(whole);
            }
            // A cut line and the rest of a line stand alone: what follows them can't be told from here after a restart.
            if line.cut || was_rest {
                c.pieces.push(line);
                open = None;
            } else {
                let stage = join.begin(&c.window[line.start as usize..(line.start + line.len) as usize]);
                open = Some(OpenEvent { event: line, last: line, stage });
            }
        }
    }
}

/// Whether a line is not UTF-8; a character that was cut at the limit does not count.
pub(crate) fn is_invalid_utf8(line: &[u8], cut: bool) -> bool {
    std::str::from_utf8(line).is_err_and(|error| !(cut && error.error_len().is_none()))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::multiline::MultilineConfig;

    fn lines(max_line: usize) -> Splitter {
        Splitter { max_line, join: None }
    }

    fn traces(max_line: usize) -> Splitter {
        let config = MultilineConfig { r#continue: Some(r"^\s".into()), max_lines: 3, ..MultilineConfig::default() };
        let join = Join::new(&config).unwrap();
        Splitter { max_line, join: Some(join) }
    }

    /// Texts of the events (`…` where cut), then where to go on, skipped bytes, bytes of late line ends.
    fn run(splitter: &Splitter, text: &str, mode: Mode, flush: bool) -> (Vec<String>, u64, Mode, u64, u64) {
        let mut pieces = Vec::new();
        let outcome = splitter.split(text.as_bytes(), Mark { offset: 0, mode }, flush, &mut pieces);
        let spans: u64 = pieces.iter().map(|p| u64::from(p.span)).sum();
        assert_eq!(spans + outcome.skipped + outcome.ends, outcome.mark.offset, "every byte is accounted for");
        let texts = pieces
            .iter()
            .map(|p| {
                let line = &text.as_bytes()[p.start as usize..(p.start + p.len) as usize];
                format!("{}{}", String::from_utf8_lossy(line), if p.cut { "…" } else { "" })
            })
            .collect();
        (texts, outcome.mark.offset, outcome.mark.mode, outcome.skipped, outcome.ends)
    }

    #[test]
    fn lines_end_where_they_should() {
        use Mode::{Rest, Skip, Start};
        type Want = (&'static [&'static str], u64, Mode, u64, u64);
        let table: &[(&str, Mode, bool, Want)] = &[
            ("", Start, false, (&[], 0, Start, 0, 0)),
            ("a\nb\r\n\nc", Start, false, (&["a", "b", ""], 6, Start, 0, 0)),
            ("a\nc", Start, true, (&["a", "c"], 3, Rest, 0, 0)),
            ("\nnext\n", Rest, false, (&["next"], 6, Start, 0, 1)),
            ("\r\nnext\n", Rest, false, (&["next"], 7, Start, 0, 2)),
            ("rest\nnext\n", Rest, false, (&["rest", "next"], 10, Start, 0, 0)),
            ("abc\r", Start, false, (&[], 0, Start, 0, 0)),
            ("abc\r", Start, true, (&["abc"], 4, Rest, 0, 0)),
            ("\r", Rest, true, (&[], 1, Rest, 0, 1)),
            ("12345678\n", Start, false, (&["12345678"], 9, Start, 0, 0)),
            ("12345678\r\n", Start, false, (&["12345678"], 10, Start, 0, 0)),
            ("12345678\r", Start, false, (&[], 0, Start, 0, 0)),
            ("123456789\nb\n", Start, false, (&["12345678…", "b"], 12, Start, 2, 0)),
            ("1234567890", Start, false, (&["12345678…"], 10, Skip, 2, 0)),
            ("more\nb\n", Skip, false, (&["b"], 7, Start, 5, 0)),
            ("more", Skip, true, (&[], 4, Skip, 4, 0)),
        ];
        for (text, mode, flush, want) in table {
            let got = run(&lines(8), text, *mode, *flush);
            let got = (got.0.iter().map(String::as_str).collect::<Vec<_>>(), got.1, got.2, got.3, got.4);
            assert_eq!((got.0.as_slice(), got.1, got.2, got.3, got.4), *want, "{text:?} {mode:?} {flush}");
        }
    }

    #[test]
    fn stack_traces_are_one_event() {
        let table: &[(&str, bool, &[&str], u64)] = &[
            ("boom\n  at x\n  at y\nnext\n", false, &["boom\n  at x\n  at y"], 19),
            ("boom\n  at x\n", false, &[], 0),
            ("boom\n  at x\n", true, &["boom\n  at x"], 12),
            ("boom\n  at", true, &["boom\n  at"], 9),
            ("boom\n 1\n 2\n 3\n 4\nnext\n", false, &["boom\n 1\n 2", " 3\n 4"], 17),
            ("  at first\nnext\n", true, &["  at first", "next"], 16),
            ("boom\n  at a long place of the code\nnext\n", true, &["boom", "  at a long place of…", "next"], 40),
        ];
        for (text, flush, want, offset) in table {
            let got = run(&traces(20), text, Mode::Start, *flush);
            assert_eq!((got.0.as_slice(), got.1), (&want.map_owned()[..], *offset), "{text:?}");
        }
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }
    impl MapOwned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }

    #[test]
    fn start_pattern_joins_everything_else() {
        let config = MultilineConfig { start: Some(r"^\d{4}-".into()), ..MultilineConfig::default() };
        let join = Join::new(&config).unwrap();
        let splitter = Splitter { max_line: 1000, join: Some(join) };
        let got = run(&splitter, "2026-a\nx\n\ny\n2026-b\n", Mode::Start, false);
        assert_eq!((got.0, got.1), (vec!["2026-a\nx\n\ny".to_owned()], 12));
    }

    proptest! {
        /// Reading in windows of any sizes gives what reading at once gives: positions never depend on timing.
        #[test]
        fn windows_do_not_change_events(
            text in "([ a]{0,12}(\r)?\n){0,30}[ab]{0,5}", steps in prop::collection::vec(1usize..40, 1..40), join: bool,
        ) {
            let splitter = if join { traces(9) } else { lines(9) };
            let bytes = text.as_bytes();
            let mut whole = Vec::new();
            let at_once = splitter.split(bytes, Mark::default(), true, &mut whole);
            let want: Vec<_> = whole.iter().map(|p| (u64::from(p.start), p.len, p.cut, p.lines)).collect();

            let (mut mark, mut have, mut got) = (Mark::default(), 0, Vec::new());
            for step in steps.iter().chain([&bytes.len()]) {
                have = (have + step).min(bytes.len());
                let mut pieces = Vec::new();
                let out = splitter.split(&bytes[mark.offset as usize..have], mark, have == bytes.len(), &mut pieces);
                got.extend(pieces.iter().map(|p| (mark.offset + u64::from(p.start), p.len, p.cut, p.lines)));
                mark = out.mark;
            }
            prop_assert_eq!(got, want);
            prop_assert_eq!(mark, at_once.mark);
        }
    }
}
