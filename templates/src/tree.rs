//! The tree of a Go template.
//!
//! Touches nothing.

use std::sync::Arc;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// As it is.
    Text(Arc<str>),
    /// `{{ … }}`
    Action(Pipe),
    /// `{{ if … }}`; `else if` is an `if` in `otherwise`.
    If(Branch),
    /// `{{ range … }}`
    Range(Branch),
    /// `{{ with … }}`
    With(Branch),
    /// `{{ break }}`
    Break,
    /// `{{ continue }}`
    Continue,
    /// `{{ template "name" … }}`
    Call { at: usize, name: Arc<str>, pipe: Option<Pipe> },
}

/// A condition or list with what hangs on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Branch {
    pub pipe: Pipe,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// Commands whose results go to the next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pipe {
    /// Byte of its start.
    pub at: usize,
    /// Variables that it sets.
    pub names: Vec<Arc<str>>,
    /// They exist already (`=`).
    pub assigns: bool,
    /// At least one.
    pub commands: Vec<Command>,
}

/// A function or method with its arguments, or a value. At least one operand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command {
    pub operands: Vec<Operand>,
}

/// A value in a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand {
    /// Byte of its start.
    pub at: usize,
    pub kind: OperandKind,
    /// `.a.b` behind it.
    pub fields: Vec<Arc<str>>,
}

/// What an operand begins with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OperandKind {
    /// `.`, also of `.a.b`.
    Dot,
    /// `$name`; `$` is what the template was called with.
    Variable(Arc<str>),
    Text(Arc<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    /// Name of a function.
    Function(Arc<str>),
    /// `( … )`
    Pipe(Box<Pipe>),
}

/// A template by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Define {
    pub name: Arc<str>,
    /// Byte of its `define` or `block`.
    pub at: usize,
    pub nodes: Vec<Node>,
}

/// A text that was read: its own nodes, and the templates that it defines.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Tree {
    pub nodes: Vec<Node>,
    pub defines: Vec<Define>,
}
