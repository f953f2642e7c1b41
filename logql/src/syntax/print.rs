//! Tree to text: the canonical form, as Loki's `format_query` writes it, on one line or split over several.
//!
//! In: a tree. Out: text that parses to an equal tree. Touches nothing. Differs from Loki only where Loki's own text
//! would not read back the same: `on ()`, `by ()` and sizes that a rounded number can't say.

use std::fmt::{self, Display, Formatter};

use super::quantity::{quote, show_bytes, show_float, show_go_duration, show_prometheus_duration};
use super::tree::{
    Binary, Cardinality, CompareOp, Conversion, Expr, Extraction, FormatValue, Grouping, LabelChoice, LabelFilter,
    LabelFormat, LabelReplace, LineFilter, LineMatch, LineOp, LogExpr, LogRange, MatchOp, Matcher, Matching,
    MetricExpr, Quantity, RangeAggregation, Selector, Stage, StageKind, Unwrap, Variants, VectorAggregation,
};

/// Characters of a line before an expression is split.
const MAX_LINE: usize = 100;

/// A list with a separator.
struct Joined<'a, T>(&'a [T], &'static str);

impl<T: Display> Display for Joined<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(log) => log.fmt(f),
            Self::Metric(metric) => metric.fmt(f),
            Self::Variants(variants) => variants.fmt(f),
        }
    }
}

impl Display for Variants {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "variants({}) of ({})", Joined(&self.metrics, ", "), self.of)
    }
}

impl Display for LogExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.selector.fmt(f)?;
        for stage in &self.stages {
            write!(f, " {stage}")?;
        }
        Ok(())
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", Joined(&self.matchers, ", "))
    }
}

impl Display for MatchOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

impl Display for Matcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, self.op, quote(&self.value))
    }
}

impl Display for LineOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contains => "|=",
            Self::NotContains => "!=",
            Self::Regex => "|~",
            Self::NotRegex => "!~",
            Self::Pattern => "|>",
            Self::NotPattern => "!>",
        })
    }
}

impl Display for LineMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = quote(&self.value);
        if self.ip { write!(f, "ip({value})") } else { f.write_str(&value) }
    }
}

impl Display for LineFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, Joined(&self.needles, " or "))
    }
}

impl Display for Extraction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, quote(&self.path))
    }
}

impl Display for LabelFormat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.value {
            FormatValue::Rename(other) => write!(f, "{}={other}", self.name),
            FormatValue::Template(template) => write!(f, "{}={}", self.name, quote(template)),
        }
    }
}

impl Display for LabelChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, _) => f.write_str(name),
            Self::Match(matcher) => matcher.fmt(f),
        }
    }
}

fn parser(f: &mut Formatter<'_>, name: &str, extractions: &[Extraction]) -> fmt::Result {
    f.write_str(name)?;
    if extractions.is_empty() { Ok(()) } else { write!(f, " {}", Joined(extractions, ",")) }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StageKind::LineFilter(filter) => filter.fmt(f),
            StageKind::Json(extractions) => parser(f, "| json", extractions),
            StageKind::Xml(extractions) => parser(f, "| xml", extractions),
            StageKind::Logfmt { strict, keep_empty, extractions } => {
                f.write_str("| logfmt")?;
                if *strict {
                    f.write_str(" --strict")?;
                }
                if *keep_empty {
                    f.write_str(" --keep-empty")?;
                }
                parser(f, "", extractions)
            }
            StageKind::Regexp(pattern) => write!(f, "| regexp {}", quote(pattern)),
            StageKind::Pattern(pattern) => write!(f, "| pattern {}", quote(pattern)),
            StageKind::Unpack => f.write_str("| unpack"),
            StageKind::Decolorize => f.write_str("| decolorize"),
            StageKind::LineFormat(template) => write!(f, "| line_format {}", quote(template)),
            StageKind::LabelFormat(formats) => write!(f, "| label_format {}", Joined(formats, ",")),
            StageKind::Drop(choices) => write!(f, "| drop {}", Joined(choices, ",")),
            StageKind::Keep(choices) => write!(f, "| keep {}", Joined(choices, ",")),
            StageKind::LabelFilter(filter) => write!(f, "| {filter}"),
        }
    }
}

impl Display for CompareOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        })
    }
}

