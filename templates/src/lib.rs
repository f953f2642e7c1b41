//! Templates of rules and notifications: Go's text/template with the functions of Prometheus and Alertmanager, rendered by
//! handlebars, and templates written in handlebars.
//!
//! In: texts, then data. Out: texts, or faults with line, column and cure. Touches nothing: no file, no network, no clock. A text is
//! read (`lex`, `parse`) to a `tree`, translated to a handlebars template whose helpers take numbered steps (`program`), and rendered
//! by the `engine`, bounded in output, work and depth. [`RuleTemplate`] and [`TemplateSet`] are what rules and notifier use.

/// Faults of texts and failures of renderings.
mod fault;
/// The tree of a Go template.
mod tree;
/// Go's literals.
mod literal;
/// Text to tokens.
mod lex;
/// Tokens to the tree.
mod parse;
/// Times and durations.
mod time;
/// Values.
mod value;
/// Values as text, `printf`.
mod show;
/// Values as JSON.
mod json;
/// HTML by place.
mod html;
/// One call of a function.
mod call;
/// Regular expressions of Go.
mod regexes;
/// Go's own functions.
mod functions_go;
/// Alertmanager's functions.
mod functions_text;
/// Prometheus's functions.
mod functions_number;
/// Functions by name.
mod functions;
/// Fields and methods.
mod fields;
/// Tree to handlebars.
mod program;
/// Bounded output.
mod sink;
/// Pipes to values.
mod eval;
/// One rendering.
mod run;
/// Helpers of translated templates.
mod helpers_go;
/// Helpers of templates in handlebars.
mod helpers_native;
/// Rendering by handlebars.
mod engine;
/// Alertmanager's data.
mod data;
/// The default templates.
mod defaults;
/// Templates by name.
mod set;
/// Templates of rules.
mod rule;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use data::{AlertData, Data};
pub use fault::{Fault, RenderError};
pub use functions::Dialect;
pub use rule::{RuleData, RuleTemplate};
pub use set::{Format, Setting, Template, TemplateSet};
