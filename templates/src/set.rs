//! Templates by name, and the texts that use them: compiled once, rendered often.
//!
//! In: template files and texts; then data. Out: texts, or what is wrong. Touches nothing: files are read by the caller.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use crate::call::Around;
use crate::data::Data;
use crate::defaults;
use crate::engine::{self, What};
use crate::eval::{MAX_WORK, State};
use crate::fault::{Fault, RenderError};
use crate::functions::{self, Dialect};
use crate::parse::{Known, parse};
use crate::program::{Unit, calls, translate};
use crate::run::{Body, Library, Run};
use crate::sink::Sink;
use crate::tree::Tree;
use crate::value::Value;

/// Faults of one text that are reported at most.
const MAX_FAULTS: usize = 20;
/// Bytes that a template in handlebars may have: its parser takes more for each than ours.
const MAX_NATIVE: usize = 64 << 10;
/// Blocks inside one another in a template in handlebars at most.
const MAX_NATIVE_DEPTH: usize = 40;

/// A text, compiled.
#[derive(Clone)]
pub struct Template {
    source: Arc<str>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Go(Arc<Unit>),
    Native(Arc<handlebars::Template>),
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Template").field(&self.source).finish()
    }
}

/// The same text is the same template.
impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Template {}

impl Template {
    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Whether values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Text,
    /// As HTML, by their place in the document.
    Html,
}

/// What one rendering is given beside its data.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Bytes that the text may have.
    pub limit: usize,
    /// The wall clock, ns since 1970.
    pub now_ns: i64,
    /// Where people reach the notifier or the page.
    pub external_url: Arc<str>,
}

