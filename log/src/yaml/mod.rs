//! YAML files for people: a tree whose every node knows its line and column, and faults with place, caret and hint.
//!
//! In: the text of a file (configuration, rule files, `alertmanager.yml`, configurations of other programs). Out: a
//! [`Node`] tree; typed values read from it through a [`Document`]; every [`LocatedFault`] at once. Touches nothing.
//! Leaves the meaning of keys to those who read the tree.

/// Where a value stands.
mod place;
/// One thing wrong, with its place.
mod fault;
/// Suggestions for misspelt words.
mod suggest;
/// From a character of a value to its place in the file.
mod written;
/// Nodes, and finding one by its path.
mod tree;
/// Values out of a tree without a check.
mod values;
/// Text to tree.
mod parse;
/// A file being read: typed values, and all its faults.
mod document;

pub use document::{Document, Fields};
pub use fault::LocatedFault;
pub use parse::{MoreDocuments, parse, parse_with_aliases};
pub use place::Place;
pub use suggest::nearest;
pub use tree::{MapEntry, Node, Value};
