//! What the search box says: LogQL, or words that are looked for in the lines of all streams.
//!
//! In: the text of the box. Out: the query that is run, and the texts to highlight in its lines. Touches nothing.

use std::sync::Arc;

use millrace_logql::Expr;
use millrace_logql::syntax::quantity::quote;
use millrace_logql::syntax::tree::{LineOp, StageKind};

/// A query as it is run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// LogQL.
    pub text: String,
    /// The same as a tree; `None` if nothing was asked.
    pub expr: Option<Arc<Expr>>,
    /// The box has words, not LogQL.
    pub is_words: bool,
    /// What lines of the answer contain.
    pub marks: Vec<String>,
}

impl Asked {
    /// Reads the box; the error says what is wrong with its LogQL.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let is_words = is_words(text);
        let logql = if is_words { words(text) } else { text.to_owned() };
        match millrace_logql::parse_any_stream(&logql) {
            Ok(expr) => Ok(Self { marks: marks(&expr), text: logql, expr: Some(Arc::new(expr)), is_words }),
            Err(error) if text.starts_with('{') => Err(error.to_string()),
            Err(error) => Err(format!("{error}\n\nTo search for this exact text, write {}", words(text))),
        }
    }

    /// The same for live tail, which has no use for numbers.
    pub fn into_tail(self) -> Result<Self, String> {
        match self.expr.as_deref() {
            Some(Expr::Log(_)) => Ok(self),
            None => Err("enter a query in the search box first".to_owned()),
            Some(_) => Err("live tail follows lines: write a log query such as {service=\"checkout\"}".to_owned()),
        }
    }
}

/// LogQL that reads anything has a selector; `{"` begins a JSON object in a line, never a selector.
fn is_words(text: &str) -> bool {
    !text.contains('{') || text.starts_with("{\"")
}

/// A line filter over all streams.
fn words(text: &str) -> String {
    format!("{{}} |= {}", quote(text))
}

/// Texts of `|=`.
fn marks(expr: &Expr) -> Vec<String> {
    let Expr::Log(log) = expr else { return Vec::new() };
    let filters = log.stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::LineFilter(filter) if filter.op == LineOp::Contains => Some(&filter.needles),
        _ => None,
    });
    filters.flatten().filter(|needle| !needle.ip && !needle.value.is_empty()).map(|n| n.value.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_alone_search_the_text_of_all_streams() {
        for (text, want) in [
            ("timeout", r#"{} |= "timeout""#),
            ("  connection refused ", r#"{} |= "connection refused""#),
            ("503", r#"{} |= "503""#),
            ("1 + 1", r#"{} |= "1 + 1""#),
            ("rate(x)", r#"{} |= "rate(x)""#),
            (r#"say "no" \ or `yes`"#, r#"{} |= "say \"no\" \\ or `yes`""#),
            (r#"{"level":"error"}"#, r#"{} |= "{\"level\":\"error\"}""#),
            ("größer", r#"{} |= "größer""#),
            (r#"{app="a"} |= "x""#, r#"{app="a"} |= "x""#),
            ("{}", "{}"),
            (r#"sum(rate({app="a"}[1m]))"#, r#"sum(rate({app="a"}[1m]))"#),
        ] {
            let asked = Asked::read(text).unwrap();
            assert_eq!(asked.text, want, "{text}");
            assert_eq!(asked.is_words, want.starts_with("{} "), "{text}");
        }
        assert_eq!(Asked::read("timeout").unwrap().marks, ["timeout"]);
        assert_eq!(Asked::read(r#"{a="b"} |= "x" != "y" |= "z" or "w" |~ "q""#).unwrap().marks, ["x", "z", "w"]);
        assert_eq!(Asked::read(" ").unwrap(), Asked::default());
    }

    #[test]
    fn broken_logql_is_an_error_with_its_place() {
        let error = Asked::read(r#"{app="a" |= "x""#).unwrap_err();
        assert!(error.contains("expected"), "{error}");
        let error = Asked::read("panic: {code: 5}").unwrap_err();
        assert!(error.contains(r#"write {} |= "panic: {code: 5}""#), "{error}");
        let error = Asked::read(r#"sum(rate({app="a"}[1m]))"#).unwrap().into_tail().unwrap_err();
        assert!(error.contains("log query"), "{error}");
        assert!(Asked::default().into_tail().is_err());
    }
}
