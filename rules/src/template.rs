//! Templates of labels and annotations: `{{ $labels.NAME }}` and `{{ $value }}`, everything else refused by name.
//!
//! In: the text of a template, then a series' labels and value. Out: checked pieces, then text. Touches nothing.
//! The grammar decides first and what it does not know never reaches rendering, so that no Go template renders wrongly;
//! two kinds of pieces need no template engine. Rendering fails only by size; the caller then shows [`Template::source`].

use nom::branch::alt;
use nom::bytes::complete::{tag, take_until, take_while, take_while1};
use nom::combinator::{map, opt, recognize, rest};
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

use millrace_log::alert::LabelSet;
use millrace_log::go;

/// Bytes that one rendered text may have: Alertmanager's receivers cut far earlier.
pub const MAX_RENDERED_BYTES: usize = 64 * 1024;

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Label(String),
    Value,
}

/// What a template may not hold, and at which byte of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateFault {
    /// Byte in the template.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// Why a checked template could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The values make it too long.
    #[error("the text grows beyond {MAX_RENDERED_BYTES} bytes")]
    TooLong,
}

impl Template {
    /// Checks a text. All faults are told, in order.
    pub fn parse(source: &str) -> Result<Self, Vec<TemplateFault>> {
        let mut pieces = Vec::new();
        let mut faults = Vec::new();
        let mut left = source;
        while !left.is_empty() {
            let at = source.len() - left.len();
            left = match piece(left) {
                Ok((after, TemplatePart::Piece(piece))) => {
                    pieces.push(piece);
                    after
                }
                Ok((after, TemplatePart::Foreign(inside))) => {
                    faults.push(refused(at, inside));
                    after
                }
                Err(_) => {
                    faults.push(TemplateFault {
                        offset: at,
                        message: "`{{` is never closed".into(),
                        hint: "close it with `}}`".into(),
                    });
                    ""
                }
            };
        }
        if faults.is_empty() { Ok(Self { source: source.to_owned(), pieces }) } else { Err(faults) }
    }

    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Puts in the labels and value of one series; a label that it does not have is empty, as in Prometheus.
    pub fn render(&self, labels: &LabelSet, value: f64) -> Result<String, RenderError> {
        let mut text = String::with_capacity(self.source.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Label(name) => text.push_str(labels.get(name).map_or("", String::as_str)),
                Piece::Value => text.push_str(&go::float(value)),
            }
            if text.len() > MAX_RENDERED_BYTES {
                return Err(RenderError::TooLong);
            }
        }
        Ok(text)
    }
}

enum TemplatePart<'a> {
    Piece(Piece),
    /// An action of Go's that this grammar does not take: the text between the braces.
    Foreign(&'a str),
}

fn piece(input: &str) -> IResult<&str, TemplatePart<'_>> {
    alt((
        map(action, TemplatePart::Piece),
        map(delimited(tag("{{"), take_until("}}"), tag("}}")), TemplatePart::Foreign),
        map(text, |text: &str| TemplatePart::Piece(Piece::Text(text.to_owned()))),
    ))
    .parse(input)
}

fn action(input: &str) -> IResult<&str, Piece> {
    let name = recognize((take_while1(|c: char| c.is_ascii_alphabetic() || c == '_'), take_while(is_name)));
    let inside = alt((
        map(preceded(tag("$labels."), name), |name: &str| Piece::Label(name.to_owned())),
        map(tag("$value"), |_| Piece::Value),
    ));
    delimited((tag("{{"), blanks), inside, (blanks, tag("}}"))).parse(input)
}

fn text(input: &str) -> IResult<&str, &str> {
    let (_, braces) = opt(tag("{{")).parse(input)?;
    if braces.is_some() {
        return Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::TakeUntil)));
    }
    alt((take_until("{{"), rest)).parse(input)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn blanks(input: &str) -> IResult<&str, &str> {
    take_while(|c: char| matches!(c, ' ' | '\t' | '\r' | '\n'))(input)
}

