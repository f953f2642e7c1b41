//! Tokens of a Go template: text, and what stands between `{{` and `}}`.
//!
//! In: the text. Out: tokens with their places, or the first fault. Touches nothing. Trim marks (`{{- `, ` -}}`) and comments end
//! here.

use crate::fault::Fault;

/// A token and its bytes in the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub at: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text outside of actions; never empty.
    Text,
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// Blanks inside an action: they separate operands.
    Blank,
    /// `.name`
    Field,
    /// `.`
    Dot,
    /// `$name`, `$`
    Variable,
    /// A keyword, function, `true`, `false` or `nil`.
    Word,
    /// A number as written.
    Number,
    /// `"…"`
    Quoted,
    /// `` `…` ``
    Raw,
    /// `'…'`
    Char,
    /// `|`
    Pipe,
    /// `(`
    Left,
    /// `)`
    Right,
    /// `,`
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// The end of the text.
    End,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Token<'a>>,
}

/// Cuts a text into tokens; the last is [`Kind::End`].
pub(crate) fn lex(source: &str) -> Result<Vec<Token<'_>>, Fault> {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new() };
    let mut trims = false;
    loop {
        let rest = lexer.rest();
        let Some(open) = rest.find("{{") else {
            lexer.text(rest.len(), trims, false);
            lexer.push(Kind::End, 0);
            return Ok(lexer.tokens);
        };
        let behind = rest.get(open + 2..).unwrap_or_default();
        let trims_before = behind.strip_prefix('-').is_some_and(|r| r.starts_with(is_blank));
        lexer.text(open, trims, trims_before);
        let start = lexer.at;
        let mark = if trims_before { 3 } else { 2 };
        let inside = rest.get(open + mark..).unwrap_or_default();
        let blanks = if trims_before { inside.len() - inside.trim_start_matches(is_blank).len() } else { 0 };
        if inside.get(blanks..).is_some_and(|r| r.starts_with("/*")) {
            lexer.at += mark + blanks;
            trims = lexer.comment(start)?;
            continue;
        }
        lexer.push(Kind::Open, 2);
        lexer.at = start + mark;
        trims = lexer.action(start)?;
    }
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let text = self.rest().get(..length).unwrap_or_default();
        self.tokens.push(Token { kind, text, at: self.at });
        self.at += length;
    }

    fn fault(&self, at: usize, message: impl Into<String>, hint: &str) -> Fault {
        Fault::at(self.source, at, message, hint)
    }

    /// Text outside of actions, without the blanks that trim marks remove.
    fn text(&mut self, length: usize, trims_start: bool, trims_end: bool) {
        let whole = self.rest().get(..length).unwrap_or_default();
        let end = self.at + length;
        let mut text = whole;
        if trims_start {
            text = text.trim_start_matches(is_blank);
        }
        let at = end - text.len();
        if trims_end {
            text = text.trim_end_matches(is_blank);
        }
        if !text.is_empty() {
            self.tokens.push(Token { kind: Kind::Text, text, at });
        }
        self.at = end;
    }

    /// A comment up to behind its closing; whether it trims the text behind it.
    fn comment(&mut self, start: usize) -> Result<bool, Fault> {
        let Some(end) = self.rest().find("*/") else {
            return Err(self.fault(start, "the comment is never closed", "close it with `*/}}`"));
        };
        self.at += end + 2;
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
        if rest.starts_with("}}") {
            self.at += 2;
            return Ok(false);
        }
        if blanks > 0 && rest.get(blanks..).is_some_and(|r| r.starts_with("-}}")) {
            self.at += blanks + 3;
            return Ok(true);
        }
        Err(self.fault(self.at, "a comment must end its action", "write `*/}}` or `*/ -}}`"))
    }

    /// The inside of an action up to behind its closing; whether it trims the text behind it.
    fn action(&mut self, start: usize) -> Result<bool, Fault> {
        let mut parens: Vec<usize> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return Err(self.fault(start, "`{{` is never closed", "close it with `}}`"));
            };
            let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
            let trims = blanks > 0 && rest.get(blanks..).is_some_and(|r| r.starts_with("-}}"));
            if trims || rest.starts_with("}}") {
                if let Some(paren) = parens.last() {
                    return Err(self.fault(*paren, "`(` is never closed", "close it with `)`"));
                }
                if trims {
                    self.at += blanks + 1;
                }
                self.push(Kind::Close, 2);
                return Ok(trims);
            }
            match c {
                c if is_blank(c) => self.push(Kind::Blank, blanks),
                '(' => {
                    parens.push(self.at);
                    self.push(Kind::Left, 1);
                }
                ')' => {
                    if parens.pop().is_none() {
                        return Err(self.fault(self.at, "`)` without `(`", "remove it, or open it with `(`"));
                    }
                    self.push(Kind::Right, 1);
                }
                '|' => self.push(Kind::Pipe, 1),
                ',' => self.push(Kind::Comma, 1),
                '=' => self.push(Kind::Assign, 1),
                ':' if rest.starts_with(":=") => self.push(Kind::Declare, 2),
                '"' => self.quoted(start)?,
                '`' => {
                    let Some(end) = rest.get(1..).and_then(|r| r.find('`')) else {
                        return Err(self.fault(self.at, "the raw text is never closed", "close it with a backquote"));
                    };
                    self.push(Kind::Raw, end + 2);
                }
                '\'' => self.character()?,
                '$' => {
                    let length = 1 + word_length(rest.get(1..).unwrap_or_default());
                    self.push(Kind::Variable, length);
                    self.terminated(start)?;
                }
                '.' if !rest.get(1..).is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) => {
                    match word_length(rest.get(1..).unwrap_or_default()) {
                        0 => self.push(Kind::Dot, 1),
                        length => self.push(Kind::Field, 1 + length),
                    }
                    self.terminated(start)?;
                }
                c if c.is_ascii_digit() || matches!(c, '.' | '+' | '-') => {
                    self.push(Kind::Number, number_length(rest));
                }
                c if is_word(c) => {
                    self.push(Kind::Word, word_length(rest));
                    self.terminated(start)?;
                }
                c => {
                    let hint = "names have letters, digits and `_`; compare with `eq`, `ne`, `lt`, `gt`, combine with `and`, `or`, `not`";
                    return Err(self.fault(self.at, format!("unexpected `{c}` in an action"), hint));
                }
            }
        }
    }

    /// `"…"`, on one line.
    fn quoted(&mut self, _start: usize) -> Result<(), Fault> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                '\n' => break,
                '"' if !escaped => {
                    self.push(Kind::Quoted, at + 1);
                    return Ok(());
                }
                c => escaped = c == '\\' && !escaped,
            }
        }
        Err(self.fault(self.at, "the quoted text is never closed", "close it with `\"` on the same line"))
    }

    /// `'c'`
    fn character(&mut self) -> Result<(), Fault> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                '\n' => break,
                '\'' if !escaped => {
                    self.push(Kind::Char, at + 1);
                    return Ok(());
                }
                c => escaped = c == '\\' && !escaped,
            }
        }
        Err(self.fault(self.at, "the character is never closed", "texts stand in `\"`, as in `\"text\"`"))
    }

    /// Behind a name nothing may stand that belongs to no operand.
    fn terminated(&mut self, start: usize) -> Result<(), Fault> {
        let rest = self.rest();
        match rest.chars().next() {
            None => Err(self.fault(start, "`{{` is never closed", "close it with `}}`")),
            Some(c)
                if is_blank(c) || matches!(c, '.' | ',' | '|' | ':' | ')' | '(' | '=') || rest.starts_with("}}") =>
            {
                Ok(())
            }
            Some('-') => {
                let hint = "a name with `-` is written with `index`, as in `index .Labels \"a-b\"`";
                Err(self.fault(self.at, "unexpected `-` behind a name", hint))
            }
            Some(c) => {
                Err(self.fault(self.at, format!("unexpected `{c}` behind a name"), "separate operands with blanks"))
            }
        }
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

fn number_length(text: &str) -> usize {
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let signs = matches!(c, '+' | '-') && (at == 0 || matches!(before, 'e' | 'E' | 'p' | 'P'));
        if !(signs || is_word(c) || c == '.') {
            return at.max(1);
        }
        before = c;
    }
    text.len()
}
