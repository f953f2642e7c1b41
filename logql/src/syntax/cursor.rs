//! A place in a query's tokens, with notes of what would have been good at the furthest place that was reached.
//!
//! In: tokens. Out: [`Cursor`] for the grammar's parsers, the simplest of them, and [`run`], which turns the notes of
//! a failed parse into an error. Touches nothing.

use std::cell::{Cell, RefCell};

pub(super) use nom::Err as NomErr;
use nom::error::{ErrorKind, ParseError as NomError};
use nom::{IResult, Input, Needed};

use super::error::ParseError;
use super::go_number;
use super::lexer::{Spanned, Token};
use super::tree::{RangeOp, Span, VectorOp};

/// Brackets and aggregations inside one another at most: the tree is walked by recursion.
const MAX_DEPTH: usize = 60;
/// Operators of one query at most, for the same reason.
pub(super) const MAX_OPERATORS: usize = 400;

/// Words that are never names.
const RESERVED: [&str; 26] = [
    "and",
    "bool",
    "by",
    "decolorize",
    "drop",
    "group_left",
    "group_right",
    "ignoring",
    "json",
    "keep",
    "label_format",
    "label_replace",
    "line_format",
    "logfmt",
    "of",
    "offset",
    "on",
    "or",
    "pattern",
    "regexp",
    "unless",
    "unpack",
    "unwrap",
    "variants",
    "without",
    "xml",
];

/// Words that are names unless a bracket follows.
const FUNCTIONS: [&str; 5] = ["vector", "bytes", "duration", "duration_seconds", "ip"];

/// What the grammar notes while it tries: the furthest place and what would have been good there.
pub(super) struct Notes {
    /// Tokens left at the furthest place.
    left: Cell<usize>,
    expected: RefCell<Vec<&'static str>>,
    /// A fault that ends the parse at once.
    fatal: RefCell<Option<(Span, String)>>,
    depth: Cell<usize>,
    operators: Cell<usize>,
}

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [Spanned<'a>],
    pub(super) notes: &'a Notes,
}

/// The notes say what was wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop;

impl<I> NomError<I> for Stop {
    fn from_error_kind(_: I, _: ErrorKind) -> Self {
        Self
    }

    fn append(_: I, _: ErrorKind, other: Self) -> Self {
        other
    }
}

impl<'a> Input for Cursor<'a> {
    type Item = &'a Spanned<'a>;
    type Iter = std::slice::Iter<'a, Spanned<'a>>;
    type IterIndices = std::iter::Enumerate<Self::Iter>;

    fn input_len(&self) -> usize {
        self.rest.len()
    }

    fn take(&self, index: usize) -> Self {
        Self { rest: self.rest.get(..index).unwrap_or(self.rest), ..*self }
    }

    fn take_from(&self, index: usize) -> Self {
        Self { rest: self.rest.get(index..).unwrap_or_default(), ..*self }
    }

    fn take_split(&self, index: usize) -> (Self, Self) {
        (self.take_from(index), self.take(index))
    }

    fn position<P: Fn(Self::Item) -> bool>(&self, predicate: P) -> Option<usize> {
        self.rest.iter().position(predicate)
    }

    fn iter_elements(&self) -> Self::Iter {
        self.rest.iter()
    }

    fn iter_indices(&self) -> Self::IterIndices {
        self.rest.iter().enumerate()
    }

    fn slice_index(&self, count: usize) -> Result<usize, Needed> {
        if self.rest.len() >= count { Ok(count) } else { Err(Needed::Unknown) }
    }
}

pub(super) type Parsed<'a, T> = IResult<Cursor<'a>, T, Stop>;

static END: Spanned<'static> = Spanned { token: Token::End, span: Span { start: 0, end: 0 } };

impl<'a> Cursor<'a> {
    pub(super) fn first(self) -> &'a Spanned<'a> {
        self.rest.first().unwrap_or(&END)
    }

    pub(super) fn token(self) -> &'a Token<'a> {
        &self.first().token
    }

