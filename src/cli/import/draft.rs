//! What is converted from another program's configuration, and what is left out.
//!
//! In: values with the places they come from. Out: text that Millrace's own check accepts. Side effects: none.
//!
//! A format's reader adds what it finds; [`Draft::finish`] checks the result as `millrace validate` would, removes what is
//! rejected (an unsupported regular expression, a label too many) and reports it as left out: so a result is valid whatever
//! the other file holds.

use millrace_log::record::MAX_LABELS;

use super::foreign::Keys;
use super::parts::{Multiline, Remark, Timestamp};
use super::pattern;
use super::rejection::{Rejection, refused};
use super::result::{Field, Out, add, body, ours, prune, remove, steps_from, variables};
use super::step::{self, TransformStep};
use millrace_log::yaml::Place;

/// One entry of `agent.sources`.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it stands in the other file.
    pub place: Place,
    /// What it is called there.
    pub title: String,
    /// Globs.
    pub include: Vec<(String, Place)>,
    /// Globs.
    pub exclude: Vec<(String, Place)>,
    /// Names are ours already ([`Source::label`]).
    pub labels: Vec<(String, String, Place)>,
    /// Names that labels have in the other program and can't have here, and what they are here.
    renamed: Vec<(String, String, Place)>,
    /// Whose lines.
    pub tenant: Option<(String, Place)>,
    /// `beginning` or `end`.
    pub read_from: Option<(&'static str, Place)>,
    /// Bytes.
    pub max_line_bytes: Option<(u64, Place)>,
    /// As our `Span` writes it.
    pub partial_timeout: Option<(String, Place)>,
    /// How the file is encoded.
    pub encoding: Option<(&'static str, Place)>,
    /// Which runtime wrote the lines.
    pub format: Option<(&'static str, Place)>,
    /// How lines are joined.
    pub multiline: Option<(Multiline, Place)>,
    /// Where the time stands.
    pub timestamp: Option<(Timestamp, Place)>,
    /// The other program parses its lines as JSON, and has their fields at the top of an event.
    pub is_json: bool,
    /// Entries of its list `transforms`, in order.
    pub steps: Vec<TransformStep>,
    /// A step that changes events and could not be converted: those behind it may need it.
    pub blocked: Option<String>,
}

impl Source {
    /// The encoding by one of its names; what is not read by Millrace is told.
    pub fn set_encoding(&mut self, name: &str, place: &Place, key: impl Into<String>, draft: &mut Draft) {
        let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        let ours = match plain.as_str() {
            "utf8" | "plain" | "ascii" | "usascii" => return,
            "utf16" | "utf16bom" => {
                let text = "names no byte order: set to that of Windows, low byte first; `utf-16be` is the other";
                draft.note(place, key, text);
                "utf-16le"
            }
            "utf16le" | "utf16lebom" => "utf-16le",
            "utf16be" | "utf16bebom" => "utf-16be",
            "latin1" | "iso88591" => "latin-1",
            "windows1252" | "cp1252" => "windows-1252",
            _ => {
                let why = format!("unsupported encoding `{name}`");
                draft.leave(place, key, why, "UTF-8 output of the program");
                return;
            }
        };
        self.encoding = Some((ours, place.clone()));
    }

    /// Its lines were written by a container runtime; by several: it is told line by line.
    pub fn set_format(&mut self, format: &'static str, place: &Place) {
        let both = self.format.as_ref().is_some_and(|(other, _)| *other != format);
        self.format = Some((if both { "auto" } else { format }, place.clone()));
    }

    /// An empty one.
    pub fn new(place: &Place, title: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            title: title.into(),
            include: Vec::new(),
            exclude: Vec::new(),
            labels: Vec::new(),
            renamed: Vec::new(),
            tenant: None,
            read_from: None,
            max_line_bytes: None,
            partial_timeout: None,
            encoding: None,
            format: None,
            multiline: None,
            timestamp: None,
            is_json: false,
            steps: Vec::new(),
            blocked: None,
        }
    }

    /// Adds a transform, unless one before it could not be converted.
    pub fn step(&mut self, step: TransformStep, draft: &mut Draft) {
        match &self.blocked {
            None => self.steps.push(step),
            Some(before) => {
                let why = format!("follows `{before}`, which was not converted");
                draft.leave(&step.place, &step.what, why, "add both by hand, in this order");
            }
        }
    }

    /// A step that changes events could not be converted.
    pub fn block(&mut self, what: &str) {
        self.blocked.get_or_insert_with(|| what.to_owned());
    }

    /// Sets a label; a later one replaces an earlier one of the same name. Gives the name as it is now.
    pub fn label(&mut self, name: &str, value: &str, place: &Place) -> String {
        let ours = label_name(name);
        if ours != name {
            self.renamed.push((name.to_owned(), ours.clone(), place.clone()));
        }
        match self.labels.iter_mut().find(|(known, ..)| *known == ours) {
            Some(known) => (known.1, known.2) = (value.to_owned(), place.clone()),
            None => self.labels.push((ours.clone(), value.to_owned(), place.clone())),
        }
        ours
    }

    fn has_label(&self, name: &str) -> bool {
        self.labels.iter().any(|(known, ..)| known == name)
    }
}

/// A name that labels may have.
pub fn label_name(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) || out.is_empty() {
        out.insert(0, '_');
    }
    out
}

