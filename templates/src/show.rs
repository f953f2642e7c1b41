//! Values as Go prints them (`%v`), and `printf` with its verbs.
//!
//! In: values and formats. Out: text, or nothing where it would grow beyond a limit. Touches nothing.

use millrace_log::go;

use crate::time::duration;
use crate::value::{ListKind, MapKind, Value};

/// Width and precision that a verb may ask for.
const MAX_WIDTH: usize = 10_000;

/// As `{{ . }}` prints it; `None` beyond `limit` bytes.
pub(crate) fn show(value: &Value, limit: usize) -> Option<String> {
    let mut out = String::new();
    match value {
        Value::Nil => out.push_str("<no value>"),
        value => write(value, limit, &mut out)?,
    }
    Some(out)
}

/// As `print` and `%v` print it.
pub(crate) fn write(value: &Value, limit: usize, out: &mut String) -> Option<()> {
    match value {
        Value::Nil => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(n) => out.push_str(&go::float(*n)),
        Value::Text(text) | Value::Safe(_, text) => out.push_str(text),
        Value::Time(time) => out.push_str(&time.show()),
        Value::Duration(ns) => out.push_str(&duration(*ns)),
        Value::Named(_, _, name) => out.push_str(name),
        Value::List(ListKind::Pairs, list) => pairs(list.iter().filter_map(pair), out),
        Value::Map(MapKind::Kv, map) => pairs(sorted_pairs(map).into_iter(), out),
        Value::List(_, list) => {
            out.push('[');
            for (n, item) in list.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                write(item, limit, out)?;
            }
            out.push(']');
        }
        Value::Map(_, map) => {
            out.push_str("map[");
            for (n, (name, item)) in map.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write(item, limit, out)?;
            }
            out.push(']');
        }
        Value::Record(record) => {
            out.push('{');
            for (n, (_, item)) in record.fields.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                write(item, limit, out)?;
            }
            out.push('}');
        }
    }
    (out.len() <= limit).then_some(())
}

/// Labels in the order that people read them in: `alertname` first.
pub(crate) fn sorted_pairs(map: &crate::value::Entries) -> Vec<(&str, &str)> {
    let mut list: Vec<(&str, &str)> =
        map.iter().map(|(name, value)| (&**name, value.as_text().map_or("", |text| &**text))).collect();
    // The sort keeps the order of names.
    list.sort_by_key(|(name, _)| *name != "alertname");
    list
}

/// Name and value of a pair.
pub(crate) fn pair(value: &Value) -> Option<(&str, &str)> {
    let Value::Record(record) = value else { return None };
    let text = |name| record.field(name).and_then(Value::as_text).map(|text| &**text);
    Some((text("Name")?, text("Value")?))
}

fn pairs<'a>(list: impl Iterator<Item = (&'a str, &'a str)>, out: &mut String) {
    for (n, (name, value)) in list.enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
}

/// Values one after the other as Go's `Sprint`: blanks between two that are not texts.
pub(crate) fn print(values: &[Value], limit: usize) -> Option<String> {
    let mut out = String::new();
    let is_text = |value: &Value| matches!(value, Value::Text(_) | Value::Safe(..));
    for (n, value) in values.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|n| values.get(n));
        if before.is_some_and(|before| !is_text(before) && !is_text(value)) {
            out.push(' ');
        }
        write(value, limit, &mut out)?;
    }
    Some(out)
}

/// As Go's `Sprintln`.
pub(crate) fn println(values: &[Value], limit: usize) -> Option<String> {
    let mut out = String::new();
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            out.push(' ');
        }
        write(value, limit, &mut out)?;
    }
    out.push('\n');
    Some(out)
}

#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    zero: bool,
    space: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Fills a format in; `None` beyond `limit` bytes.