    pub(super) fn span(self) -> Span {
        self.first().span
    }

    pub(super) fn nth(self, n: usize) -> &'a Token<'a> {
        &self.rest.get(n).unwrap_or(&END).token
    }

    pub(super) fn next(self) -> Self {
        Self { rest: self.rest.get(1..).unwrap_or_default(), ..self }
    }

    /// From a start to the token before this place.
    pub(super) fn since(self, start: Self) -> Span {
        let taken = start.rest.len() - self.rest.len();
        let last = start.rest.get(taken.saturating_sub(1)).map_or(start.span(), |t| t.span);
        start.span().to(last)
    }

    pub(super) fn expected(self, what: &'static str) -> NomErr<Stop> {
        let left = self.rest.len();
        let mut expected = self.notes.expected.borrow_mut();
        if left < self.notes.left.get() {
            self.notes.left.set(left);
            expected.clear();
        }
        if left == self.notes.left.get() && !expected.contains(&what) {
            expected.push(what);
        }
        NomErr::Error(Stop)
    }

    pub(super) fn fatal(self, span: Span, message: impl Into<String>) -> NomErr<Stop> {
        self.notes.fatal.borrow_mut().get_or_insert((span, message.into()));
        NomErr::Failure(Stop)
    }

    pub(super) fn is_symbol(self, symbol: &str) -> bool {
        matches!(self.token(), Token::Symbol(found) if *found == symbol)
    }

    /// The word in lower case, if it is one.
    pub(super) fn word(self) -> Option<String> {
        match self.token() {
            Token::Word(word) => Some(word.to_lowercase()),
            _ => None,
        }
    }

    pub(super) fn is_word(self, wanted: &str) -> bool {
        matches!(self.token(), Token::Word(word) if word.eq_ignore_ascii_case(wanted))
    }

    /// Whether a bracket follows this word, or `by (` or `without (`.
    pub(super) fn is_call(self) -> bool {
        match self.nth(1) {
            Token::Symbol("(") => true,
            Token::Word(word) if word.eq_ignore_ascii_case("by") || word.eq_ignore_ascii_case("without") => {
                matches!(self.nth(2), Token::Symbol("("))
            }
            _ => false,
        }
    }
}

pub(super) fn symbol<'a>(wanted: &'static str, name: &'static str) -> impl Fn(Cursor<'a>) -> Parsed<'a, Span> + Copy {
    move |c| if c.is_symbol(wanted) { Ok((c.next(), c.span())) } else { Err(c.expected(name)) }
}

pub(super) fn open(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol("(", "`(`")(c)
}

pub(super) fn close(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol(")", "`)`")(c)
}

pub(super) fn comma(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol(",", "`,`")(c)
}