/// Everything that becomes of one file.
#[derive(Debug)]
pub struct Draft {
    /// Entries of `agent.sources`.
    pub sources: Vec<Source>,
    /// Keys of `agent.kafka`.
    kafka: Vec<Field>,
    /// Further keys of `agent`.
    agent: Vec<Field>,
    /// Entries of `exports`.
    exports: Vec<Vec<Field>>,
    left: Vec<Remark>,
    notes: Vec<Remark>,
    /// Whether the other program expands `${VAR}` in its file.
    pub expands: bool,
    /// The other program's file.
    pub original: String,
    tree: Vec<Field>,
}

impl Draft {
    /// Nothing yet.
    pub fn new(expands: bool) -> Self {
        Self {
            sources: Vec::new(),
            kafka: Vec::new(),
            agent: Vec::new(),
            exports: Vec::new(),
            left: Vec::new(),
            notes: Vec::new(),
            expands,
            original: String::new(),
            tree: Vec::new(),
        }
    }

    /// Something is not carried over.
    pub fn leave(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        why: impl Into<String>,
        instead: impl Into<String>,
    ) {
        // One line each: diagnostics of regular expressions have several.
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (what, why) = (line(what.into()), line(why.into()));
        let remark = Remark { place: place.clone(), what, why, instead: instead.into() };
        if !self.left.contains(&remark) {
            self.left.push(remark);
        }
    }

    /// Reports the keys that nobody took.
    pub fn leave_rest(&mut self, keys: &Keys<'_>) {
        for entry in keys.rest() {
            let what = format!("{}: {}", keys.name(&entry.key), entry.node.brief());
            self.leave(&entry.place, what, "unknown key", "see millrace.reference.yaml");
        }
    }

    /// Something is carried over, or needs nothing, and is good to know.
    pub fn note(&mut self, place: &Place, what: impl Into<String>, text: impl Into<String>) {
        let remark = Remark { place: place.clone(), what: what.into(), why: text.into(), instead: String::new() };
        if !self.notes.contains(&remark) {
            self.notes.push(remark);
        }
    }

    /// What was left out, in the order of the file.
    pub fn left(&self) -> &[Remark] {
        &self.left
    }

    /// What is good to know.
    pub fn notes(&self) -> &[Remark] {
        &self.notes
    }

    /// Text of the other file, with its variables if it has any.
    pub fn open(&self, text: &str) -> Out {
        if self.expands && text.contains("${") { Out::Open(ours(text)) } else { Out::Text(text.to_owned()) }
    }

    /// A program of the other file, with its variables if it has any.
    pub fn program(&self, text: &str) -> Out {
        match step::program(text) {
            Out::Block(block) if self.expands => Out::Block(ours(&block.replace("$${", "${"))),
            Out::Text(text) => self.open(&text),
            other => other,
        }
    }

    /// Notes that a label has another name here.
    pub fn note_renamed(&mut self, theirs: &str, ours: &str, place: &Place) {
        if theirs != ours {
            let text = format!("is `{ours}` here: names have letters, digits and `_`");
            self.note(place, format!("label `{theirs}`"), text);
        }
    }

    /// Takes a source out, to change it; the caller puts it back.
    pub fn take_source(&mut self, title: &str) -> Option<Source> {
        let at = self.sources.iter().position(|source| source.title == title)?;
        Some(self.sources.remove(at))
    }

    /// Sets a key of `agent.kafka`; the first one counts.
    pub fn kafka(&mut self, key: &str, value: Out, place: &Place) {
        add(&mut self.kafka, key, value, place);
    }

