//! What is wrong with a query's text: line, column, a caret under the place, and what was expected.
//!
//! In: text, span, words. Out: [`ParseError`]. Touches nothing.

use super::tree::Span;

/// A text that is no LogQL. Its `Display` shows the line with a caret below the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong, in one line: what was found and what was expected.
    pub message: String,
    /// Line of the text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes of the text that are wrong.
    pub span: Span,
    /// The line of the text that holds the place.
    pub source_line: String,
}

/// Characters of the text shown on either side of the place.
const SHOWN: usize = 80;

impl ParseError {
    /// An error at a place of a text.
    pub fn at(text: &str, span: Span, message: String) -> Self {
        let start = text.floor_char_boundary(span.start as usize);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let head = before.get(line_start..).unwrap_or_default();
        let tail = after.split('\n').next().unwrap_or_default();
        let column = head.chars().count() + 1;
        Self { message, line, column, span, source_line: format!("{head}{}", tail.trim_end_matches('\r')) }
    }

    /// First line of the display: place and message without the picture.
    pub fn headline(&self) -> String {
        format!("parse error at line {}, col {}: {}", self.line, self.column, self.message)
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.headline())?;
        let from = self.column.saturating_sub(1 + SHOWN);
        let shown: String = self.source_line.chars().skip(from).take(2 * SHOWN).collect();
        writeln!(f, "  {}", shown.replace('\t', " "))?;
        write!(f, "  {}^", " ".repeat(self.column - 1 - from))
    }
}

impl std::error::Error for ParseError {}