pub(super) fn text(c: Cursor<'_>) -> Parsed<'_, String> {
    match c.token() {
        Token::Text(text) => Ok((c.next(), text.clone())),
        _ => Err(c.expected("a text in quotes")),
    }
}

fn is_function(word: &str) -> bool {
    FUNCTIONS.contains(&word)
        || RangeOp::ALL.iter().any(|op| op.name() == word)
        || VectorOp::ALL.iter().any(|op| op.name() == word)
}

/// A word that is no keyword.
pub(super) fn name(c: Cursor<'_>) -> Parsed<'_, String> {
    if let Token::Word(word) = c.token() {
        let lower = word.to_lowercase();
        let reserved = RESERVED.contains(&lower.as_str()) || (is_function(&lower) && c.is_call());
        if !reserved {
            return Ok((c.next(), (*word).to_owned()));
        }
    }
    Err(c.expected("a label name"))
}

pub(super) fn range_token(c: Cursor<'_>) -> Parsed<'_, i64> {
    match c.token() {
        Token::Range(ns) => Ok((c.next(), *ns)),
        _ => Err(c.expected("a range like `[5m]`")),
    }
}

pub(super) fn float(c: Cursor<'_>) -> Parsed<'_, f64> {
    match c.token() {
        Token::Number(digits) => match go_number::literal(digits) {
            Some(value) => Ok((c.next(), value)),
            None => Err(c.fatal(c.span(), format!("unable to parse literal as a float: `{digits}`"))),
        },
        _ => Err(c.expected("a number")),
    }
}

/// `5`, `-5`, `+5`
pub(super) fn signed_float(c: Cursor<'_>) -> Parsed<'_, f64> {
    let (negative, behind) = match c.token() {
        Token::Symbol("-") => (true, c.next()),
        Token::Symbol("+") => (false, c.next()),
        _ => (false, c),
    };
    if behind.rest.len() < c.rest.len() && !matches!(behind.token(), Token::Number(_)) {
        return Err(behind.expected("a number"));
    }
    let (c, value) = float(behind)?;
    Ok((c, if negative { -value } else { value }))
}

pub(super) fn enter<'a, T>(c: Cursor<'a>, inner: impl FnOnce(Cursor<'a>) -> Parsed<'a, T>) -> Parsed<'a, T> {
    let depth = c.notes.depth.get() + 1;
    if depth > MAX_DEPTH {
        return Err(c.fatal(c.span(), format!("the query is nested deeper than {MAX_DEPTH} levels")));
    }
    c.notes.depth.set(depth);
    let parsed = inner(c);
    c.notes.depth.set(depth - 1);
    parsed
}

pub(super) fn count_operator(c: Cursor<'_>) -> Result<(), NomErr<Stop>> {
    c.notes.operators.set(c.notes.operators.get() + 1);
    if c.notes.operators.get() > MAX_OPERATORS {
        return Err(c.fatal(c.span(), format!("the query has more than {MAX_OPERATORS} operators")));
    }
    Ok(())
}

fn show(token: &Token<'_>) -> String {
    match token {
        Token::Word(word) => format!("`{word}`"),
        Token::Text(_) => "a text in quotes".to_owned(),
        Token::Number(digits) => format!("number `{digits}`"),
        Token::Duration(_) => "a duration".to_owned(),
        Token::Bytes(_) => "a size".to_owned(),
        Token::Range(_) => "a range".to_owned(),
        Token::Flag(flag) => format!("`{flag}`"),
        Token::Symbol(symbol) => format!("`{symbol}`"),
        Token::End => "end of the query".to_owned(),
    }
}

pub(super) fn run<'a, T>(
    source: &str,
    tokens: &'a [Spanned<'a>],
    notes: &'a Notes,
    parser: impl Fn(Cursor<'a>) -> Parsed<'a, T>,
) -> Result<T, ParseError> {
    let parsed = parser(Cursor { rest: tokens, notes });
    if let Ok((rest, value)) = parsed {
        if *rest.token() == Token::End {
            return Ok(value);
        }
        // What the last place would also have taken is already noted.
        rest.expected("the end of the query");
    }
    if let Some((span, message)) = notes.fatal.borrow_mut().take() {
        return Err(ParseError::at(source, span, message));
    }
    let at = tokens.len().saturating_sub(notes.left.get().min(tokens.len()));
    let found = tokens.get(at).unwrap_or(&END);
    let expected = notes.expected.borrow();
    let list = match expected.as_slice() {
        [] => String::new(),
        [one] => format!(", expected {one}"),
        [most @ .., last] => format!(", expected {} or {last}", most.join(", ")),
    };
    Err(ParseError::at(source, found.span, format!("syntax error: unexpected {}{list}", show(&found.token))))
}

pub(super) fn notes() -> Notes {
    Notes {
        left: Cell::new(usize::MAX),
        expected: RefCell::default(),
        fatal: RefCell::default(),
        depth: Cell::new(0),
        operators: Cell::new(0),
    }
}

/// The list before ended at a comma that nothing follows.
pub(super) fn no_open_comma<'a, T>(
    c: Cursor<'a>,
    item: impl Fn(Cursor<'a>) -> Parsed<'a, T>,
) -> Result<(), NomErr<Stop>> {
    if c.is_symbol(",") {
        item(c.next())?;
    }
    Ok(())
}
