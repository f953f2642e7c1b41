//! Where rendering writes to: bounded, and aware of what is literal text and what is a value.
//!
//! In: pieces from handlebars. Out: the text. Touches nothing. Values come between two marks (characters that Unicode keeps for
//! such use), which are taken out of everything else.

use std::io;

use handlebars::Output;

use crate::html::{Place, Trust};

const VALUE: char = '\u{fdd0}';
const HTML: char = '\u{fdd1}';
const URL: char = '\u{fdd2}';
const END: char = '\u{fdd3}';

/// A value between marks.
pub(crate) fn marked(text: &str, trust: Trust) -> String {
    let mark = match trust {
        Trust::None => VALUE,
        Trust::Html => HTML,
        Trust::Url => URL,
    };
    format!("{mark}{}{END}", unmarked(text))
}

/// Text without marks.
pub(crate) fn unmarked(text: &str) -> std::borrow::Cow<'_, str> {
    // All four begin with the same two bytes.
    if text.contains([VALUE, HTML, URL, END]) { text.replace([VALUE, HTML, URL, END], "").into() } else { text.into() }
}

/// A bounded text.
pub(crate) struct Sink {
    pub out: String,
    pub limit: usize,
    /// Escapes values as HTML.
    pub html: Option<Place>,
    /// Why writing failed.
    pub failed: Option<String>,
    /// It failed by its length.
    pub too_long: bool,
}

impl Sink {
    pub fn new(limit: usize, is_html: bool) -> Self {
        Self { out: String::new(), limit, html: is_html.then(Place::default), failed: None, too_long: false }
    }

    fn push(&mut self, text: &str) -> io::Result<()> {
        if self.out.len().saturating_add(text.len()) > self.limit {
            self.too_long = true;
            return Err(io::Error::other("too long"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn literal(&mut self, text: &str) -> io::Result<()> {
        match &mut self.html {
            Some(place) => {
                let text = place.literal(text);
                self.push(&text)
            }
            None => self.push(text),
        }
    }

    fn value(&mut self, text: &str, trust: Trust) -> io::Result<()> {
        let Some(place) = &mut self.html else { return self.push(text) };
        match place.value(text, trust) {
            Ok(escaped) => self.push(&escaped),
            Err(message) => {
                self.failed = Some(message.clone());
                Err(io::Error::other(message))
            }
        }
    }
}

impl Output for Sink {
    fn write(&mut self, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find([VALUE, HTML, URL]) {
            let (literal, marked) = rest.split_at(at);
            self.literal(literal)?;
            let mut chars = marked.chars();
            let trust = match chars.next() {
                Some(HTML) => Trust::Html,
                Some(URL) => Trust::Url,
                _ => Trust::None,
            };
            let (value, behind) = chars.as_str().split_once(END).unwrap_or((chars.as_str(), ""));
            self.value(value, trust)?;
            rest = behind;
        }
        self.literal(rest)
    }
}
