//! Tokens to tree: selectors and pipelines.
//!
//! In: tokens. Out: a tree, or the furthest place that could not be read with all that was expected there.
//! Touches nothing. Metric expressions are in `grammar_metric.rs`; what a grammar can't say (regular expressions,
//! which aggregation needs an unwrap) is left to `plan/check.rs`.
//!
//! Words are keywords as in Loki: everywhere, in any case; names of functions only before `(`, `by (` or
//! `without (`, so that a label may be called `count`.

use nom::Parser;
use nom::multi::separated_list1;
use nom::sequence::delimited;

use super::cursor::{
    Cursor, MAX_OPERATORS, Parsed, close, comma, count_operator, enter, name, no_open_comma, open, signed_float,
    symbol, text,
};
use super::lexer::Token;
use super::tree::{
    CompareOp, Extraction, FormatValue, LabelChoice, LabelFilter, LabelFormat, LineFilter, LineMatch, LineOp, MatchOp,
    Matcher, Quantity, Selector, Stage, StageKind,
};

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

pub(super) fn selector(start: Cursor<'_>) -> Parsed<'_, Selector> {
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

pub(super) fn is_unwrap(c: Cursor<'_>) -> bool {
    c.is_symbol("|") && c.next().is_word("unwrap")
}

pub(super) fn stages(mut c: Cursor<'_>) -> Parsed<'_, Vec<Stage>> {
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

#[derive(Clone, Copy, PartialEq)]
enum Joint {
    And,
    Or,
    /// A comma or nothing at all.
    Loose,
}

/// Joins as Loki's grammar does: `and` and `or` have precedence among themselves, a comma or a blank has none and
/// takes in all that follows.
pub(super) fn label_filter(c: Cursor<'_>) -> Parsed<'_, LabelFilter> {
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
