//! `| logfmt`: `key=value` pairs become labels.
//!
//! Lenient unless `--strict`: a pair that can't be read is left out and the next is tried, as in Loki.

use std::borrow::Cow;

use super::fault::StageFault;
use super::labels::Category;
use super::line_state::{LineState, sanitize, with_line};
use super::run::Run;
use crate::syntax::tree::Extraction;

/// Value of `__error__` for a line that is no logfmt (`--strict`).
const LOGFMT_ERROR: &str = "LogfmtParserErr";

/// The compiled parser.
#[derive(Debug)]
pub(super) struct Logfmt {
    strict: bool,
    keep_empty: bool,
    /// (label, key of the line); empty for all keys.
    wanted: Vec<(String, String)>,
}

impl Logfmt {
    /// Compiles it; an extraction names one key.
    pub fn new(strict: bool, keep_empty: bool, extractions: &[Extraction]) -> Result<Self, StageFault> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for e in extractions {
            let path = e.path.trim();
            let is_key = !path.is_empty() && !path.contains(|c: char| c.is_whitespace() || c == '=' || c == '"');
            if !is_key {
                let found = if path.is_empty() { "$end, expecting KEY" } else { "KEY" };
                let message = format!("cannot parse expression [{}]: syntax error: unexpected {found}", e.path);
                return Err(message.into());
            }
            // The last of equal names wins.
            wanted.retain(|(name, _)| *name != e.name);
            wanted.push((e.name.clone(), path.to_owned()));
        }
        Ok(Self { strict, keep_empty, wanted })
    }
}

impl Run for Logfmt {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.is_done() {
            return true;
        }
        for (name, _) in &self.wanted {
            if !state.labels.is_taken(name) {
                state.labels.set(Category::Parsed, Cow::Borrowed(name), Cow::Borrowed(""));
            }
        }
        let mut fault = None;
        with_line!(state, |line, keep| {
            let mut pairs = Pairs { line, at: 0 };
            while let Some(pair) = pairs.next() {
                let (key, value) = match pair {
                    Ok(pair) => pair,
                    Err(error) if self.strict => {
                        fault = Some(error);
                        break;
                    }
                    Err(_) => continue,
                };
                if state.is_over(key.len()) {
                    break;
                }
                let Ok(key) = std::str::from_utf8(key) else { continue };
                let value = match value {
                    Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map_or(Cow::Borrowed(""), Cow::Borrowed),
                    Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).unwrap_or_default()),
                };
                let value = if value.contains('\u{fffd}') { Cow::Borrowed("") } else { value };
                let key = sanitize(key, true);
                if key.is_empty() {
                    continue;
                }
                if self.wanted.is_empty() {
                    if value.is_empty() && !self.keep_empty {
                        continue;
                    }
                    if let Some(name) = state.target(keep(key)) {
                        state.labels.set(Category::Parsed, name, keep(value));
                        if state.all_extracted() {
                            break;
                        }
                    }
                } else if let Some((name, _)) = self.wanted.iter().find(|(_, path)| *path == key) {
                    let name = if state.labels.is_taken(name) {
                        Cow::Owned(format!("{name}_extracted"))
                    } else {
                        Cow::Borrowed(name.as_str())
                    };
                    state.labels.set(Category::Parsed, name, keep(value));
                }
            }
        });
        if let Some((at, message)) = fault {
            state.fail(LOGFMT_ERROR, format!("logfmt syntax error at pos {at} : {message}"));
        }
        true
    }
}

/// Reads pairs one after the other.
struct Pairs<'l> {
    line: &'l [u8],
    at: usize,
}

type Pair<'l> = (&'l [u8], Cow<'l, [u8]>);
type Fault = (usize, String);

impl<'l> Pairs<'l> {
    fn byte(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn slice(&self, from: usize, to: usize) -> &'l [u8] {
        self.line.get(from..to).unwrap_or_default()
    }

    /// Leaves out the rest of a broken pair.
    fn skip(&mut self) {
        while self.byte().is_some_and(|b| b > b' ') {
            self.at += 1;
        }
    }

    fn unexpected(&mut self, byte: u8) -> Fault {
        let fault = (self.at + 1, format!("unexpected {}", quoted(byte)));
        self.skip();
        fault
    }

    fn next(&mut self) -> Option<Result<Pair<'l>, Fault>> {
        while self.byte().is_some_and(|b| b <= b' ') {
            self.at += 1;
        }
        let start = self.at;
        self.byte()?;
        while let Some(b) = self.byte() {
            match b {
                b'=' if self.at > start => return Some(self.value(self.slice(start, self.at))),
                b'=' | b'"' => return Some(Err(self.unexpected(b))),
                b if b <= b' ' => break,
                _ => self.at += 1,
            }
        }
        Some(Ok((self.slice(start, self.at), Cow::Borrowed(&[]))))
    }

    /// Stands on `=`.
    fn value(&mut self, key: &'l [u8]) -> Result<Pair<'l>, Fault> {
        self.at += 1;
        let start = self.at;
        if self.byte() == Some(b'"') {
            return self.quoted_value().map(|value| (key, value));
        }
        while let Some(b) = self.byte() {
            match b {
                b'=' | b'"' => return Err(self.unexpected(b)),
                b if b <= b' ' => break,
                _ => self.at += 1,
            }
        }
        Ok((key, Cow::Borrowed(self.slice(start, self.at))))
    }

    /// Stands on `"`.
    fn quoted_value(&mut self) -> Result<Cow<'l, [u8]>, Fault> {
        let start = self.at + 1;
        let (mut escaped, mut has_escapes) = (false, false);
        self.at = start;
        while let Some(b) = self.byte() {
            self.at += 1;
            match b {
                _ if escaped => escaped = false,
                b'\\' => {
                    escaped = true;
                    has_escapes = true;
                }
                b'"' => {
                    let inside = self.slice(start, self.at - 1);
                    if !has_escapes {
                        return Ok(Cow::Borrowed(inside));
                    }
                    return match super::json::unescape(inside) {
                        Some(text) => Ok(Cow::Owned(text.into_bytes())),
                        None => Err((self.at + 1, "invalid quoted value".to_owned())),
                    };
                }
                _ => {}
            }
        }
        Err((self.at + 1, "unterminated quoted value".to_owned()))
    }
}

/// A byte as Go's `%q` shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        byte => format!("'{}'", char::from(byte)),
    }
}