    /// Sets a further key of `agent`; the first one counts.
    pub fn agent(&mut self, key: &str, value: Out, place: &Place) {
        add(&mut self.agent, key, value, place);
    }

    /// Whether a key of `agent.kafka` was set.
    pub fn has_kafka(&self) -> bool {
        !self.kafka.is_empty()
    }

    /// Adds an entry of `exports`.
    pub fn export(&mut self, fields: Vec<(&str, Out, Place)>) {
        let fields =
            fields.into_iter().map(|(key, value, place)| Field { key: key.to_owned(), value, from: Some(place) });
        self.exports.push(fields.collect());
    }

    /// A label for every source that has none of that name.
    pub fn label_all(&mut self, name: &str, value: &str, place: &Place) {
        for source in &mut self.sources {
            if !source.has_label(&label_name(name)) {
                source.label(name, value, place);
            }
        }
    }

    /// Builds the result, and takes out what Millrace refuses.
    pub fn finish(&mut self) {
        let nothing = std::mem::take(&mut self.sources);
        for source in nothing {
            source.renamed.iter().for_each(|(theirs, ours, place)| self.note_renamed(theirs, ours, place));
            if source.include.is_empty() {
                let what = source.title.clone();
                self.leave(&source.place, what, "no files to read", "add `include` by hand");
            } else {
                self.sources.push(self::bounded(source, &mut self.left));
            }
        }
        self.tree = self.build();
        // Each round takes out one thing at least.
        for _ in 0..1000 {
            let mut faults = refused(&self.tree);
            if faults.is_empty() {
                break;
            }
            // The first of each value, from the end: numbers of entries before stay what they are.
            faults.dedup_by(|later, first| later.0 == first.0);
            for (path, message) in faults.into_iter().rev() {
                self.take_out(&path, &message);
            }
        }
        let line = |remark: &Remark| match &remark.place {
            Place::File { file, line, column } => (file.to_string(), *line, *column),
            Place::Variable(name) => (name.to_string(), 0, 0),
        };
        self.left.sort_by_key(line);
        self.notes.sort_by_key(line);
    }

    fn build(&self) -> Vec<Field> {
        let mut agent = Vec::new();
        if !self.sources.is_empty() {
            let sources = self.sources.iter().map(|source| (self.source(source), Some(source.place.clone())));
            agent.push(Field { key: "sources".to_owned(), value: Out::List(sources.collect()), from: None });
        }
        agent.extend(self.agent.iter().cloned());
        if !self.kafka.is_empty() {
            agent.push(Field { key: "kafka".to_owned(), value: Out::Map(self.kafka.clone()), from: None });
        }
        let mut tree = Vec::new();
        // An agent that reads nothing is a fault of its own.
        if !self.sources.is_empty() {
            tree.push(Field { key: "agent".to_owned(), value: Out::Map(agent), from: None });
        }
        if !self.exports.is_empty() {
            let exports = self.exports.iter().map(|fields| (Out::Map(fields.clone()), None)).collect();
            tree.push(Field { key: "exports".to_owned(), value: Out::List(exports), from: None });
        }
        tree
    }

