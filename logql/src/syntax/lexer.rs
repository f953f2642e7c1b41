//! Text to tokens.
//!
//! In: a query's text. Out: its tokens with their spans, an end mark last. Touches nothing.
//! Words are not sorted into names and keywords here: that depends on what follows (see `grammar.rs`).

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_while, take_while1};
use nom::character::complete::{char, digit0, digit1, one_of, satisfy};
use nom::combinator::{opt, value};
use nom::multi::many0_count;
use nom::{IResult, Parser};

use super::error::ParseError;
use super::quantity;
use super::tree::Span;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub enum Token<'a> {
    /// A name or a keyword.
    Word(&'a str),
    /// A quoted text, unescaped.
    Text(String),
    /// A number as written.
    Number(&'a str),
    /// A duration in nanoseconds.
    Duration(i64),
    /// A size in bytes.
    Bytes(u64),
    /// `[5m]` in nanoseconds.
    Range(i64),
    /// `--strict` or `--keep-empty`.
    Flag(&'static str),
    /// An operator or a mark.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

/// A token and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned<'a> {
    /// What it is.
    pub token: Token<'a>,
    /// Where it stands.
    pub span: Span,
}

/// Longer ones first.
const SYMBOLS: [&str; 30] = [
    "|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=", "{", "}", "(", ")", "[", "]", ",", ".", "=", "|", "+",
    "-", "*", "/", "%", "^", "<", ">", ":", "!",
];

const FLAGS: [&str; 2] = ["--keep-empty", "--strict"];

type Lexed<'a, T> = IResult<&'a str, T>;

/// What a parser takes, by length: nom's `recognize` compares pointers, and some parsers of nom 8 return an empty rest
/// that points to the start.
fn taken<'a, O>(
    mut parser: impl Parser<&'a str, Output = O, Error = nom::error::Error<&'a str>>,
) -> impl FnMut(&'a str) -> Lexed<'a, &'a str> {
    move |input| {
        let (rest, _) = parser.parse(input)?;
        let (text, rest) = input.split_at(input.len() - rest.len());
        Ok((rest, text))
    }
}

fn blanks_and_comments(input: &str) -> Lexed<'_, &str> {
    let blanks = value((), take_while1(char::is_whitespace));
    let comment = value((), (char('#'), take_till(|c| c == '\n')));
    taken(many0_count(alt((blanks, comment))))(input)
}

fn word(input: &str) -> Lexed<'_, &str> {
    let start = satisfy(|c| c.is_alphabetic() || c == '_');
    taken((start, take_while(|c: char| c.is_alphanumeric() || c == '_')))(input)
}

fn number(input: &str) -> Lexed<'_, &str> {
    let radix = value((), (char('0'), one_of("xXbBoO"), take_while1(|c: char| c.is_ascii_hexdigit())));
    let whole = value((), (digit1, opt((char('.'), digit0))));
    let part = value((), (char('.'), digit1));
    let exponent = opt((one_of("eE"), opt(one_of("+-")), digit1));
    taken(alt((radix, value((), (alt((whole, part)), exponent)))))(input)
}

/// Reads on behind `start` bytes as long as the characters may belong to a number with a unit.
fn with_unit<T>(
    input: &str,
    start: usize,
    unit: impl Fn(char) -> bool,
    read: impl Fn(&str) -> Option<T>,
) -> Option<(&str, T)> {
    let (_, behind) = input.split_at_checked(start)?;
    let (rest, more) = take_while::<_, &str, nom::error::Error<&str>>(|c: char| c.is_numeric() || c == '.' || unit(c))
        .parse(behind)
        .ok()?;
    if more.is_empty() {
        return None;
    }
    let text = input.get(..start + more.len())?;
    Some((rest, read(text)?))
}

fn is_duration_unit(c: char) -> bool {
    matches!(c, 'n' | 'u' | 'µ' | 'm' | 's' | 'h' | 'd' | 'w' | 'y')
}

/// `-0` is a number.
fn negative_duration(text: &str) -> Option<i64> {
    if text.ends_with(|c: char| c.is_numeric()) { None } else { quantity::duration_signed(text) }
}

fn is_size_unit(c: char) -> bool {
    matches!(c, 'B' | 'i' | 'k' | 'K' | 'M' | 'G' | 'T' | 'P')
}