pub(crate) fn printf(format: &str, arguments: &[Value], limit: usize) -> Option<String> {
    let mut out = String::new();
    let mut used = 0;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '0' => verb.zero = true,
                ' ' => verb.space = true,
                '#' => verb.sharp = true,
                _ => break,
            }
            chars.next();
        }
        verb.width = number(&mut chars, arguments, &mut used);
        if chars.peek() == Some(&'.') {
            chars.next();
            verb.precision = Some(number(&mut chars, arguments, &mut used).unwrap_or(0));
        }
        let Some(letter) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if letter == '%' {
            out.push('%');
            continue;
        }
        match arguments.get(used) {
            Some(argument) => {
                let text = verb.show(letter, argument, limit)?;
                out.push_str(&text);
                used += 1;
            }
            None => out.push_str(&format!("%!{letter}(MISSING)")),
        }
        if out.len() > limit {
            return None;
        }
    }
    if let Some(extra) = arguments.get(used..).filter(|extra| !extra.is_empty()) {
        let mut shown = Vec::new();
        for value in extra {
            let mut text = String::new();
            if *value != Value::Nil {
                text = format!("{}=", value.kind());
            }
            write(value, limit, &mut text)?;
            shown.push(text);
        }
        out.push_str(&format!("%!(EXTRA {})", shown.join(", ")));
    }
    (out.len() <= limit).then_some(out)
}

