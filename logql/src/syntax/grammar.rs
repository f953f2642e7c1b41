//! Tokens to tree: the grammar of LogQL with nom.
//!
//! In: tokens. Out: a tree, or the furthest place that could not be read with all that was expected there.
//! Touches nothing. Leaves what a grammar can't say (regular expressions, which aggregation needs an unwrap) to
//! `check.rs`.
//!
//! Words are keywords as in Loki: everywhere, in any case; names of functions only before `(`, `by (` or
//! `without (`, so that a label may be called `count`.

use std::cell::{Cell, RefCell};

use nom::error::{ErrorKind, ParseError as NomError};
use nom::multi::{many0, separated_list1};
use nom::sequence::{delimited, preceded};
use nom::{Err as NomErr, IResult, Input, Needed, Parser};

use super::error::ParseError;
use super::lexer::{Spanned, Token};
use super::tree::{
    Binary, BinaryOp, Cardinality, CompareOp, Conversion, Expr, Extraction, FormatValue, Grouping, LabelChoice,
    LabelFilter, LabelFormat, LabelReplace, LineFilter, LineMatch, LineOp, LogExpr, LogRange, MatchOp, Matcher,
    Matching, MetricExpr, Quantity, RangeAggregation, RangeOp, Selector, Span, Stage, StageKind, Unwrap, Variants,
    VectorAggregation, VectorOp,
};

/// Brackets and aggregations inside one another at most: the tree is walked by recursion.
const MAX_DEPTH: usize = 60;
/// Operators of one query at most, for the same reason.
const MAX_OPERATORS: usize = 400;

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
struct Notes {
    /// Tokens left at the furthest place.
    left: Cell<usize>,
    expected: RefCell<Vec<&'static str>>,
    /// A fault that ends the parse at once.
    fatal: RefCell<Option<(Span, String)>>,
    depth: Cell<usize>,
    operators: Cell<usize>,
}

#[derive(Clone, Copy)]
struct Cursor<'a> {
    rest: &'a [Spanned<'a>],
    notes: &'a Notes,
}

/// The notes say what was wrong.
#[derive(Debug, Clone, Copy)]
struct Stop;

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

type Parsed<'a, T> = IResult<Cursor<'a>, T, Stop>;

static END: Spanned<'static> = Spanned { token: Token::End, span: Span { start: 0, end: 0 } };

impl<'a> Cursor<'a> {
    fn first(self) -> &'a Spanned<'a> {
        self.rest.first().unwrap_or(&END)
    }

    fn token(self) -> &'a Token<'a> {
        &self.first().token
    }

    fn span(self) -> Span {
        self.first().span
    }

    fn nth(self, n: usize) -> &'a Token<'a> {
        &self.rest.get(n).unwrap_or(&END).token
    }

    fn next(self) -> Self {
        Self { rest: self.rest.get(1..).unwrap_or_default(), ..self }
    }

    /// From a start to the token before this place.
    fn since(self, start: Self) -> Span {
        let taken = start.rest.len() - self.rest.len();
        let last = start.rest.get(taken.saturating_sub(1)).map_or(start.span(), |t| t.span);
        start.span().to(last)
    }

    fn expected(self, what: &'static str) -> NomErr<Stop> {
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

    fn fatal(self, span: Span, message: impl Into<String>) -> NomErr<Stop> {
        self.notes.fatal.borrow_mut().get_or_insert((span, message.into()));
        NomErr::Failure(Stop)
    }

    fn is_symbol(self, symbol: &str) -> bool {
        matches!(self.token(), Token::Symbol(found) if *found == symbol)
    }

    /// The word in lower case, if it is one.
    fn word(self) -> Option<String> {
        match self.token() {
            Token::Word(word) => Some(word.to_lowercase()),
            _ => None,
        }
    }

    fn is_word(self, wanted: &str) -> bool {
        matches!(self.token(), Token::Word(word) if word.eq_ignore_ascii_case(wanted))
    }

    /// Whether a bracket follows this word, or `by (` or `without (`.
    fn is_call(self) -> bool {
        match self.nth(1) {
            Token::Symbol("(") => true,
            Token::Word(word) if word.eq_ignore_ascii_case("by") || word.eq_ignore_ascii_case("without") => {
                matches!(self.nth(2), Token::Symbol("("))
            }
            _ => false,
        }
    }
}

fn symbol<'a>(wanted: &'static str, name: &'static str) -> impl Fn(Cursor<'a>) -> Parsed<'a, Span> + Copy {
    move |c| if c.is_symbol(wanted) { Ok((c.next(), c.span())) } else { Err(c.expected(name)) }
}

