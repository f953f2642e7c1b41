//! The translation of a tree to a handlebars template: blocks and calls of our helpers, each with the number of the step that it takes.
//!
//! In: a tree. Out: a [`Unit`]. Touches nothing. Neither text nor keywords of the Go template reach handlebars: they stand in the steps.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::fault::Fault;
use crate::tree::{Node, Pipe, Tree};

/// What a helper does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Text(Arc<str>),
    /// Of an action, `if`, `range`, `with`.
    Pipe(Pipe),
    /// Of `template`.
    Call {
        at: usize,
        name: Arc<str>,
        pipe: Option<Pipe>,
    },
}

/// A text that was read and translated.
pub(crate) struct Unit {
    /// File it came from; empty: a field.
    pub name: Arc<str>,
    pub source: Arc<str>,
    pub steps: Vec<Step>,
    /// The text itself.
    pub main: handlebars::Template,
    /// The templates that it defines.
    pub defines: HashMap<Arc<str>, handlebars::Template>,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Translates a tree.
pub(crate) fn translate(name: &str, source: &str, tree: &Tree) -> Result<Unit, Fault> {
    let mut steps = Vec::new();
    let main = template(&tree.nodes, &mut steps, source, 0)?;
    let mut defines = HashMap::new();
    for define in &tree.defines {
        let body = template(&define.nodes, &mut steps, source, define.at)?;
        // As in Go, an empty one does not replace one that has a body.
        let is_empty = define.nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()));
        if !(is_empty && defines.contains_key(&define.name)) {
            defines.insert(define.name.clone(), body);
        }
    }
    // As in Alertmanager, what stands outside of `define` in a file is a template by the file's name.
    let is_blank = tree.nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()));
    if let Some(file) = name.rsplit(['/', '\\']).next().filter(|file| !file.is_empty() && !is_blank) {
        defines.entry(file.into()).or_insert_with(|| main.clone());
    }
    Ok(Unit { name: name.into(), source: source.into(), steps, main, defines })
}

fn template(nodes: &[Node], steps: &mut Vec<Step>, source: &str, at: usize) -> Result<handlebars::Template, Fault> {
    let mut text = String::new();
    write_nodes(nodes, steps, &mut text);
    handlebars::Template::compile(&text).map_err(|error| {
        Fault::at(source, at, format!("the template can't be translated: {error}"), "report this as a bug")
    })
}

fn write_nodes(nodes: &[Node], steps: &mut Vec<Step>, out: &mut String) {
    for node in nodes {
        let (helper, step, bodies) = match node {
            Node::Text(text) => ("go:text", Some(Step::Text(text.clone())), None),
            Node::Action(pipe) => ("go:show", Some(Step::Pipe(pipe.clone())), None),
            Node::Break => ("go:leave", None, None),
            Node::Continue => ("go:next", None, None),
            Node::Call { at, name, pipe } => {
                ("go:run", Some(Step::Call { at: *at, name: name.clone(), pipe: pipe.clone() }), None)
            }
            Node::If(branch) => ("go:when", Some(Step::Pipe(branch.pipe.clone())), Some(branch)),
            Node::Range(branch) => ("go:items", Some(Step::Pipe(branch.pipe.clone())), Some(branch)),
            Node::With(branch) => ("go:inner", Some(Step::Pipe(branch.pipe.clone())), Some(branch)),
        };
        let number = steps.len();
        steps.extend(step);
        // Writing to a String can't fail.
        match bodies {
            None => write!(out, "{{{{{helper} {number}}}}}").ok(),
            Some(branch) => {
                write!(out, "{{{{#{helper} {number}}}}}").ok();
                write_nodes(&branch.body, steps, out);
                if !branch.otherwise.is_empty() {
                    out.push_str("{{else}}");
                    write_nodes(&branch.otherwise, steps, out);
                }
                write!(out, "{{{{/{helper}}}}}").ok()
            }
        };
    }
}

/// Templates that a unit calls: names and places.
pub(crate) fn calls(unit: &Unit) -> impl Iterator<Item = (&Arc<str>, usize)> {
    unit.steps.iter().filter_map(|step| match step {
        Step::Call { at, name, .. } => Some((name, *at)),
        _ => None,
    })
}