impl Display for Quantity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            // Never with an exponent.
            Self::Number(value) => write!(f, "{value}"),
            Self::Duration(ns) => f.write_str(&show_go_duration(*ns)),
            Self::Bytes(bytes) => f.write_str(&show_bytes(*bytes)),
        }
    }
}

impl Display for LabelFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matcher(matcher) => matcher.fmt(f),
            Self::Compare { name, op, value, .. } => write!(f, "{name}{op}{value}"),
            Self::Ip { name, negated, value, .. } => {
                write!(f, "{name}{}ip({})", if *negated { "!=" } else { "=" }, quote(value))
            }
            Self::And(left, right) => write!(f, "( {left} , {right} )"),
            Self::Or(left, right) => write!(f, "( {left} or {right} )"),
        }
    }
}

impl Display for Unwrap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head().fmt(f)?;
        for filter in &self.filters {
            write!(f, " | {filter}")?;
        }
        Ok(())
    }
}

impl Unwrap {
    fn head(&self) -> String {
        match self.conversion {
            Conversion::Number => format!("| unwrap {}", self.label),
            Conversion::Bytes => format!("| unwrap bytes({})", self.label),
            Conversion::Duration => format!("| unwrap duration({})", self.label),
            Conversion::DurationSeconds => format!("| unwrap duration_seconds({})", self.label),
        }
    }
}

impl LogRange {
    /// `[5m] offset 1h`
    fn tail(&self) -> String {
        let range = show_prometheus_duration(self.interval_ns);
        match self.offset_ns {
            0 => format!("[{range}]"),
            offset => format!("[{range}] offset {}", show_prometheus_duration(offset)),
        }
    }
}

impl Display for LogRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)?;
        if let Some(unwrap) = &self.unwrap {
            write!(f, " {unwrap}")?;
        }
        f.write_str(&self.tail())
    }
}

impl Display for Grouping {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, " {} ({})", if self.without { "without" } else { "by" }, self.labels.join(","))
    }
}

/// The grouping of an aggregation, with this between its names; nothing for none.
fn grouped(grouping: Option<&Grouping>, separator: &str) -> String {
    grouping.map_or_else(String::new, |g| {
        format!(" {} ({})", if g.without { "without" } else { "by" }, g.labels.join(separator))
    })
}

impl Display for RangeAggregation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.op.name())?;
        if let Some(parameter) = self.parameter {
            write!(f, "{parameter},")?;
        }
        write!(f, "{}){}", self.range, grouped(self.grouping.as_ref(), ","))
    }
}

impl Display for VectorAggregation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}(", self.op.name(), grouped(self.grouping.as_ref(), ","))?;
        if let Some(count) = self.count {
            write!(f, "{count},")?;
        }
        write!(f, "{})", self.expr)
    }
}

impl Binary {
    /// `/ on (a) group_left (b)`
    fn operator(&self) -> String {
        let mut text = self.op.symbol().to_owned();
        if self.returns_bool {
            text.push_str(" bool");
        }
        if let Some(Matching { on, labels, cardinality, include }) = &self.matching {
            let mut group = match cardinality {
                Cardinality::OneToOne => String::new(),
                Cardinality::ManyToOne => "group_left".to_owned(),
                Cardinality::OneToMany => "group_right".to_owned(),
            };
            if !include.is_empty() {
                group = format!("{group} ({})", include.join(", "));
            }
            let word = if *on { "on" } else { "ignoring" };
            text.push_str(&format!(" {word} ({}) {group}", labels.join(", ")));
        }
        text
    }
}

impl Display for Binary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.left, self.operator(), self.right)
    }
}

impl LabelReplace {
    fn texts(&self) -> [String; 4] {
        [quote(&self.destination), quote(&self.replacement), quote(&self.source), quote(&self.regex)]
    }
}

impl Display for LabelReplace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "label_replace({},{})", self.expr, self.texts().join(","))
    }
}

impl Display for MetricExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Vector(vector) => vector.fmt(f),
            Self::Binary(binary) => binary.fmt(f),
            Self::Literal(value, _) => f.write_str(&show_float(*value)),
            Self::Constant(value, _) => write!(f, "vector({value:.6})"),
            Self::LabelReplace(replace) => replace.fmt(f),
        }
    }
}

fn indent(level: usize) -> String {
    "  ".repeat(level)
}