    fn source(&self, source: &Source) -> Out {
        let field =
            |key: &str, value: Out, from: &Place| Field { key: key.to_owned(), value, from: Some(from.clone()) };
        let text = |text: &str| self.open(text);
        let mut fields = vec![Field { key: "type".to_owned(), value: Out::Plain("file".to_owned()), from: None }];
        for (key, globs) in [("include", &source.include), ("exclude", &source.exclude)] {
            if !globs.is_empty() {
                let list = globs.iter().map(|(glob, place)| (text(glob), Some(place.clone())));
                fields.push(Field { key: key.to_owned(), value: Out::List(list.collect()), from: None });
            }
        }
        if !source.labels.is_empty() {
            let labels = source.labels.iter().map(|(name, value, place)| field(name, text(value), place));
            fields.push(Field { key: "labels".to_owned(), value: Out::Map(labels.collect()), from: None });
        }
        if let Some((tenant, place)) = &source.tenant {
            fields.push(field("tenant", text(tenant), place));
        }
        if let Some((encoding, place)) = &source.encoding {
            fields.push(field("encoding", Out::Plain((*encoding).to_owned()), place));
        }
        if let Some((format, place)) = &source.format {
            fields.push(field("format", Out::Plain((*format).to_owned()), place));
        }
        if let Some((from, place)) = &source.read_from {
            fields.push(field("read_from", Out::Plain((*from).to_owned()), place));
        }
        if let Some((bytes, place)) = &source.max_line_bytes {
            fields.push(field("max_line_bytes", Out::Plain(pattern::size(*bytes)), place));
        }
        if let Some((span, place)) = &source.partial_timeout {
            fields.push(field("partial_timeout", Out::Plain(span.clone()), place));
        }
        if let Some((multiline, place)) = &source.multiline {
            let mut inner = Vec::new();
            if let Some((key, pattern)) = &multiline.by {
                inner.push(field(key, Out::Text(pattern.clone()), place));
            }
            if let Some(lines) = multiline.max_lines {
                inner.push(field("max_lines", Out::Plain(lines.to_string()), place));
            }
            if let Some(timeout) = &multiline.timeout {
                inner.push(field("timeout", Out::Plain(timeout.clone()), place));
            }
            fields.push(Field { key: "multiline".to_owned(), value: Out::Map(inner), from: None });
        }
        if let Some((timestamp, place)) = &source.timestamp {
            let mut inner = vec![field("format", Out::Text(timestamp.format.clone()), place)];
            for (key, value) in
                [("regex", &timestamp.regex), ("field", &timestamp.field), ("timezone", &timestamp.timezone)]
            {
                if let Some(value) = value {
                    inner.push(field(key, Out::Text(value.clone()), place));
                }
            }
            fields.push(Field { key: "timestamp".to_owned(), value: Out::Map(inner), from: None });
        }
        if !source.steps.is_empty() {
            let step = |step: &TransformStep| {
                let inner = step.fields.iter();
                let inner =
                    inner.map(|(key, value)| Field { key: (*key).to_owned(), value: value.clone(), from: None });
                (Out::Map(inner.collect()), Some(step.place.clone()))
            };
            let steps = source.steps.iter().map(step).collect();
            fields.push(Field { key: "transforms".to_owned(), value: Out::List(steps), from: None });
        }
        Out::Map(fields)
    }

    fn take_out(&mut self, path: &str, message: &str) {
        let steps: Vec<&str> = path.split('\u{1f}').filter(|step| !step.is_empty()).collect();
        // A transform is left out whole, and those behind it too: they may need what it does.
        if let Some(at) = steps.iter().position(|step| *step == "transforms")
            && let Some(index) = steps.get(at + 1)
        {
            let first: usize = index.trim_matches(['[', ']']).parse().unwrap_or_default();
            let removed = steps_from(&mut self.tree, steps.get(..=at).unwrap_or_default(), first);
            self.leave_steps(removed, message);
            prune(&mut self.tree);
            return;
        }
        let Some(from) = remove(&mut self.tree, &steps) else { return };
        let message = message.split_once(": ").map_or(message, |(_, rest)| rest);
        let place = from.unwrap_or_else(|| Place::Variable("result".into()));
        let name = steps.join(".").replace(".[", "[");
        self.leave(&place, name, format!("Millrace rejects it: {message}"), "set it by hand");
        // What holds nothing any more goes too.
        prune(&mut self.tree);
    }

    /// Reports a transform that is refused, and those behind it.
    fn leave_steps(&mut self, removed: Vec<Option<Place>>, message: &str) {
        let known: Vec<&TransformStep> = self.sources.iter().flat_map(|source| &source.steps).collect();
        let named: Vec<(Place, String)> = removed
            .into_iter()
            .map(|place| match known.iter().find(|step| Some(&step.place) == place.as_ref()) {
                Some(step) => (step.place.clone(), step.what.clone()),
                None => (place.unwrap_or_else(|| Place::Variable("result".into())), "transform".to_owned()),
            })
            .collect();
        let Some((first, behind)) = named.split_first() else { return };
        let rejection = Rejection::of(message);
        let (place, why) = (rejection.place_in(&self.original, &first.0), format!("Millrace rejects it: {rejection}"));
        self.leave(&place, &first.1, why, "add it by hand");
        for (place, what) in behind {
            let why = format!("follows `{}`, which was not converted", first.1);
            self.leave(place, what, why, "add both by hand, in this order");
        }
    }