/// Splits a text into tokens.
pub fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, ParseError> {
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        rest = blanks_and_comments(rest).map_or(rest, |(behind, _)| behind);
        let start = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            all.push(Spanned { token: Token::End, span: span(start, start) });
            return Ok(all);
        };
        let fault = |from: usize, length: usize, message: String| {
            Err(ParseError::at(text, span(start + from, start + from + length), message))
        };
        let (token, behind) = match first {
            '"' => match unquote(rest) {
                Ok((value, behind)) => (Token::Text(value), behind),
                Err((at, message)) => return fault(at, 1, message),
            },
            '`' => match rest.get(1..).and_then(|r| r.split_once('`')) {
                Some((value, behind)) => (Token::Text(value.replace('\r', "")), behind),
                None => return fault(0, 1, "this text has no closing backquote".to_owned()),
            },
            '[' => match rest.get(1..).and_then(|r| r.split_once(']')) {
                Some((inside, behind)) => match quantity::prometheus_duration(inside) {
                    Some(0) => {
                        return fault(0, inside.len() + 2, "a range can't be empty: write it like `[5m]`".to_owned());
                    }
                    Some(ns) => (Token::Range(ns), behind),
                    None => {
                        let message = format!(
                            "not a valid duration string: {}: write the range like `[5m]`, `[1h30m]` or `[500ms]`",
                            quantity::quote(inside)
                        );
                        return fault(0, inside.len() + 2, message);
                    }
                },
                None => return fault(0, 1, "missing closing `]` of the range".to_owned()),
            },
            '-' if FLAGS.iter().any(|flag| rest.starts_with(flag)) => {
                let flag = FLAGS.into_iter().find(|flag| rest.starts_with(flag)).unwrap_or("--strict");
                (Token::Flag(flag), rest.get(flag.len()..).unwrap_or_default())
            }
            '-' => match with_unit(rest, 1, is_duration_unit, negative_duration) {
                Some((behind, ns)) => (Token::Duration(ns), behind),
                None => symbol(rest).unwrap_or((Token::End, rest)),
            },
            _ => match number(rest) {
                Ok((behind, digits)) => {
                    if let Some((behind, ns)) = with_unit(rest, digits.len(), is_duration_unit, quantity::duration) {
                        (Token::Duration(ns), behind)
                    } else if let Some((behind, size)) = with_unit(rest, digits.len(), is_size_unit, quantity::bytes) {
                        (Token::Bytes(size), behind)
                    } else {
                        (Token::Number(digits), behind)
                    }
                }
                Err(_) => match word(rest) {
                    Ok((behind, word)) => (Token::Word(word), behind),
                    Err(_) => match symbol(rest) {
                        Some(found) => found,
                        None => {
                            return fault(0, first.len_utf8(), format!("unexpected character {first:?}"));
                        }
                    },
                },
            },
        };
        all.push(Spanned { token, span: span(start, text.len() - behind.len()) });
        rest = behind;
    }
}

fn symbol(input: &str) -> Option<(Token<'_>, &str)> {
    SYMBOLS.iter().find_map(|symbol| {
        let found: Lexed<'_, &'static str> = value(*symbol, tag(*symbol)).parse(input);
        found.ok().map(|(rest, symbol)| (Token::Symbol(symbol), rest))
    })
}

fn span(start: usize, end: usize) -> Span {
    Span { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
}

/// Reads a text in double quotes with Go's escapes. On failure: the byte of `input` and what is wrong.
pub(crate) fn unquote(input: &str) -> Result<(String, &str), (usize, String)> {
    let mut value: Vec<u8> = Vec::new();
    let mut chars = input.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let text = String::from_utf8(value)
                    .map_err(|_| (0, "the escapes of this text give invalid UTF-8".to_owned()))?;
                return Ok((text, input.get(at + 1..).unwrap_or_default()));
            }
            '\n' => break,
            '\\' => {
                let Some((_, escape)) = chars.next() else { break };
                let byte = match escape {
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 11,
                    '\\' => b'\\',
                    '"' => b'"',
                    'x' | 'u' | 'U' | '0'..='7' => {
                        let (count, radix) = match escape {
                            'x' => (2, 16),
                            'u' => (4, 16),
                            'U' => (8, 16),
                            _ => (2, 8),
                        };
                        let mut code = if radix == 8 { escape.to_digit(8).unwrap_or(0) } else { 0 };
                        for _ in 0..count {
                            let digit = chars.next().and_then(|(_, c)| c.to_digit(radix));
                            let digit = digit.ok_or((at, "invalid char escape".to_owned()))?;
                            code = code.wrapping_mul(radix).wrapping_add(digit);
                        }
                        if matches!(escape, 'u' | 'U') {
                            let c = char::from_u32(code).ok_or((at, "invalid char escape".to_owned()))?;
                            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        u8::try_from(code).map_err(|_| (at, "invalid char escape".to_owned()))?
                    }
                    other => {
                        let hint = format!(
                            "invalid char escape `\\{other}`: write `\\\\{other}`, or put the text in backquotes"
                        );
                        return Err((at, hint));
                    }
                };
                value.push(byte);
            }
            c => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err((0, "literal not terminated: this text has no closing quote".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Token<'_>> {
        tokens(text).unwrap().into_iter().map(|t| t.token).collect()
    }

    #[test]
    fn numbers_take_their_units() {
        for (text, want) in [
            ("5m", Token::Duration(300_000_000_000)),
            ("-5m", Token::Duration(-300_000_000_000)),
            ("1.5s", Token::Duration(1_500_000_000)),
            ("12KiB", Token::Bytes(12_288)),
            ("77000B", Token::Bytes(77_000)),
            ("1e3", Token::Number("1e3")),
            (".5", Token::Number(".5")),
            ("100834354.0625", Token::Number("100834354.0625")),
            ("1e-05", Token::Number("1e-05")),
            ("[5m]", Token::Range(300_000_000_000)),
            ("--strict", Token::Flag("--strict")),
            ("équipe", Token::Word("équipe")),
            (r#""a\n\u00e9\x41\101""#, Token::Text("a\néAA".to_owned())),
            (r"`a\n`", Token::Text("a\\n".to_owned())),
        ] {
            assert_eq!(kinds(text), [want, Token::End], "{text}");
        }
        assert_eq!(kinds("5ZB"), [Token::Number("5"), Token::Word("ZB"), Token::End]);
        assert_eq!(kinds("a# b\n|"), [Token::Word("a"), Token::Symbol("|"), Token::End]);
    }

    #[test]
    fn faults_name_their_place() {
        for (text, column, want) in [
            (r#""abc"#, 1, "literal not terminated"),
            (r#"a "\z""#, 4, "invalid char escape"),
            ("[5x]", 1, "not a valid duration string"),
            ("[0s]", 1, "can't be empty"),
            ("[5m", 1, "missing closing `]`"),
            ("a §", 3, "unexpected character '§'"),
        ] {
            let error = tokens(text).unwrap_err();
            assert_eq!(error.column, column, "{text}");
            assert!(error.message.contains(want), "{error}");
        }
    }
}
