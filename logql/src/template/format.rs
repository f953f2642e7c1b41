//! `printf`: Go's verbs for the values that templates have.

use super::value::Value;
use crate::syntax::quantity::{quote, show_float};

/// Width that a verb may ask for.
const MAX_WIDTH: usize = 10_000;

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

/// Fills a format in; `None` where it grows beyond `limit` bytes.
pub(super) fn printf(format: &str, arguments: &[Value], limit: usize) -> Option<String> {
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
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<usize> {
            if chars.peek() == Some(&'*') {
                chars.next();
                let width = match arguments.get(used) {
                    Some(Value::Int(width)) => usize::try_from(*width).ok(),
                    _ => None,
                };
                used += 1;
                return width.map(|w| w.min(MAX_WIDTH));
            }
            let mut found = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                found = Some((found.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
                chars.next();
            }
            found
        };
        verb.width = number(&mut chars);
        if chars.peek() == Some(&'.') {
            chars.next();
            verb.precision = Some(number(&mut chars).unwrap_or(0));
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
            Some(argument) => out.push_str(&verb.show(letter, argument)),
            None => out.push_str(&format!("%!{letter}(MISSING)")),
        }
        used += 1;
        if out.len() > limit {
            return None;
        }
    }
    if let Some(extra) = arguments.get(used..).filter(|extra| !extra.is_empty()) {
        let shown: Vec<String> = extra.iter().map(|v| format!("{}={}", v.kind(), v.show())).collect();
        out.push_str(&format!("%!(EXTRA {})", shown.join(", ")));
    }
    (out.len() <= limit).then_some(out)
}

impl Verb {
    fn show(&self, letter: char, value: &Value) -> String {
        let cut = |text: &str| match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let (text, is_number) = match (letter, value) {
            ('v' | 's', Value::Text(text)) => (cut(text), false),
            ('q', Value::Text(text)) => (quote(&cut(text)), false),
            ('x', Value::Text(text)) => (text.bytes().map(|b| format!("{b:02x}")).collect(), false),
            ('X', Value::Text(text)) => (text.bytes().map(|b| format!("{b:02X}")).collect(), false),
            ('d' | 'v', Value::Int(number)) => (self.signed(*number < 0, number.unsigned_abs().to_string()), true),
            ('x', Value::Int(number)) => (format!("{number:x}"), true),
            ('X', Value::Int(number)) => (format!("{number:X}"), true),
            ('o', Value::Int(number)) => (format!("{number:o}"), true),
            ('b', Value::Int(number)) => (format!("{number:b}"), true),
            ('c', Value::Int(number)) => {
                let c = u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                (c.to_string(), false)
            }
            ('f' | 'F', Value::Float(number)) => {
                let digits = format!("{:.*}", self.precision.unwrap_or(6), number.abs());
                (self.signed(number.is_sign_negative(), digits), true)
            }
            ('e', Value::Float(number)) => {
                let text = format!("{:.*e}", self.precision.unwrap_or(6), number);
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                let sign = if exponent < 0 { '-' } else { '+' };
                (format!("{digits}e{sign}{:02}", exponent.abs()), true)
            }
            ('g' | 'v', Value::Float(number)) => (show_float(*number), true),
            ('t' | 'v', Value::Bool(value)) => (value.to_string(), false),
            ('T', value) => (value.kind().to_owned(), false),
            ('v' | 's', value @ (Value::List(_) | Value::Map(_) | Value::Time(_) | Value::Labels)) => {
                (value.show(), false)
            }
            ('v', Value::Nil) => ("<nil>".to_owned(), false),
            (letter, Value::Nil) => (format!("%!{letter}(<nil>)"), false),
            (letter, value) => (format!("%!{letter}({}={})", value.kind(), value.show()), false),
        };
        self.pad(text, is_number)
    }

    fn signed(&self, negative: bool, digits: String) -> String {
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
        if self.zero && is_number {
            let (sign, digits) = match text.strip_prefix(['-', '+', ' ']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text.as_str()),
            };
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        " ".repeat(missing) + &text
    }
}