/// Reads a Go template. All faults that can be found, in order of place.
pub(crate) fn compile(dialect: Dialect, name: &str, text: &str, variables: &[&str]) -> Result<Arc<Unit>, Vec<Fault>> {
    let function = |name: &str| functions::check(dialect, name);
    let known = Known { function: &function, variables };
    let mut faults: Vec<Fault> = Vec::new();
    let mut left = text.to_owned();
    let tree: Tree = loop {
        match parse(&left, &known) {
            Ok(tree) => break tree,
            Err(fault) => {
                let next = without_action(&left, fault.offset);
                faults.push(fault);
                match next {
                    Some(next) if faults.len() < MAX_FAULTS => left = next,
                    _ => return Err(faults),
                }
            }
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    translate(name, text, &tree).map(Arc::new).map_err(|fault| vec![fault])
}

/// The text with blanks for the action that holds a fault, so that those behind it are found too. Not for actions that open or
/// close blocks or set variables: without them others would be wrong.
fn without_action(text: &str, offset: usize) -> Option<String> {
    let start = text.match_indices("{{").map(|(at, _)| at).take_while(|at| *at <= offset).last()?;
    let end = start + text.get(start..)?.find("}}")? + 2;
    let action = text.get(start..end)?;
    let word = action.trim_start_matches(['{', '-', ' ', '\t', '\n', '\r']);
    let opens = ["if", "else", "end", "range", "with", "define", "block"].iter().any(|keyword| {
        word.strip_prefix(keyword).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    });
    if opens || offset >= end || action.contains(":=") {
        return None;
    }
    let blank = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
    Some(format!("{}{}{}", text.get(..start)?, action.chars().map(blank).collect::<String>(), text.get(end..)?))
}

/// Templates by name, for notifications. Later files override earlier ones and the defaults.
#[derive(Clone, Default)]
pub struct TemplateSet {
    library: Library,
}

impl std::fmt::Debug for TemplateSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl TemplateSet {
    /// Without any template.
    pub fn empty() -> Self {
        Self::default()
    }

    /// With the default templates of notifications.
    pub fn notifications() -> Self {
        static DEFAULTS: LazyLock<TemplateSet> = LazyLock::new(|| {
            let mut set = TemplateSet::empty();
            for (name, text) in defaults::all() {
                if let Err(faults) = set.add_handlebars(name, text) {
                    unreachable!("the default template {name} is good (a test compiles all): {faults:?}");
                }
            }
            set
        });
        DEFAULTS.clone()
    }

    /// Names of the templates, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.library.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    /// Adds the templates that a file defines; `name` stands in messages.
    pub fn add_file(&mut self, name: &str, text: &str) -> Result<(), Vec<Fault>> {
        let unit = compile(Dialect::Notifications, name, text, &[])?;
        for name in unit.defines.keys() {
            self.library.insert(Arc::clone(name), Body::Go(Arc::clone(&unit)));
        }
        Ok(())
    }

    /// Adds a template written in handlebars.
    pub fn add_handlebars(&mut self, name: &str, text: &str) -> Result<(), Vec<Fault>> {
        let template = native(text)?;
        self.library.insert(Arc::from(name), Body::Native(template));
        Ok(())
    }

    /// Compiles a field of a receiver, a Go template.
    pub fn compile(&self, text: &str) -> Result<Template, Vec<Fault>> {
        let unit = compile(Dialect::Notifications, "", text, &[])?;
        Ok(Template { source: text.into(), kind: Kind::Go(unit) })
    }

    /// Compiles a text written in handlebars.
    pub fn compile_handlebars(&self, text: &str) -> Result<Template, Vec<Fault>> {
        Ok(Template { source: text.into(), kind: Kind::Native(native(text)?) })
    }

    /// Calls of templates that do not exist, in a text: they fail when they run.
    pub fn unknown_calls(&self, template: &Template) -> Vec<Fault> {
        let Kind::Go(unit) = &template.kind else { return Vec::new() };
        let known = |name: &Arc<str>| unit.defines.contains_key(name) || self.library.contains_key(name);
        let fault = |(name, at): (&Arc<str>, usize)| {
            let hint = "define it in a file of `templates`, or correct the name";
            Fault::at(&unit.source, at, format!("the template `{name}` does not exist"), hint)
        };
        calls(unit).filter(|(name, _)| !known(name)).map(fault).collect()
    }

    /// Renders a text with the data of a notification.
    pub fn render(
        &self,
        template: &Template,
        data: &Data,
        format: Format,
        setting: &Setting,
    ) -> Result<String, RenderError> {
        let what = match &template.kind {
            Kind::Go(unit) => What::Go(unit),
            Kind::Native(native) => What::Native(native),
        };
        run(&self.library, Dialect::Notifications, &what, data.value(), &[], format, setting)
    }

    /// Renders a text; where that fails, the default one, with a line behind it that says what failed. The failure comes with it.
    pub fn render_or(
        &self,
        template: &Template,
        default: &Template,
        data: &Data,
        format: Format,
        setting: &Setting,
    ) -> (String, Option<RenderError>) {
        let error = match self.render(template, data, format, setting) {
            Ok(text) => return (text, None),
            Err(error) => error,
        };
        let line = format!("(the template of this message failed: {error})");
        let line = if format == Format::Html { format!("<p>{}</p>", crate::html::escape(&line)) } else { line };
        let text = match self.render(default, data, format, setting) {
            Ok(text) => format!("{text}\n{line}"),
            Err(_) => format!("{}: {} alerts\n{line}", data.status, data.alerts.len()),
        };
        (text, Some(error))
    }
}

/// One rendering.
pub(crate) fn run(
    library: &Library,
    dialect: Dialect,
    what: &What<'_>,
    dot: Value,
    variables: &[(&str, Value)],
    format: Format,
    setting: &Setting,
) -> Result<String, RenderError> {
    let around = Around {
        limit: setting.limit,
        is_html: format == Format::Html,
        now_ns: setting.now_ns,
        external_url: Arc::clone(&setting.external_url),
        spent: AtomicUsize::new(0),
    };
    // Default templates hand the whole group to one another.
    let work = MAX_WORK.saturating_add(dot.size(usize::MAX).saturating_mul(16));
    let run = Run { library, dialect, around, state: Mutex::new(State::new(work)), named: engine::named };
    let mut sink = Sink::new(setting.limit, format == Format::Html);
    engine::render(&run, what, dot, variables, &mut sink)?;
    Ok(sink.out)
}

/// Reads a template in handlebars. Parts that call templates outside of our bounds are refused.
fn native(text: &str) -> Result<Arc<handlebars::Template>, Vec<Fault>> {
    if text.len() > MAX_NATIVE {
        let message = format!("the template has {} bytes, {MAX_NATIVE} are allowed", text.len());
        return Err(vec![Fault::at(text, 0, message, "cut it into several templates")]);
    }
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(open) = text.get(at..).and_then(|rest| rest.find("{{")) {
        at += open + 2;
        let inside = text.get(at..).unwrap_or_default().trim_start_matches(['{', '~', ' ', '\t', '\r', '\n']);
        let block = inside.strip_prefix('#').map(str::trim_start);
        let inside = block.unwrap_or(inside);
        if block.is_some() {
            depth += 1;
        } else if inside.starts_with('/') {
            depth = depth.saturating_sub(1);
        }
        if inside.starts_with(['>', '*']) {
            let hint = "call another template with `{{template \"name\"}}`";
            return Err(vec![Fault::at(text, at - 2, "partials and decorators are not supported", hint)]);
        }
        if depth > MAX_NATIVE_DEPTH {
            let message = format!("blocks are inside one another deeper than {MAX_NATIVE_DEPTH} levels");
            return Err(vec![Fault::at(text, at - 2, message, "move inner parts to templates of their own")]);
        }
    }
    if text.matches(['(', '[']).count() > 500 {
        return Err(vec![Fault::at(text, 0, "the template has too many parentheses", "cut it into several templates")]);
    }
    handlebars::Template::compile(text).map(Arc::new).map_err(|error| {
        let (line, column) = error.pos().unwrap_or((1, 1));
        let offset: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let mut fault =
            Fault::at(text, offset, format!("invalid handlebars: {}", error.reason()), "see docs/templates.md");
        (fault.line, fault.column) = (line, column);
        vec![fault]
    })
}
