//! Labels: the names and values that make a stream, and structured metadata.
//!
//! In: pairs, or JSON of the header `labels`. Out: sorted pairs, checked against the bounds of a stream. Touches nothing.

use std::fmt;
use std::sync::Arc;

use super::error::RecordError;
use super::layout::{HEADER_LABELS, MAX_LABEL_BYTES, MAX_LABELS};

/// Names and values that make a stream: sorted by name, names unique. Cheap to clone; made once per stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels(Arc<[(String, String)]>);

impl Labels {
    /// Sorts; the last of equal names wins; empty values are left out, as Loki and Prometheus do.
    /// Checks nothing else: see [`Labels::check`].
    pub fn new<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let sorted: std::collections::BTreeMap<String, String> =
            pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Self(sorted.into_iter().filter(|(_, v)| !v.is_empty()).collect())
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let i = self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.0[i].1)
    }

    /// All pairs in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// All pairs in the order of their names.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The set itself, shared.
    pub fn shared(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.0)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy with a pair added or replaced.
    pub fn with(&self, name: &str, value: &str) -> Self {
        Self::new(self.iter().chain([(name, value)]))
    }

    /// Whether the bounds hold: at most [`MAX_LABELS`] names, [`MAX_LABEL_BYTES`] bytes, names like `[a-zA-Z_][a-zA-Z0-9_]*`.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.len() > MAX_LABELS {
            return Err(RecordError::TooManyLabels { count: self.len() });
        }
        let bytes: usize = self.iter().map(|(n, v)| n.len() + v.len()).sum();
        if bytes > MAX_LABEL_BYTES {
            return Err(RecordError::LabelsTooLong { bytes });
        }
        match self.iter().find(|(n, _)| !is_label_name(n)) {
            Some((name, _)) => Err(RecordError::LabelName { name: name.to_owned() }),
            None => Ok(()),
        }
    }

    /// Compact JSON object, names sorted: the content of the header `labels` and the identity of a stream.
    pub fn to_json(&self) -> String {
        pairs_to_json(self.iter())
    }

    /// Reads what [`Labels::to_json`] writes; any JSON object of strings is taken.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        let pairs: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(json).map_err(|source| RecordError::Json { header: HEADER_LABELS, source })?;
        Ok(Self::new(pairs))
    }
}

/// Loki's and Prometheus's form of the labels: `{app="api", env="prod"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a label may be named so: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn pairs_to_json<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut json = String::from("{");
    for (i, (name, value)) in pairs.enumerate() {
        if i > 0 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(name).to_string());
        json.push(':');
        json.push_str(&serde_json::Value::from(value).to_string());
    }
    json.push('}');
    json
}
