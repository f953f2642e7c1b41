//! What is wrong with a template: when it is read, and when it is rendered.
//!
//! In: a text and a place in it. Out: faults with line and column. Touches nothing.

/// Why a template can't be used, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Fault {
    /// Byte in the text.
    pub offset: usize,
    /// Line, from 1.
    pub line: usize,
    /// Character of the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Fault {
    /// A fault at a byte of a text.
    pub fn at(text: &str, offset: usize, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (line, column) = place(text, offset);
        Self { offset, line, column, message: message.into(), hint: hint.into() }
    }
}

/// Line and column of a byte, both from 1.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Why a template that was read well could not be rendered with these values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// An action failed.
    #[error("{}line {line}, column {column}: {message}", named(template))]
    Failed {
        /// Name of the template; empty: the text itself.
        template: String,
        /// Line, from 1.
        line: usize,
        /// Character of the line, from 1.
        column: usize,
        /// What failed.
        message: String,
    },
    /// The values make the text too long.
    #[error("the text grows beyond {limit} bytes")]
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// Loops and functions do more than one rendering may.
    #[error("the template takes too much work: use fewer loops and shorter texts")]
    TooMuchWork,
    /// Templates and blocks are inside one another too deeply when they run.
    #[error("templates call one another deeper than {limit} levels")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
}

fn named(template: &str) -> String {
    if template.is_empty() { String::new() } else { format!("template `{template}`, ") }
}