fn refused(offset: usize, inside: &str) -> TemplateFault {
    let words = inside.trim().trim_matches('-').trim();
    let shown: String = words.chars().take(40).collect();
    let first = words.split([' ', '\t', '(']).next().unwrap_or_default();
    let what = match first {
        "if" | "else" | "end" | "range" | "with" | "define" | "template" | "block" | "break" | "continue" => {
            format!("`{first}` of Go templates")
        }
        _ if words.is_empty() => "an empty action".to_owned(),
        _ if inside.starts_with('-') || inside.ends_with('-') => "trimming of blanks (`{{-`, `-}}`)".to_owned(),
        _ if words.starts_with("/*") => "a comment".to_owned(),
        _ if words.contains('|') => "a pipe".to_owned(),
        _ if words.starts_with('.') => "a field that begins with a dot".to_owned(),
        _ if words.contains(":=") => "a variable of its own".to_owned(),
        _ if words.starts_with("$externalLabels") || words.starts_with("$externalURL") => format!("`{first}`"),
        _ if words.starts_with('$') => format!("`{shown}`"),
        _ => format!("the function `{first}`"),
    };
    let hint = match words {
        ".Value" | "$Value" | "value" => "write `{{ $value }}`".to_owned(),
        "$labels" => "name one label, as in `{{ $labels.service }}`".to_owned(),
        _ => match words.strip_prefix(".Labels.").or_else(|| words.strip_prefix("labels.")) {
            Some(name) if !name.is_empty() && name.chars().all(is_name) => format!("write `{{{{ $labels.{name} }}}}`"),
            _ => "templates take `{{ $labels.NAME }}` and `{{ $value }}`".to_owned(),
        },
    };
    TemplateFault { offset, message: format!("template syntax is not supported: {what}"), hint }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> LabelSet {
        [("service", "checkout"), ("region", "eu-west-1")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn labels_and_value_are_put_in() {
        for (source, want) in [
            ("plain } text {", "plain } text {"),
            ("{{ $labels.service }} in {{$labels.region}}: {{\t$value }}/s", "checkout in eu-west-1: 2.5/s"),
            ("{{ $labels.none }}|", "|"),
            ("", ""),
            ("größe {{ $value }} ✓", "größe 2.5 ✓"),
        ] {
            assert_eq!(Template::parse(source).expect(source).render(&labels(), 2.5).expect("short"), want, "{source}");
        }
    }

    #[test]
    fn every_other_syntax_is_refused_with_its_place() {
        let list: Vec<String> = [
            "{{ $value | humanize }}",
            "a {{ if gt $value 5.0 }}b{{ end }}",
            "{{ .Value }}",
            "{{ .Labels.service }}",
            "{{ printf \"%.2f\" $value }}",
            "{{- $value -}}",
            "{{ $labels }}",
            "{{ $labels.bad-name }}",
            "{{ with $x := 1 }}",
            "{{}}",
            "{{/* note */}}",
            "{{ $externalURL }}",
            "open {{ $value",
            "{{ $value }",
            "{{ $values }}",
        ]
        .iter()
        .flat_map(|source| {
            let faults = Template::parse(source).expect_err(source);
            faults.into_iter().map(move |f| format!("{source} @{}: {} ({})", f.offset, f.message, f.hint))
        })
        .collect();
        insta::assert_snapshot!(list.join("\n"));
    }

    #[test]
    fn a_text_that_grows_too_long_is_an_error() {
        let template = Template::parse("{{ $labels.x }}").expect("good");
        let labels = LabelSet::from([("x".to_owned(), "y".repeat(MAX_RENDERED_BYTES + 1))]);
        assert_eq!(template.render(&labels, 0.0), Err(RenderError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_text_without_braces_is_kept(source in "\\PC*") {
            if let Ok(template) = Template::parse(&source)
                && !source.contains("{{")
            {
                prop_assert_eq!(template.render(&LabelSet::new(), 1.0).expect("short"), source);
            }
        }

        #[test]
        fn braces_in_any_order_never_panic(source in "[{}$a-z. \\n-]{0,60}") {
            Template::parse(&source).ok();
        }
    }
}
