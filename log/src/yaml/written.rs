//! From a character of a YAML value to its place in the file: value and source are walked side by side.
//!
//! In: the source of a scalar and an offset in its value. Out: a byte of the file, a line and a column. Touches nothing.

use std::ops::Range;
use std::sync::Arc;

use granit_parser::ScalarStyle;

/// How a scalar stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The whole file.
    source: Arc<str>,
    /// The scalar's bytes in it.
    range: Range<usize>,
    style: ScalarStyle,
}

impl Written {
    /// A scalar's bytes in its file.
    pub fn new(source: Arc<str>, range: Range<usize>, style: ScalarStyle) -> Self {
        let start = match style {
            ScalarStyle::Literal | ScalarStyle::Folded => block_start(&source, range.start),
            _ => range.start,
        };
        Self { range: start..range.end.max(start), source, style }
    }

    /// Whether lines of the value are lines of the file, so that places hold even after a change within other lines.
    pub fn keeps_lines(&self) -> bool {
        self.style == ScalarStyle::Literal
    }

    /// Line and column, from 1, of a byte of the value.
    pub fn place_of(&self, value: &str, offset: usize) -> Option<(usize, usize)> {
        let own = self.source.get(self.range.clone())?;
        Some(line_and_column(&self.source, self.range.start + align(own, self.style, value, offset)))
    }

    /// Line and column of a line and column of the value, from 1.
    pub fn place_inside(&self, value: &str, line: usize, column: usize) -> Option<(usize, usize)> {
        if !self.keeps_lines() {
            let start: usize = value.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
            let rest = value.get(start..).unwrap_or_default();
            let skipped: usize = rest.chars().take(column.checked_sub(1)?).map(char::len_utf8).sum();
            return self.place_of(value, start + skipped);
        }
        let own = self.source.get(self.range.clone())?;
        let start = content(own);
        let indent = indentation(own.get(start..).unwrap_or_default());
        let (first, _) = line_and_column(&self.source, self.range.start + start);
        Some((first + line - 1, indent + column))
    }
}

/// The span of a block may begin behind the blanks of its first line, which tell the indentation, and behind empty lines
/// that belong to it: goes back to the line behind the header.
fn block_start(source: &str, start: usize) -> usize {
    let mut start = source.get(..start).unwrap_or_default().trim_end_matches(' ').len();
    while let Some(above) = source.get(..start).and_then(|before| before.strip_suffix('\n')) {
        let line = above.rfind('\n').map_or(0, |at| at + 1);
        if !above.get(line..).unwrap_or_default().trim().is_empty() {
            break;
        }
        start = line;
    }
    start
}

/// Line and column, from 1, of a byte.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.bytes().filter(|b| *b == b'\n').count() + 1, column)
}

/// Where a block's content begins: its header (`|`, `>-`, a comment) is none; the span may begin before or behind it.
fn content(source: &str) -> usize {
    if source.trim_start().starts_with(['|', '>']) { source.find('\n').map_or(source.len(), |n| n + 1) } else { 0 }
}

/// Blanks before the least indented line of a block.
fn indentation(block: &str) -> usize {
    block.lines().filter(|line| !line.trim().is_empty()).map(leading_blanks).min().unwrap_or(0)
}

/// Byte in a scalar's source that made the byte `offset` of its value.
fn align(source: &str, style: ScalarStyle, value: &str, offset: usize) -> usize {
    let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let mut at = 0;
    let mut indent = 0;
    if block {
        at = content(source);
        indent = indentation(source.get(at..).unwrap_or_default());
        at += leading_blanks(source.get(at..).unwrap_or_default()).min(indent);
    } else if quoted && source.starts_with(['"', '\'']) {
        at = 1;
    }
    for (done, wanted) in value.char_indices() {
        let rest = source.get(at..).unwrap_or_default();
        let Some(found) = rest.chars().next() else { break };
        if done >= offset {
            break;
        }
        if style == ScalarStyle::DoubleQuoted && found == '\\' {
            at += escape_length(rest);
        } else if style == ScalarStyle::SingleQuoted && rest.starts_with("''") {
            at += 2;
        } else if wanted == '\n' && found != '\n' && found != '\r' && style != ScalarStyle::Literal {
            // Blank lines were skipped together with the first of them.
        } else if found == '\n' || (wanted == '\n' && found == '\r') || (wanted == ' ' && folded_ahead(rest)) {
            // A line end (kept or folded): skip to the content of the next line.
            let blank = if block {
                let mut lines = rest.find('\n').map_or(rest.len(), |n| n + 1);
                while style == ScalarStyle::Folded
                    && let Some((line, _)) = rest.get(lines..).and_then(|r| r.split_once('\n'))
                    && line.trim().is_empty()
                {
                    lines += line.len() + 1;
                }
                lines + leading_blanks(rest.get(lines..).unwrap_or_default()).min(indent)
            } else {
                rest.len() - rest.trim_start().len()
            };
            at += blank;
        } else {
            at += found.len_utf8();
        }
    }
    at.min(source.len())
}

fn folded_ahead(rest: &str) -> bool {
    rest.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
}

fn leading_blanks(line: &str) -> usize {
    line.bytes().take_while(|b| *b == b' ').count()
}

fn escape_length(rest: &str) -> usize {
    match rest.as_bytes().get(1) {
        Some(b'x') => 4,
        Some(b'u') => 6,
        Some(b'U') => 10,
        Some(b'\n') => 2 + rest.get(2..).map_or(0, |r| r.len() - r.trim_start().len()),
        _ => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
    }
}
