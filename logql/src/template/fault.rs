//! Why a template can't be compiled.
//!
//! Touches nothing.

/// Why a template can't be compiled.
#[derive(Debug, PartialEq)]
pub(crate) enum TemplateFault {
    /// The text is wrong.
    Wrong(String),
    /// A function that is not built.
    NotYet(&'static str),
}
