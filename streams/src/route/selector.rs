//! Which records a route takes: label matchers in LogQL's form, on the header `labels`.
//!
//! In: text; the bytes of a header. Out: a verdict, and the labels without those that are dropped. Touches nothing.

use std::sync::Arc;

use millrace_log::record::Labels;
use millrace_logql::storage::LabelMatcher;

/// Why a `match` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// Not LogQL.
    #[error(
        "invalid stream selector `{text}`, expected one such as {{service=\"checkout\", level=~\"error|warn\"}}: {reason}"
    )]
    Syntax {
        /// As written.
        text: String,
        /// What the grammar says.
        reason: String,
    },
}

/// Matchers that must all agree; none: everything agrees.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    matchers: Vec<LabelMatcher>,
}

impl Selector {
    /// Reads `{service="checkout", level=~"error|warn"}`; an empty text or `{}` takes everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if bare.is_empty() || bare == "{}" {
            return Ok(Self::default());
        }
        let fault = |reason: String| SelectorError::Syntax { text: text.to_owned(), reason };
        // A query would ask for one matcher that is not open; a route may well say `{level!="debug"}`.
        let selector = millrace_logql::syntax::parse_selector(text).map_err(|error| fault(error.to_string()))?;
        let compiled = selector.matchers.into_iter().map(|m| LabelMatcher::new(m.name, m.op, m.value));
        let matchers = compiled.collect::<Result<Vec<_>, _>>().map_err(|error| fault(error.to_string()))?;
        Ok(Self { matchers })
    }

    /// Whether it takes everything.
    pub fn is_open(&self) -> bool {
        self.matchers.is_empty()
    }

    /// Whether labels agree.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or("")))
    }

    /// The same on the header's bytes; a record without readable labels has none.
    pub fn matches_header(&self, header: Option<&[u8]>) -> bool {
        self.is_open() || self.matches(&header.and_then(|json| Labels::from_json(json).ok()).unwrap_or_default())
    }
}

/// What one route does with records of one set of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not its records.
    No,
    /// Copies them as they are.
    AsIs,
    /// Copies them with other labels.
    Relabelled(Arc<[u8]>),
}

/// What a route does with a header.
pub(super) fn judge(selector: &Selector, drop_labels: &[String], header: Option<&[u8]>) -> Verdict {
    let labels = header.and_then(|json| Labels::from_json(json).ok());
    let empty = Labels::default();
    if !selector.matches(labels.as_ref().unwrap_or(&empty)) {
        return Verdict::No;
    }
    match labels {
        Some(labels) if drop_labels.iter().any(|name| labels.get(name).is_some()) => {
            let rest = labels.iter().filter(|(name, _)| !drop_labels.iter().any(|dropped| dropped == name));
            Verdict::Relabelled(Labels::new(rest).to_json().into_bytes().into())
        }
        _ => Verdict::AsIs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_matched_as_logql_does() {
        let header = br#"{"level":"error","service":"checkout"}"#;
        for (text, want) in [
            ("", true),
            ("{}", true),
            (r#"{service="checkout"}"#, true),
            (r#"{service="checkout", level=~"error|warn"}"#, true),
            (r#"{service!="checkout"}"#, false),
            (r#"{level=~"err"}"#, false),
            (r#"{service="checkout", pod=""}"#, true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches_header(Some(header)), want, "{text}");
        }
        let checkout = Selector::parse(r#"{service="checkout"}"#).unwrap();
        assert!(!checkout.matches_header(None) && !checkout.matches_header(Some(b"no json")));
        for text in ["checkout", r#"{service="a"} |= "x""#, r#"{service=~"("}"#, "rate({a=\"b\"}[1m])"] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.contains("invalid stream selector"), "{error}");
        }
    }

    #[test]
    fn dropped_labels_leave_the_header() {
        let header = br#"{"pod":"p7","service":"checkout"}"#;
        let pod = ["pod".to_owned()];
        let verdict = judge(&Selector::default(), &pod, Some(header));
        assert_eq!(verdict, Verdict::Relabelled(br#"{"service":"checkout"}"#.as_slice().into()));
        assert_eq!(judge(&Selector::default(), &pod, Some(br#"{"a":"b"}"#)), Verdict::AsIs, "byte for byte");
        assert_eq!(judge(&Selector::default(), &pod, None), Verdict::AsIs);
    }
}
