//! Control characters in what is shown: written out, so that a log line, a label or a file name can't move a terminal's
//! cursor, change its title, answer for its user or forge lines.
//!
//! In: text or bytes of others. Out: the same with control characters as `\u{1b}`, `\r`, `\x9b`. [`LogWriter`] does it for the
//! process log. Touches what it is given to write to. What goes to a file or a pipe is left to the commands: they write it
//! as it is.

use std::borrow::Cow;
use std::io::{self, Write};

/// Whether a character is written out: control characters, and those that change the direction of text.
fn is_escaped(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn put(out: &mut String, c: char) {
    out.extend(c.escape_default());
}

/// Text of several lines, with tabs.
pub fn text(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| matches!(c, '\n' | '\t') || !is_escaped(c);
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| if is_kept(c) { out.push(c) } else { put(&mut out, c) });
    Cow::Owned(out)
}

/// Text of one line, with tabs.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| if c == '\t' || !is_escaped(c) { out.push(c) } else { put(&mut out, c) });
    out
}

/// Bytes as [`text`] shows them; what is no UTF-8 as `\xNN`: a terminal may read single bytes as control characters.
pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(text(chunk.valid()).as_bytes());
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    out
}

/// Where the process log goes: each write is one event, of which control characters are written out and line breaks too
/// but the last. Colours of the formatter pass: it writes out escape characters within values itself.
#[derive(Debug)]
pub struct LogWriter<W>(pub W);

impl<W: Write> Write for LogWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let shown = String::from_utf8_lossy(event);
        let (body, end) = shown.strip_suffix('\n').map_or((&*shown, ""), |body| (body, "\n"));
        let mut out = String::with_capacity(event.len());
        let mut rest = body;
        while let Some(at) = rest.find('\u{1b}') {
            let (before, after) = rest.split_at(at);
            out.push_str(&line(before));
            let colour = colour(after);
            out.push_str(after.get(..colour).unwrap_or_default());
            if colour == 0 {
                put(&mut out, '\u{1b}');
            }
            rest = after.get(colour.max(1)..).unwrap_or_default();
        }
        out.push_str(&line(rest));
        out.push_str(end);
        self.0.write_all(out.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Bytes of the colour sequence (`ESC [ numbers m`) that the text starts with.
fn colour(text: &str) -> usize {
    let Some(numbers) = text.strip_prefix("\u{1b}[") else { return 0 };
    match numbers.find(|c: char| !c.is_ascii_digit() && c != ';') {
        Some(end) if numbers.get(end..).is_some_and(|rest| rest.starts_with('m')) => 2 + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        for (given, want) in [
            ("plain\tlines\nä", "plain\tlines\nä"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("a\rb\x08\x7f\0", "a\\rb\\u{8}\\u{7f}\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("user\u{202e}gpj.exe", "user\\u{202e}gpj.exe"),
        ] {
            assert_eq!(text(given), want);
            assert_eq!(bytes(given.as_bytes()), want.as_bytes());
            assert_eq!(line(given), want.replace('\n', "\\n"));
        }
        assert_eq!(bytes(b"a\xff\x9b[31m\xc3\xa4"), "a\\xff\\x9b[31mä".as_bytes());
        assert!(matches!(text("as it is"), Cow::Borrowed(_)));
    }

    #[test]
    fn an_event_of_the_log_is_one_line_with_its_colours() {
        for (given, want) in [
            ("\x1b[2mnow\x1b[0m \x1b[1;32mINFO\x1b[0m read\n", "\x1b[2mnow\x1b[0m \x1b[1;32mINFO\x1b[0m read\n"),
            ("path=a\n2026 ERROR forged\n", "path=a\\n2026 ERROR forged\n"),
            ("a\rb\0\x1b]0;t\x07\n", "a\\rb\\u{0}\\u{1b}]0;t\\u{7}\n"),
            ("\x1b[2J\x1b[3", "\\u{1b}[2J\\u{1b}[3"),
        ] {
            let mut writer = LogWriter(Vec::new());
            writer.write_all(given.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(writer.0).unwrap(), want);
        }
    }
}