/// The text on one line, if it is short enough.
fn short(node: &impl Display) -> Option<String> {
    let text = node.to_string();
    (text.len() <= MAX_LINE).then_some(text)
}

/// What `format_query` answers: one line, or several with two blanks per level where one would be too long.
pub fn pretty(expr: &Expr) -> String {
    match expr {
        Expr::Log(log) => pretty_log(log, 0),
        Expr::Metric(metric) => pretty_metric(metric, 0),
        Expr::Variants(variants) => variants.to_string(),
    }
}

fn pretty_log(log: &LogExpr, level: usize) -> String {
    if log.stages.is_empty() {
        return format!("{}{}", indent(level), log.selector);
    }
    if let Some(text) = short(log) {
        return format!("{}{text}", indent(level));
    }
    let mut lines = vec![format!("{}{}", indent(level), log.selector)];
    let inner = indent(level + 1);
    let is_filter = |stage: &Stage| matches!(stage.kind, StageKind::LineFilter(_));
    for group in log.stages.chunk_by(|a, b| is_filter(a) && is_filter(b)) {
        // Neighbouring line filters share a line while they fit.
        let joined = Joined(group, " ").to_string();
        if group.len() > 1 && joined.len() > MAX_LINE {
            lines.extend(group.iter().map(|stage| format!("{inner}{stage}")));
        } else if matches!(group, [Stage { kind: StageKind::Decolorize, .. }]) {
            lines.push(joined);
        } else {
            lines.push(format!("{inner}{joined}"));
        }
    }
    lines.join("\n")
}

fn pretty_range(range: &LogRange, level: usize) -> String {
    let mut text = pretty_log(&range.log, level);
    if let Some(unwrap) = &range.unwrap {
        let inner = indent(level + 1);
        text.push_str(&format!("\n{inner}{}", unwrap.head()));
        for filter in &unwrap.filters {
            text.push_str(&format!("\n{inner}| {filter}"));
        }
    }
    format!("{text} {}", range.tail())
}

fn pretty_metric(metric: &MetricExpr, level: usize) -> String {
    let (outer, inner) = (indent(level), indent(level + 1));
    if let Some(text) = short(metric) {
        return format!("{outer}{text}");
    }
    match metric {
        MetricExpr::Range(range) => {
            let parameter = range.parameter.map_or_else(String::new, |p| format!("{inner}{},\n", show_float(p)));
            let body = pretty_range(&range.range, level + 1);
            let grouping = grouped(range.grouping.as_ref(), ", ");
            format!("{outer}{}(\n{parameter}{body}\n{outer}){grouping}", range.op.name())
        }
        MetricExpr::Vector(vector) => {
            let count = vector.count.map_or_else(String::new, |count| format!("{inner}{count},\n"));
            let body = pretty_metric(&vector.expr, level + 1);
            let grouping = grouped(vector.grouping.as_ref(), ", ");
            format!("{outer}{}{grouping}(\n{count}{body}\n{outer})", vector.op.name())
        }
        MetricExpr::Binary(binary) => {
            let left = pretty_leg(binary, &binary.left, false, level + 1);
            let right = pretty_leg(binary, &binary.right, true, level + 1);
            format!("{left}\n{outer}{}\n{right}", binary.operator())
        }
        MetricExpr::LabelReplace(replace) => {
            let mut parts = vec![pretty_metric(&replace.expr, level + 1)];
            parts.extend(replace.texts().into_iter().map(|text| format!("{inner}{text}")));
            format!("{outer}label_replace(\n{}\n{outer})", parts.join(",\n"))
        }
        MetricExpr::Literal(..) | MetricExpr::Constant(..) => format!("{outer}{metric}"),
    }
}

/// One side of an operator, in parentheses where it would be read otherwise without them.
fn pretty_leg(parent: &Binary, leg: &MetricExpr, is_right: bool, level: usize) -> String {
    if let MetricExpr::Binary(child) = leg
        && short(child).is_none()
    {
        let (above, below) = (parent.op.precedence(), child.op.precedence());
        let kept = below > above || (below == above && is_right == parent.op.binds_right());
        if !kept {
            let outer = indent(level);
            return format!("{outer}(\n{}\n{outer})", pretty_metric(leg, level + 1));
        }
    }
    pretty_metric(leg, level)
}