    /// The whole file: what it is, what was left, and the configuration.
    pub fn render(&self, format: &str, file: &str) -> String {
        let mut text = format!(
            "# Created by `millrace import {format} {file}`: comments show where each value comes from.\n\
             # Check it with `millrace validate -c FILE`, start it with `millrace agent -c FILE`.\n"
        );
        for (title, list) in [("Notes", &self.notes), ("Not converted", &self.left)] {
            if !list.is_empty() {
                text.push_str(&format!("#\n# {title}:\n"));
                for remark in list.iter() {
                    // A line break of the other file must not end the comment.
                    text.push_str(&format!("#   {}\n", remark.to_string().replace(['\n', '\r'], " ")));
                }
            }
        }
        let body = body(&self.tree);
        let names = variables(&body);
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            text.push_str(&format!("#\n# Required environment variables: {}\n", names.join(", ")));
        }
        text.push('\n');
        text.push_str(&body);
        text
    }
}

/// A source with as many labels as fit beside `host` and `filename`; the further ones are left.
fn bounded(mut source: Source, left: &mut Vec<Remark>) -> Source {
    for (name, value, place) in source.labels.split_off(source.labels.len().min(MAX_LABELS - 2)) {
        left.push(Remark {
            place,
            what: format!("{}: label `{name}: {value}`", source.title),
            why: format!("a stream has at most {} labels besides `host` and `filename`", MAX_LABELS - 2),
            instead: "fewer labels".to_owned(),
        });
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Variables;
    use crate::config::parse;

    fn at(line: usize) -> Place {
        Place::File { file: "f".into(), line, column: 1 }
    }

    fn source() -> Source {
        let mut source = Source::new(&at(1), "input");
        source.include.push(("/var/log/a: b.log".to_owned(), at(2)));
        source
    }

    #[test]
    fn a_draft_is_written_and_read_again() {
        let mut draft = Draft::new(true);
        let mut one = source();
        one.label("app-name", "it's ${APP}", &at(3));
        one.label("yes", "true", &at(4));
        one.multiline =
            Some((Multiline { by: Some(("start", r"^\d{4}[${]x".to_owned())), ..Multiline::default() }, at(5)));
        draft.sources.push(one);
        let broker = draft.open("${BROKER:kafka:9092}");
        draft.kafka("brokers", Out::List(vec![(broker, Some(at(6)))]), &at(6));
        draft.finish();
        assert_eq!(draft.left(), []);
        let text = draft.render("promtail", "f");
        let variables = Variables::from([("APP".to_owned(), "shop".to_owned())]);
        let config = parse("f", &text, &variables).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let agent = config.agent.unwrap();
        let millrace_agent::config::SourceConfig::File(file) = &agent.sources[0] else { panic!("a file source") };
        assert_eq!(file.include, ["/var/log/a: b.log"]);
        assert_eq!((file.labels["app_name"].as_str(), file.labels["yes"].as_str()), ("it's shop", "true"));
        assert_eq!(file.multiline.as_ref().unwrap().start.as_deref(), Some(r"^\d{4}[${]x"));
        assert!(text.contains("# Required environment variables: APP\n"), "{text}");
    }

    #[test]
    fn what_millrace_refuses_is_left_out_with_its_place() {
        let mut draft = Draft::new(false);
        let mut one = source();
        one.include.push(("/var/[".to_owned(), at(3)));
        one.tenant = Some(("a b".to_owned(), at(4)));
        one.max_line_bytes = Some((1 << 40, at(5)));
        one.timestamp = Some((Timestamp { format: "%Q".to_owned(), ..Timestamp::default() }, at(6)));
        for i in 0..20 {
            one.label(&format!("label{i}"), "x", &at(7));
        }
        draft.sources.push(one);
        draft.sources.push(Source::new(&at(9), "empty"));
        draft.kafka("topic", Out::Text("a/b".to_owned()), &at(8));
        draft.finish();
        let left: Vec<String> = draft.left().iter().map(|remark| format!("{} {}", remark.place, remark.what)).collect();
        assert_eq!(
            left,
            [
                "f:3:1 agent.sources[0].include[1]",
                "f:4:1 agent.sources[0].tenant",
                "f:5:1 agent.sources[0].max_line_bytes",
                "f:6:1 agent.sources[0].timestamp.format",
                "f:7:1 input: label `label13: x`",
                "f:7:1 input: label `label14: x`",
                "f:7:1 input: label `label15: x`",
                "f:7:1 input: label `label16: x`",
                "f:7:1 input: label `label17: x`",
                "f:7:1 input: label `label18: x`",
                "f:7:1 input: label `label19: x`",
                "f:8:1 agent.kafka.topic",
                "f:9:1 empty",
            ]
        );
        assert!(parse("f", &draft.render("x", "f"), &Variables::new()).is_ok());
    }
}