fn number(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    arguments: &[Value],
    used: &mut usize,
) -> Option<usize> {
    if chars.peek() == Some(&'*') {
        chars.next();
        let given = arguments.get(*used);
        *used += 1;
        return match given {
            Some(Value::Int(width)) => usize::try_from(*width).ok().map(|width| width.min(MAX_WIDTH)),
            _ => None,
        };
    }
    let mut found = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        found = Some((found.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
        chars.next();
    }
    found
}

impl Verb {
    fn show(&self, letter: char, value: &Value, limit: usize) -> Option<String> {
        // What knows how to show itself does so for texts' verbs.
        let named = match value {
            Value::Text(text) | Value::Safe(_, text) => Some(text.to_string()),
            Value::Time(_)
            | Value::Duration(_)
            | Value::Named(..)
            | Value::List(ListKind::Pairs, _)
            | Value::Map(MapKind::Kv, _) => {
                let mut text = String::new();
                write(value, limit, &mut text)?;
                Some(text)
            }
            _ => None,
        };
        if letter == 'T' {
            let pointer = if value.kind() == "template.Data" { "*" } else { "" };
            return Some(self.pad(format!("{pointer}{}", value.kind()), false));
        }
        if let Some(text) = named
            && matches!(letter, 'v' | 's' | 'q' | 'x' | 'X')
        {
            return Some(self.text(letter, &text));
        }
        let (text, is_number) = match (letter, value) {
            ('v', Value::Float(number)) => (self.general(*number, None), true),
            ('v', Value::Int(number)) => (self.integer('d', *number), true),
            (_, Value::Int(number) | Value::Duration(number) | Value::Named(_, number, _))
                if matches!(letter, 'd' | 'b' | 'o' | 'x' | 'X' | 'c' | 'U' | 'q') =>
            {
                (self.integer(letter, *number), !matches!(letter, 'c' | 'q'))
            }
            ('f' | 'F' | 'e' | 'E' | 'g' | 'G', Value::Float(number)) => (self.float(letter, *number), true),
            ('t' | 'v', Value::Bool(value)) => (value.to_string(), false),
            ('v', Value::Nil) => ("<nil>".to_owned(), false),
            (letter, Value::Nil) => (format!("%!{letter}(<nil>)"), false),
            ('v' | 's' | 'd' | 'q' | 'f' | 'g', Value::List(_, list)) => {
                let mut items = Vec::new();
                for item in list.iter() {
                    items.push(self.show(letter, item, limit)?);
                }
                return Some(format!("[{}]", items.join(" ")));
            }
            ('v' | 's', Value::Map(..) | Value::Record(_)) => {
                let mut text = String::new();
                write(value, limit, &mut text)?;
                (text, false)
            }
            (letter, value) => {
                let mut text = String::new();
                write(value, limit, &mut text)?;
                (format!("%!{letter}({}={text})", value.kind()), false)
            }
        };
        Some(self.pad(text, is_number))
    }

    fn text(&self, letter: char, text: &str) -> String {
        let cut: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let text = match letter {
            'q' => go::quote(&cut),
            'x' => cut.bytes().map(|b| format!("{b:02x}")).collect(),
            'X' => cut.bytes().map(|b| format!("{b:02X}")).collect(),
            _ => cut,
        };
        self.pad(text, false)
    }

    fn integer(&self, letter: char, number: i64) -> String {
        let all = number.unsigned_abs();
        let digits = match letter {
            'b' => format!("{all:b}"),
            'o' => format!("{}{all:o}", if self.sharp { "0" } else { "" }),
            'x' => format!("{}{all:x}", if self.sharp { "0x" } else { "" }),
            'X' => format!("{}{all:X}", if self.sharp { "0X" } else { "" }),
            'c' | 'q' => {
                let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                return if letter == 'q' { format!("'{c}'") } else { c.to_string() };
            }
            'U' => return format!("U+{number:04X}"),
            _ => {
                let digits = all.to_string();
                let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
                "0".repeat(missing) + &digits
            }
        };
        self.signed(number < 0, &digits)
    }

    fn float(&self, letter: char, number: f64) -> String {
        if !number.is_finite() {
            return self.general(number, None);
        }
        match letter {
            'f' | 'F' => {
                self.signed(number.is_sign_negative(), &format!("{:.*}", self.precision.unwrap_or(6), number.abs()))
            }
            'e' | 'E' => {
                let text = format!("{:.*e}", self.precision.unwrap_or(6), number.abs());
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                let sign = if exponent < 0 { '-' } else { '+' };
                self.signed(number.is_sign_negative(), &format!("{digits}{letter}{sign}{:02}", exponent.abs()))
            }
            _ => self.general(number, self.precision).replace('e', if letter == 'G' { "E" } else { "e" }),
        }
    }

    fn general(&self, number: f64, precision: Option<usize>) -> String {
        let text = match precision {
            Some(precision) => significant(number, precision),
            None => go::float(number),
        };
        match text.strip_prefix(['-', '+']) {
            Some(digits) if number.is_finite() || text.starts_with('-') || self.plus => {
                self.signed(text.starts_with('-'), digits)
            }
            Some(_) => text,
            None => self.signed(false, &text),
        }
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        format!("{sign}{digits}")
    }

    fn pad(&self, text: String, is_number: bool) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        if missing == 0 {
            return text;
        }
        if self.minus {
            return text + &" ".repeat(missing);
        }
        if self.zero {
            let (sign, digits) = match text.strip_prefix(['-', '+', ' ']) {
                Some(digits) if is_number => text.split_at(text.len() - digits.len()),
                _ => ("", text.as_str()),
            };
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        " ".repeat(missing) + &text
    }
}

/// A number with so many significant digits, without zeros at the end: Go's `%.4g`.
pub(crate) fn significant(number: f64, precision: usize) -> String {
    if !number.is_finite() {
        return go::float(number);
    }
    let precision = precision.clamp(1, 800);
    let text = format!("{:.*e}", precision - 1, number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    // An exponent where the number has more places before the point than digits were asked for.
    let most = i64::try_from(precision).unwrap_or(i64::MAX);
    let most = if most > count && count > exponent { count } else { most };
    if exponent < -4 || exponent >= most {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{mark}{:02}", exponent.abs());
    }
    if exponent < 0 {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        return format!("{sign}0.{}{digits}", "0".repeat(zeros));
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    let (before, after) = digits.split_at(whole);
    format!("{sign}{before}.{after}")
}
