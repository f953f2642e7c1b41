//! HTML: escaping of values by the place that they stand in, as Go's `html/template` does.
//!
//! In: the literal text of a template, then values. Out: escaped values, or why none may stand there. Touches nothing.

/// Escapes a text for content and for attributes in quotes.
pub(crate) fn escape(text: &str) -> String {
    escape_plain(text).replace('+', "&#43;")
}

/// The same as Go's function `html` does: `+` stays.
pub(crate) fn escape_plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Where the next character of a document stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Place {
    state: State,
    tag: String,
    attribute: String,
    /// Literal text since the last change of state, to find ends of comments and elements.
    tail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum State {
    #[default]
    Content,
    /// Behind `<` or `</`.
    TagName,
    InTag,
    AttributeName,
    /// Behind `=`.
    BeforeValue,
    /// In a value; none: without quotes.
    Value {
        quote: Option<char>,
        part: Part,
    },
    Comment,
    /// Inside `script`, `style`.
    Code,
    /// Inside `title`, `textarea`.
    Plain,
}

/// How far a value has come; counts in URLs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Start,
    Path,
    Query,
}

/// What vouches for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    None,
    Html,
    Url,
}

impl Place {
    /// Goes over literal text of the template; gives it as it may be written: a `<` that opens no tag is escaped.
    pub fn literal(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let opens = chars.peek().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
            if c == '<' && self.state == State::Content && !opens {
                out.push_str("&lt;");
                continue;
            }
            self.step(c);
            out.push(c);
        }
        out
    }

    fn step(&mut self, c: char) {
        match self.state {
            State::Content => {
                if c == '<' {
                    self.state = State::TagName;
                    self.tag.clear();
                }
            }
            State::TagName => match c {
                '>' => self.end_tag(),
                c if c.is_ascii_whitespace() => {
                    self.state = if self.tag.is_empty() { State::Content } else { State::InTag }
                }
                '/' if !self.tag.is_empty() => self.state = State::InTag,
                c => {
                    if self.tag.len() < 32 {
                        self.tag.push(c.to_ascii_lowercase());
                    }
                    if self.tag == "!--" {
                        self.state = State::Comment;
                        self.tail.clear();
                    }
                }
            },
            State::InTag | State::AttributeName | State::BeforeValue => self.in_tag(c),
            State::Value { quote, part } => match quote {
                Some(quote) if c == quote => self.state = State::InTag,
                None if c == '>' => self.end_tag(),
                None if c.is_ascii_whitespace() => self.state = State::InTag,
                _ => {
                    let part = if matches!(c, '?' | '#') || part == Part::Query { Part::Query } else { Part::Path };
                    self.state = State::Value { quote, part };
                }
            },
            State::Comment => {
                self.keep(c);
                if self.tail.ends_with("-->") {
                    self.state = State::Content;
                }
            }
            State::Code | State::Plain => {
                self.keep(c);
                let end = format!("</{}", self.tag);
                if self.tail.to_ascii_lowercase().ends_with(&end) {
                    self.tag.insert(0, '/');
                    self.state = State::InTag;
                }
            }
        }
    }

    fn keep(&mut self, c: char) {
        self.tail.push(c);
        if self.tail.len() > 64 {
            self.tail = self.tail.chars().rev().take(24).collect::<Vec<_>>().into_iter().rev().collect();
        }
    }

    fn in_tag(&mut self, c: char) {
        match (self.state, c) {
            (State::BeforeValue, '"' | '\'') => self.state = State::Value { quote: Some(c), part: Part::Start },
            (_, '>') => self.end_tag(),
            (State::AttributeName, '=') => self.state = State::BeforeValue,
            (State::BeforeValue, c) if !c.is_ascii_whitespace() => {
                self.state = State::Value { quote: None, part: Part::Path };
            }
            (State::BeforeValue, _) => {}
            (_, '=') => self.state = State::BeforeValue,
            (State::AttributeName, c) if c.is_ascii_whitespace() || c == '/' => self.state = State::InTag,
            (State::InTag, c) if c.is_ascii_whitespace() || c == '/' => {}
            (state, c) => {
                if state != State::AttributeName {
                    self.attribute.clear();
                    self.state = State::AttributeName;
                }
                if self.attribute.len() < 32 {
                    self.attribute.push(c.to_ascii_lowercase());
                }
            }
        }
    }

    fn end_tag(&mut self) {
        self.tail.clear();
        self.state = match self.tag.as_str() {
            "script" | "style" => State::Code,
            "title" | "textarea" => State::Plain,
            _ => State::Content,
        };
    }

    fn is_url(&self) -> bool {
        matches!(
            self.attribute.as_str(),
            "href"
                | "src"
                | "action"
                | "formaction"
                | "cite"
                | "background"
                | "poster"
                | "data"
                | "longdesc"
                | "usemap"
                | "manifest"
                | "profile"
                | "icon"
        )
    }

    /// A value as it may stand here. On failure: where it must not.
    pub fn value(&mut self, text: &str, trust: Trust) -> Result<String, String> {
        let made = match self.state {
            State::Content if trust == Trust::Html => text.to_owned(),
            State::Content => escape(text),
            State::Plain if trust == Trust::Html => escape(&stripped(text)),
            State::Plain => escape(text),
            // As Go does.
            State::Comment => String::new(),
            State::Value { quote, part } => {
                let made = self.in_value(text, trust, part)?;
                self.state = State::Value { quote, part: if part == Part::Start { Part::Path } else { part } };
                if quote.is_none() { unquoted(&made) } else { made }
            }
            State::BeforeValue => {
                let made = unquoted(&self.in_value(text, trust, Part::Start)?);
                self.state = State::Value { quote: None, part: Part::Path };
                made
            }
            State::Code => return Err("a value can't stand in `script` or `style`".to_owned()),
            State::TagName | State::InTag | State::AttributeName => {
                return Err("a value can't stand in a tag outside of an attribute's value".to_owned());
            }
        };
        Ok(made)
    }

    fn in_value(&self, text: &str, trust: Trust, part: Part) -> Result<String, String> {
        if self.attribute.starts_with("on") {
            return Err(format!("a value can't stand in the attribute `{}`", self.attribute));
        }
        if self.attribute == "style" {
            let good = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '#' | '.' | ' ' | '-' | '%'));
            return Ok(if good { text.to_owned() } else { "ZgotmplZ".to_owned() });
        }
        if !self.is_url() {
            return Ok(if trust == Trust::Html { escape(&stripped(text)).replace("&amp;", "&") } else { escape(text) });
        }
        let url = match (part, trust) {
            (_, Trust::Url) => normal(text),
            (Part::Query, _) => percent(text, ""),
            (Part::Start, _) if !is_safe_url(text) => "#ZgotmplZ".to_owned(),
            _ => normal(text),
        };
        Ok(escape(&url))
    }
}

/// Whether a URL has no scheme, or one that runs nothing.
fn is_safe_url(url: &str) -> bool {
    match url.split_once(':') {
        Some((scheme, _)) if !scheme.contains('/') => {
            ["http", "https", "mailto"].iter().any(|good| scheme.eq_ignore_ascii_case(good))
        }
        _ => true,
    }
}

/// A URL whose unsafe characters are escaped, and whose escapes stay.
fn normal(url: &str) -> String {
    percent(url, "!#$&*+,/:;=?@[]%")
}

fn percent(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let c = char::from(*byte);
        let hex = |n: usize| bytes.get(at + n).is_some_and(u8::is_ascii_hexdigit);
        let stays = match c {
            '%' => kept.contains('%') && hex(1) && hex(2),
            c => c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') || kept.contains(c),
        };
        if stays {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// Without tags.
fn stripped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// For values without quotes: no blank ends them.
fn unquoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '`' | '=' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}
