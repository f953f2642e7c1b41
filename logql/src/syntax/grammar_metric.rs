//! Tokens to tree: ranges, aggregations, operators.
//!
//! In: tokens. Out: a tree, or what was expected. Touches nothing. Operators are read by precedence climbing; two
//! literals are computed at once, as in Loki.

use nom::Parser;
use nom::multi::{many0, separated_list1};
use nom::sequence::{delimited, preceded};

use super::cursor::{
    Cursor, NomErr, Parsed, Stop, close, comma, count_operator, enter, float, name, no_open_comma, open, range_token,
    signed_float, symbol, text,
};
use super::go_number;
use super::grammar::{is_unwrap, label_filter, selector, stages};
use super::lexer::Token;
use super::tree::{
    Binary, BinaryOp, Cardinality, Conversion, Expr, Grouping, LabelFilter, LabelReplace, LogExpr, LogRange, Matching,
    MetricExpr, RangeAggregation, RangeOp, Span, Unwrap, Variants, VectorAggregation, VectorOp,
};

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
        Some((digits, span)) => match go_number::literal(digits) {
            Some(value) => Some(value),
            None => return Err(c.fatal(span, format!("invalid parameter for operation {}: {digits}", op.name()))),
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
                    let message = format!("unknown function `{word}`: did you mean `{near}`?");
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
        let value = super::arithmetic::scalars(op, *a, *b);
        if value.is_finite() {
            return Ok(MetricExpr::Literal(value, span));
        }
    }
    Ok(MetricExpr::Binary(Binary { op, left: Box::new(left), right: Box::new(right), returns_bool, matching, span }))
}

pub(super) fn expr(c: Cursor<'_>) -> Parsed<'_, Expr> {
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