fn open(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol("(", "`(`")(c)
}

fn close(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol(")", "`)`")(c)
}

fn comma(c: Cursor<'_>) -> Parsed<'_, Span> {
    symbol(",", "`,`")(c)
}

fn text(c: Cursor<'_>) -> Parsed<'_, String> {
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
fn name(c: Cursor<'_>) -> Parsed<'_, String> {
    if let Token::Word(word) = c.token() {
        let lower = word.to_lowercase();
        let reserved = RESERVED.contains(&lower.as_str()) || (is_function(&lower) && c.is_call());
        if !reserved {
            return Ok((c.next(), (*word).to_owned()));
        }
    }
    Err(c.expected("a label name"))
}

fn range_token(c: Cursor<'_>) -> Parsed<'_, i64> {
    match c.token() {
        Token::Range(ns) => Ok((c.next(), *ns)),
        _ => Err(c.expected("a range like `[5m]`")),
    }
}

fn float(c: Cursor<'_>) -> Parsed<'_, f64> {
    match c.token() {
        Token::Number(digits) => match digits.parse::<f64>() {
            Ok(value) => Ok((c.next(), value)),
            Err(_) => Err(c.fatal(c.span(), format!("unable to parse literal as a float: `{digits}`"))),
        },
        _ => Err(c.expected("a number")),
    }
}

/// `5`, `-5`, `+5`
fn signed_float(c: Cursor<'_>) -> Parsed<'_, f64> {
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

fn enter<'a, T>(c: Cursor<'a>, inner: impl FnOnce(Cursor<'a>) -> Parsed<'a, T>) -> Parsed<'a, T> {
    let depth = c.notes.depth.get() + 1;
    if depth > MAX_DEPTH {
        return Err(c.fatal(c.span(), format!("the query is nested deeper than {MAX_DEPTH} levels")));
    }
    c.notes.depth.set(depth);
    let parsed = inner(c);
    c.notes.depth.set(depth - 1);
    parsed
}

fn count_operator(c: Cursor<'_>) -> Result<(), NomErr<Stop>> {
    c.notes.operators.set(c.notes.operators.get() + 1);
    if c.notes.operators.get() > MAX_OPERATORS {
        return Err(c.fatal(c.span(), format!("the query has more than {MAX_OPERATORS} operators")));
    }
    Ok(())
}

// ---- selectors and pipelines

fn match_op(c: Cursor<'_>) -> Option<MatchOp> {
    match c.token() {
        Token::Symbol("=") => Some(MatchOp::Equal),
        Token::Symbol("!=") => Some(MatchOp::NotEqual),
        Token::Symbol("=~") => Some(MatchOp::Regex),
        Token::Symbol("!~") => Some(MatchOp::NotRegex),
        _ => None,
    }
}

fn matcher(start: Cursor<'_>) -> Parsed<'_, Matcher> {
    let (c, name) = name(start)?;
    let Some(op) = match_op(c) else { return Err(c.expected("`=`, `!=`, `=~` or `!~`")) };
    let (c, value) = text(c.next())?;
    Ok((c, Matcher { name, op, value, span: c.since(start) }))
}

fn selector(start: Cursor<'_>) -> Parsed<'_, Selector> {
    let (c, _) = symbol("{", "a stream selector like `{app=\"api\"}`")(start)?;
    if let Ok((c, _)) = symbol("}", "`}`")(c) {
        return Ok((c, Selector { matchers: Vec::new(), span: c.since(start) }));
    }
    let (c, matchers) = separated_list1(comma, matcher).parse(c)?;
    // A comma that nothing follows is a fault behind the comma, not before it.
    if c.is_symbol(",") {
        matcher(c.next())?;
    }
    let (c, _) = symbol("}", "`}`")(c)?;
    Ok((c, Selector { matchers, span: c.since(start) }))
}

fn line_op(c: Cursor<'_>) -> Option<LineOp> {
    match c.token() {
        Token::Symbol("|=") => Some(LineOp::Contains),
        Token::Symbol("!=") => Some(LineOp::NotContains),
        Token::Symbol("|~") => Some(LineOp::Regex),
        Token::Symbol("!~") => Some(LineOp::NotRegex),
        Token::Symbol("|>") => Some(LineOp::Pattern),
        Token::Symbol("!>") => Some(LineOp::NotPattern),
        _ => None,
    }
}

fn line_match(start: Cursor<'_>) -> Parsed<'_, LineMatch> {
    if start.is_word("ip") {
        let (c, value) = delimited(open, text, close).parse(start.next())?;
        return Ok((c, LineMatch { value, ip: true, span: c.since(start) }));
    }
    match text(start) {
        Ok((c, value)) => Ok((c, LineMatch { value, ip: false, span: c.since(start) })),
        Err(_) => Err(start.expected("`ip(\"…\")`")),
    }
}

/// One filter; a negative one with `or` excludes each: several stages.
fn line_filters(start: Cursor<'_>) -> Parsed<'_, Vec<Stage>> {
    let Some(op) = line_op(start) else { return Err(start.expected("a line filter")) };
    let (mut c, first) = line_match(start.next())?;
    let mut needles = vec![first];
    while c.is_word("or") {
        let (behind, needle) = line_match(c.next())?;
        needles.push(needle);
        c = behind;
    }
    c.expected("`or`");
    let span = c.since(start);
    let negative = matches!(op, LineOp::NotContains | LineOp::NotRegex | LineOp::NotPattern);
    let filters: Vec<LineFilter> = if negative {
        needles.into_iter().map(|needle| LineFilter { op, needles: vec![needle] }).collect()
    } else {
        vec![LineFilter { op, needles }]
    };
    Ok((c, filters.into_iter().map(|f| Stage { kind: StageKind::LineFilter(f), span }).collect()))
}

fn extraction(start: Cursor<'_>) -> Parsed<'_, Extraction> {
    let (c, name) = name(start)?;
    if c.is_symbol("=") {
        let (c, path) = text(c.next())?;
        return Ok((c, Extraction { name, path, span: c.since(start) }));
    }
    c.expected("`=`");
    Ok((c, Extraction { path: name.clone(), name, span: c.since(start) }))
}

/// A list that may be missing: `json`, `json a, b="c"`.
fn extractions(c: Cursor<'_>) -> Parsed<'_, Vec<Extraction>> {
    if name(c).is_err() {
        return Ok((c, Vec::new()));
    }
    let (c, all) = separated_list1(comma, extraction).parse(c)?;
    no_open_comma(c, extraction)?;
    Ok((c, all))
}

/// The list before ended at a comma that nothing follows.
fn no_open_comma<'a, T>(c: Cursor<'a>, item: impl Fn(Cursor<'a>) -> Parsed<'a, T>) -> Result<(), NomErr<Stop>> {
    if c.is_symbol(",") {
        item(c.next())?;
    }
    Ok(())
}

fn label_format(start: Cursor<'_>) -> Parsed<'_, LabelFormat> {
    let (c, label) = name(start)?;
    let (c, _) = symbol("=", "`=`")(c)?;
    if let Token::Text(template) = c.token() {
        let c = c.next();
        let value = FormatValue::Template(template.clone());
        return Ok((c, LabelFormat { name: label, value, span: c.since(start) }));
    }
    c.expected("a template in quotes");
    let (c, other) = name(c)?;
    Ok((c, LabelFormat { name: label, value: FormatValue::Rename(other), span: c.since(start) }))
}

fn label_choice(start: Cursor<'_>) -> Parsed<'_, LabelChoice> {
    let (c, label) = name(start)?;
    if match_op(c).is_some() {
        let (c, matcher) = matcher(start)?;
        return Ok((c, LabelChoice::Match(matcher)));
    }
    c.expected("`=`, `!=`, `=~` or `!~`");
    Ok((c, LabelChoice::Name(label, c.since(start))))
}

/// What stands behind `|`.
fn stage(start: Cursor<'_>) -> Parsed<'_, Stage> {
    let (c, _) = symbol("|", "`|`")(start)?;
    let keyword = c.word().unwrap_or_default();
    let behind = c.next();
    let (c, kind) = match keyword.as_str() {
        "json" => extractions.map(StageKind::Json).parse(behind)?,
        "xml" => extractions.map(StageKind::Xml).parse(behind)?,
        "logfmt" => {
            let (mut c, mut strict, mut keep_empty) = (behind, false, false);
            while let Token::Flag(flag) = c.token() {
                if *flag == "--strict" {
                    strict = true;
                } else {
                    keep_empty = true;
                }
                c = c.next();
            }
            c.expected("`--strict` or `--keep-empty`");
            extractions.map(|extractions| StageKind::Logfmt { strict, keep_empty, extractions }).parse(c)?
        }
        "regexp" => text.map(StageKind::Regexp).parse(behind)?,
        "pattern" => text.map(StageKind::Pattern).parse(behind)?,
        "unpack" => (behind, StageKind::Unpack),
        "decolorize" => (behind, StageKind::Decolorize),
        "line_format" => text.map(StageKind::LineFormat).parse(behind)?,
        "label_format" => {
            let (c, formats) = separated_list1(comma, label_format).parse(behind)?;
            no_open_comma(c, label_format)?;
            (c, StageKind::LabelFormat(formats))
        }
        "drop" | "keep" => {
            let (c, choices) = separated_list1(comma, label_choice).parse(behind)?;
            no_open_comma(c, label_choice)?;
            (c, if keyword == "drop" { StageKind::Drop(choices) } else { StageKind::Keep(choices) })
        }
        _ => {
            if name(c).is_err() && !c.is_symbol("(") {
                return Err(c.expected("a parser, a format or a label filter like `level=\"error\"`"));
            }
            label_filter.map(StageKind::LabelFilter).parse(c)?
        }
    };
    Ok((c, Stage { kind, span: c.since(start) }))
}

fn is_unwrap(c: Cursor<'_>) -> bool {
    c.is_symbol("|") && c.next().is_word("unwrap")
}

fn stages(mut c: Cursor<'_>) -> Parsed<'_, Vec<Stage>> {
    let mut all = Vec::new();
    loop {
        if line_op(c).is_some() {
            // `!=` also compares numbers: `({…}) != 5` is for the operators to refuse.
            let (behind, filters) = line_filters(c)?;
            all.extend(filters);
            c = behind;
        } else if c.is_symbol("|") && !is_unwrap(c) {
            let (behind, stage) = stage(c)?;
            all.push(stage);
            c = behind;
        } else {
            c.expected("a line filter");
            c.expected("`|`");
            return Ok((c, all));
        }
        if all.len() > MAX_OPERATORS {
            return Err(c.fatal(c.span(), format!("the pipeline has more than {MAX_OPERATORS} stages")));
        }
    }
}

// ---- label filters

#[derive(Clone, Copy, PartialEq)]
enum Joint {
    And,
    Or,
    /// A comma or nothing at all.
    Loose,
}

/// Joins as Loki's grammar does: `and` and `or` have precedence among themselves, a comma or a blank has none and
/// takes in all that follows.
fn label_filter(c: Cursor<'_>) -> Parsed<'_, LabelFilter> {
    let (mut c, first) = label_filter_term(c)?;
    let mut operands = vec![first];
    let mut joints: Vec<Joint> = Vec::new();
    loop {
        let (joint, behind) = if c.is_word("and") {
            (Joint::And, c.next())
        } else if c.is_word("or") {
            (Joint::Or, c.next())
        } else if c.is_symbol(",") {
            (Joint::Loose, c.next())
        } else if c.is_symbol("(") || name(c).is_ok() {
            (Joint::Loose, c)
        } else {
            for what in ["`and`", "`or`", "`,`"] {
                c.expected(what);
            }
            break;
        };
        count_operator(c)?;
        while let Some(before) = joints.last().copied() {
            let reduces = matches!((before, joint), (Joint::And, Joint::And | Joint::Or) | (Joint::Or, Joint::Or));
            if !reduces {
                break;
            }
            reduce(&mut operands, &mut joints);
        }
        let (behind, operand) = label_filter_term(behind)?;
        joints.push(joint);
        operands.push(operand);
        c = behind;
    }
    while !joints.is_empty() {
        reduce(&mut operands, &mut joints);
    }
    match operands.pop() {
        Some(filter) => Ok((c, filter)),
        None => Err(c.expected("a label filter")),
    }
}

fn reduce(operands: &mut Vec<LabelFilter>, joints: &mut Vec<Joint>) {
    if let (Some(joint), Some(right), Some(left)) = (joints.pop(), operands.pop(), operands.pop()) {
        let (left, right) = (Box::new(left), Box::new(right));
        operands.push(if joint == Joint::Or { LabelFilter::Or(left, right) } else { LabelFilter::And(left, right) });
    }
}

fn compare_op(c: Cursor<'_>) -> Option<CompareOp> {
    match c.token() {
        Token::Symbol("=" | "==") => Some(CompareOp::Equal),
        Token::Symbol("!=") => Some(CompareOp::NotEqual),
        Token::Symbol(">") => Some(CompareOp::Greater),
        Token::Symbol(">=") => Some(CompareOp::GreaterOrEqual),
        Token::Symbol("<") => Some(CompareOp::Less),
        Token::Symbol("<=") => Some(CompareOp::LessOrEqual),
        _ => None,
    }
}

fn label_filter_term(start: Cursor<'_>) -> Parsed<'_, LabelFilter> {
    if start.is_symbol("(") {
        return enter(start, |c| delimited(open, label_filter, close).parse(c));
    }
    let (c, label) = name(start)?;
    let behind = c.next();
    if let Some(op) = match_op(c) {
        if let Token::Text(value) = behind.token() {
            let c = behind.next();
            let matcher = Matcher { name: label, op, value: value.clone(), span: c.since(start) };
            return Ok((c, LabelFilter::Matcher(matcher)));
        }
        if behind.is_word("ip") && matches!(op, MatchOp::Equal | MatchOp::NotEqual) {
            let (c, value) = delimited(open, text, close).parse(behind.next())?;
            let negated = op == MatchOp::NotEqual;
            return Ok((c, LabelFilter::Ip { name: label, negated, value, span: c.since(start) }));
        }
        behind.expected("a text in quotes");
    }
    let Some(op) = compare_op(c) else {
        return Err(c.expected(if match_op(c).is_some() {
            "a text in quotes"
        } else {
            "a comparison like `=` or `>`"
        }));
    };
    let (c, value) = match behind.token() {
        Token::Duration(ns) => (behind.next(), Quantity::Duration(*ns)),
        Token::Bytes(size) => (behind.next(), Quantity::Bytes(*size)),
        Token::Number(_) | Token::Symbol("+" | "-") => signed_float.map(Quantity::Number).parse(behind)?,
        _ => return Err(behind.expected("a number, a duration or a size")),
    };
    Ok((c, LabelFilter::Compare { name: label, op, value, span: c.since(start) }))
}

// ---- ranges

struct RangePart {
    log: LogExpr,
    unwrap: Option<Unwrap>,
    range: Option<(i64, i64)>,
}

fn offset(c: Cursor<'_>) -> Parsed<'_, i64> {
    if !c.is_word("offset") {
        c.expected("`offset`");
        return Ok((c, 0));
    }
    match c.next().token() {
        Token::Duration(ns) => Ok((c.next().next(), *ns)),
        _ => Err(c.next().expected("a duration like `5m`")),
    }
}

fn interval(c: Cursor<'_>) -> Parsed<'_, (i64, i64)> {
    (range_token, offset).parse(c)
}

fn unwrap(start: Cursor<'_>) -> Parsed<'_, Option<Unwrap>> {
    if !is_unwrap(start) {
        return Ok((start, None));
    }
    let c = start.next().next();
    let conversion = match c.word().as_deref() {
        Some("bytes") if c.is_call() => Some(Conversion::Bytes),
        Some("duration") if c.is_call() => Some(Conversion::Duration),
        Some("duration_seconds") if c.is_call() => Some(Conversion::DurationSeconds),
        _ => None,
    };
    let (c, label) = match conversion {
        Some(_) => delimited(open, name, close).parse(c.next())?,
        None => match name(c) {
            Ok(found) => found,
            Err(_) => return Err(c.expected("`bytes(…)`, `duration(…)` or `duration_seconds(…)`")),
        },
    };
    let (c, filters) = many0(preceded(symbol("|", "`|`"), label_filter_in_unwrap)).parse(c)?;
    let conversion = conversion.unwrap_or(Conversion::Number);
    Ok((c, Some(Unwrap { label, conversion, filters, span: c.since(start) })))
}

fn label_filter_in_unwrap(c: Cursor<'_>) -> Parsed<'_, LabelFilter> {
    // Behind `|` only a label filter may stand: not going back shows the fault where it is.
    label_filter(c).map_err(|error| match error {
        NomErr::Error(stop) => NomErr::Failure(stop),
        other => other,
    })
}

fn range_part(start: Cursor<'_>) -> Parsed<'_, RangePart> {
    if start.is_symbol("(") {
        let (c, mut part) = enter(start, |c| delimited(open, range_part, close).parse(c))?;
        if part.range.is_some() {
            return Ok((c, part));
        }
        let (c, range) = interval(c)?;
        part.range = Some(range);
        let (c, unwrap) = unwrap(c)?;
        part.unwrap = part.unwrap.or(unwrap);
        return Ok((c, part));
    }
    let (c, selector) = selector(start)?;
    let (c, before) = stages(c)?;
    let (c, unwrapped) = unwrap(c)?;
    let span = c.since(start);
    let plain = before.is_empty() && unwrapped.is_none();
    let part = RangePart { log: LogExpr { selector, stages: before, span }, unwrap: unwrapped, range: None };
    if !matches!(c.token(), Token::Range(_)) {
        c.expected("a range like `[5m]`");
        return Ok((c, part));
    }
    let (c, range) = interval(c)?;
    let part = RangePart { range: Some(range), ..part };
    if !plain {
        return Ok((c, part));
    }
    let (c, stages) = stages(c)?;
    let (c, unwrap) = unwrap(c)?;
    let span = c.since(start);
    Ok((c, RangePart { log: LogExpr { stages, span, ..part.log }, unwrap, ..part }))
}

fn log_range(start: Cursor<'_>) -> Parsed<'_, LogRange> {
    let (c, part) = range_part(start)?;
    let Some((interval_ns, offset_ns)) = part.range else { return Err(c.expected("a range like `[5m]`")) };
    Ok((c, LogRange { log: part.log, unwrap: part.unwrap, interval_ns, offset_ns, span: c.since(start) }))
}

// ---- metrics

fn grouping(start: Cursor<'_>) -> Parsed<'_, Option<Grouping>> {
    let without = match start.word().as_deref() {
        Some("by") => false,
        Some("without") => true,
        _ => {
            start.expected("`by`");
            start.expected("`without`");
            return Ok((start, None));
        }
    };
    let (c, labels) = label_list(start.next())?;
    Ok((c, Some(Grouping { without, labels, span: c.since(start) })))
}

/// `()`, `(a, b)`
fn label_list(c: Cursor<'_>) -> Parsed<'_, Vec<String>> {
    let (c, _) = open(c)?;
    if let Ok((c, _)) = close(c) {
        return Ok((c, Vec::new()));
    }
    let (c, labels) = separated_list1(comma, name).parse(c)?;
    no_open_comma(c, name)?;
    let (c, _) = close(c)?;
    Ok((c, labels))
}

/// `5,` before an expression, as written.
fn parameter(c: Cursor<'_>) -> Parsed<'_, Option<(&str, Span)>> {
    match c.token() {
        Token::Number(digits) if matches!(c.nth(1), Token::Symbol(",")) => {
            Ok((c.next().next(), Some((*digits, c.span()))))
        }
        _ => Ok((c, None)),
    }
}

fn range_aggregation(op: RangeOp, start: Cursor<'_>) -> Parsed<'_, MetricExpr> {
    let (c, _) = open(start.next())?;
    let (c, written) = parameter(c)?;
    let parameter = match written {
        None if op == RangeOp::Quantile => {
            return Err(c.fatal(
                c.span(),
                "parameter required for operation quantile_over_time: write `quantile_over_time(0.99, …)`",
            ));
        }
        None => None,
        Some((digits, span)) if op != RangeOp::Quantile => {
            return Err(c.fatal(span, format!("parameter {digits} not supported for operation {}", op.name())));
        }
        Some((digits, span)) => match digits.parse::<f64>() {
            Ok(value) => Some(value),
            Err(_) => return Err(c.fatal(span, format!("invalid parameter for operation {}: {digits}", op.name()))),
        },
    };
    let (c, range) = enter(c, log_range)?;
    let (c, _) = close(c)?;
    let (c, grouping) = grouping(c)?;
    let aggregation = RangeAggregation { op, parameter, range, grouping, span: c.since(start) };
    Ok((c, MetricExpr::Range(aggregation)))
}

fn vector_aggregation(op: VectorOp, start: Cursor<'_>) -> Parsed<'_, MetricExpr> {
    let (c, before) = grouping(start.next())?;
    let (c, _) = open(c)?;
    let (c, written) = parameter(c)?;
    let count = match written {
        None if op.takes_count() => {
            let name = op.name();
            return Err(c.fatal(c.span(), format!("parameter required for operation {name}: write `{name}(10, …)`")));
        }
        None => None,
        Some((digits, span)) if !op.takes_count() => {
            return Err(c.fatal(span, format!("unsupported parameter for operation {}({digits},", op.name())));
        }
        Some((digits, span)) => match digits.parse::<i64>() {
            Ok(count) if count > 0 => Some(count),
            Ok(_) => {
                let message = format!("invalid parameter (must be greater than 0) {}({digits}", op.name());
                return Err(c.fatal(span, message));
            }
            Err(_) => return Err(c.fatal(span, format!("invalid parameter {}({digits},", op.name()))),
        },
    };
    let (c, inner) = enter(c, metric)?;
    let (c, _) = close(c)?;
    let (c, grouping) = match before {
        Some(before) => (c, Some(before)),
        None => grouping(c)?,
    };
    if let Some(grouping) = &grouping {
        match op {
            VectorOp::Sort | VectorOp::SortDesc if !grouping.labels.is_empty() || grouping.without => {
                return Err(c.fatal(grouping.span, "sort and sort_desc doesn't allow grouping by"));
            }
            VectorOp::ApproxTopk => {
                return Err(c.fatal(grouping.span, "grouping not allowed for approx_topk aggregation"));
            }
            _ => {}
        }
    }
    let aggregation = VectorAggregation { op, count, expr: Box::new(inner), grouping, span: c.since(start) };
    Ok((c, MetricExpr::Vector(aggregation)))
}

fn label_replace(start: Cursor<'_>) -> Parsed<'_, MetricExpr> {
    let (c, _) = open(start.next())?;
    let (c, inner) = enter(c, metric)?;
    let argument = |c| preceded(comma, text).parse(c);
    let (c, (destination, replacement, source, regex)) = (argument, argument, argument, argument).parse(c)?;
    let (c, _) = close(c)?;
    let span = c.since(start);
    let replace = LabelReplace { expr: Box::new(inner), destination, replacement, source, regex, span };
    Ok((c, MetricExpr::LabelReplace(replace)))
}

fn variants(start: Cursor<'_>) -> Parsed<'_, Expr> {
    let (c, metrics) = delimited(open, separated_list1(comma, |c| enter(c, metric)), close).parse(start.next())?;
    if !c.is_word("of") {
        return Err(c.expected("`of`"));
    }
    let (c, of) = delimited(open, |c| enter(c, log_range), close).parse(c.next())?;
    Ok((c, Expr::Variants(Variants { metrics, of, span: c.since(start) })))
}

/// An expression without operators.
fn primary(start: Cursor<'_>) -> Parsed<'_, Expr> {
    match start.token() {
        Token::Symbol("{") => {
            let (c, selector) = selector(start)?;
            let (c, stages) = stages(c)?;
            Ok((c, Expr::Log(LogExpr { selector, stages, span: c.since(start) })))
        }
        Token::Symbol("(") => enter(start, |c| delimited(open, expr, close).parse(c)),
        Token::Number(_) | Token::Symbol("+" | "-") => {
            let (c, value) = signed_float(start)?;
            Ok((c, Expr::Metric(MetricExpr::Literal(value, c.since(start)))))
        }
        Token::Word(word) => {
            let word = word.to_lowercase();
            if word == "variants" {
                return variants(start);
            }
            if start.is_call() {
                if let Some(op) = RangeOp::ALL.into_iter().find(|op| op.name() == word) {
                    return range_aggregation(op, start).map(|(c, m)| (c, Expr::Metric(m)));
                }
                if let Some(op) = VectorOp::ALL.into_iter().find(|op| op.name() == word) {
                    return vector_aggregation(op, start).map(|(c, m)| (c, Expr::Metric(m)));
                }
                if word == "label_replace" {
                    return label_replace(start).map(|(c, m)| (c, Expr::Metric(m)));
                }
                if word == "vector" {
                    let (c, value) = delimited(open, float, close).parse(start.next())?;
                    return Ok((c, Expr::Metric(MetricExpr::Constant(value, c.since(start)))));
                }
                if let Some(near) = near_function(&word) {
                    let message = format!("there is no function `{word}`: did you mean `{near}`?");
                    return Err(start.fatal(start.span(), message));
                }
            }
            Err(start.expected("a query: a stream selector like `{app=\"api\"}`, an aggregation or a number"))
        }
        _ => Err(start.expected("a query: a stream selector like `{app=\"api\"}`, an aggregation or a number")),
    }
}

/// The function that was probably meant.
fn near_function(word: &str) -> Option<&'static str> {
    let all = RangeOp::ALL.into_iter().map(RangeOp::name).chain(VectorOp::ALL.into_iter().map(VectorOp::name));
    all.filter(|name| name.len() > 2)
        .map(|name| (edits(word, name), name))
        .filter(|(edits, _)| *edits <= 2)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

/// Letters to change, add or remove from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (b, cell) in to.bytes().zip(row.iter_mut().skip(1)) {
            let cost = if a == b { corner } else { 1 + corner.min(left).min(*cell) };
            corner = *cell;
            *cell = cost;
            left = cost;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

fn binary_op(c: Cursor<'_>) -> Option<BinaryOp> {
    match c.token() {
        Token::Symbol(symbol) => BinaryOp::ALL.into_iter().find(|op| op.symbol() == *symbol),
        Token::Word(word) => BinaryOp::ALL.into_iter().find(|op| op.symbol().eq_ignore_ascii_case(word)),
        _ => None,
    }
}

fn modifier(c: Cursor<'_>) -> Parsed<'_, (bool, Option<Matching>)> {
    let (returns_bool, c) = if c.is_word("bool") { (true, c.next()) } else { (false, c) };
    let on = match c.word().as_deref() {
        Some("on") => true,
        Some("ignoring") => false,
        _ => return Ok((c, (returns_bool, None))),
    };
    let (c, labels) = label_list(c.next())?;
    let cardinality = match c.word().as_deref() {
        Some("group_left") => Cardinality::ManyToOne,
        Some("group_right") => Cardinality::OneToMany,
        _ => {
            let matching = Matching { on, labels, cardinality: Cardinality::OneToOne, include: Vec::new() };
            return Ok((c, (returns_bool, Some(matching))));
        }
    };
    let c = c.next();
    // `group_left (a)`: only a list of names; `group_left (rate(…))` opens the right side.
    let is_list = c.is_symbol("(")
        && (matches!(c.nth(1), Token::Symbol(")"))
            || (name(c.next()).is_ok() && matches!(c.nth(2), Token::Symbol("," | ")"))));
    let (c, include) = if is_list { label_list(c)? } else { (c, Vec::new()) };
    Ok((c, (returns_bool, Some(Matching { on, labels, cardinality, include }))))
}

/// An expression with operators: precedence climbing.
fn expr_above<'a>(start: Cursor<'a>, lowest: u8) -> Parsed<'a, Expr> {
    let (mut c, mut left) = primary(start)?;
    loop {
        let Some(op) = binary_op(c).filter(|op| op.precedence() >= lowest) else {
            if binary_op(c).is_none() {
                c.expected("an operator");
            }
            return Ok((c, left));
        };
        count_operator(c)?;
        let (behind, (returns_bool, matching)) = modifier(c.next())?;
        let above = if op.binds_right() { op.precedence() } else { op.precedence() + 1 };
        let (behind, right) = enter(behind, |c| expr_above(c, above))?;
        left = Expr::Metric(join(c, op, left, right, returns_bool, matching)?);
        c = behind;
    }
}

fn join<'a>(
    c: Cursor<'a>,
    op: BinaryOp,
    left: Expr,
    right: Expr,
    returns_bool: bool,
    matching: Option<Matching>,
) -> Result<MetricExpr, NomErr<Stop>> {
    let number = |side: &'static str, expr: Expr| match expr {
        Expr::Metric(metric) => Ok(metric),
        other => {
            let message = format!(
                "unexpected type for {side} leg of binary operation ({}): a stream selector gives lines, wrap it like `count_over_time({{…}}[5m])`",
                op.symbol()
            );
            Err(c.fatal(other.span(), message))
        }
    };
    let left = number("left", left)?;
    let right = number("right", right)?;
    let span = left.span().to(right.span());
    if op.is_set() {
        for (side, leg) in [("left", &left), ("right", &right)] {
            if let MetricExpr::Literal(value, span) = leg {
                let message = format!(
                    "unexpected literal for {side} leg of logical/set binary operation ({}): {value:.6}",
                    op.symbol()
                );
                return Err(c.fatal(*span, message));
            }
        }
    }
    if let (MetricExpr::Literal(a, _), MetricExpr::Literal(b, _)) = (&left, &right) {
        let value = crate::eval::arithmetic::scalars(op, *a, *b);
        if value.is_finite() {
            return Ok(MetricExpr::Literal(value, span));
        }
    }
    Ok(MetricExpr::Binary(Binary { op, left: Box::new(left), right: Box::new(right), returns_bool, matching, span }))
}

fn expr(c: Cursor<'_>) -> Parsed<'_, Expr> {
    expr_above(c, 0)
}

fn metric(start: Cursor<'_>) -> Parsed<'_, MetricExpr> {
    let (c, found) = expr(start)?;
    match found {
        Expr::Metric(metric) => Ok((c, metric)),
        other => {
            // The grammar wants numbers here: a selector lacks its range or its aggregation.
            if matches!(c.token(), Token::Range(_)) {
                return Err(c.fatal(
                    c.span(),
                    "unexpected range, expected `)`: a range stands in a range aggregation like `rate({…}[5m])`",
                ));
            }
            Err(c.fatal(
                other.span(),
                "an aggregation needs numbers, a stream selector gives lines: wrap it like `count_over_time({…}[5m])`",
            ))
        }
    }
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

fn run<'a, T>(
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

fn notes() -> Notes {
    Notes {
        left: Cell::new(usize::MAX),
        expected: RefCell::default(),
        fatal: RefCell::default(),
        depth: Cell::new(0),
        operators: Cell::new(0),
    }
}

/// Reads a whole query.
pub fn query(source: &str, tokens: &[Spanned<'_>]) -> Result<Expr, ParseError> {
    run(source, tokens, &notes(), expr)
}

/// Reads a stream selector alone.
pub fn selector_alone(source: &str, tokens: &[Spanned<'_>]) -> Result<Selector, ParseError> {
    run(source, tokens, &notes(), selector)
}
