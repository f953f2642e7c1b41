//! Files of Fluent Bit, classic or YAML, as one list of sections with places.
//!
//! In: the text of a file. Out: [`Section`]s in order, those of included files too. Touches the files that it includes,
//! reading only; their number and depth are bounded.
//!
//! The classic format: `[NAME]` begins a section; below it a key, spaces, and the rest of the line as the value; `#`
//! begins a comment where a line begins; `@SET name=value` sets what `${name}` stands for; `@INCLUDE path` reads another
//! file, `*` stands in its name. Keys don't care for capitals.
//! <https://docs.fluentbit.io/manual/administration/configuring-fluent-bit/classic-mode/format-schema>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ImportError, read};
use super::foreign;
use millrace_log::yaml::{Node, Place};

/// Files that include each other so deep are a mistake.
const MAX_DEPTH: usize = 10;
/// Files in all.
const MAX_FILES: usize = 500;

/// A section with what stands in it.
#[derive(Debug, Clone)]
pub struct Section {
    /// In capitals: `INPUT`, `FILTER`, `OUTPUT`, `PARSER`, `MULTILINE_PARSER`, `SERVICE`, or another.
    pub kind: String,
    /// Where it starts.
    pub place: Place,
    /// Its keys in order, in small letters.
    pub properties: Vec<Property>,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Property {
    /// In small letters.
    pub key: String,
    /// As written, what `@SET` set put in.
    pub value: String,
    /// Where it stands.
    pub place: Place,
}

impl Section {
    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&Property> {
        self.properties.iter().find(|property| property.key == key)
    }

    /// All values of a key.
    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'s Property> {
        self.properties.iter().filter(move |property| property.key == key)
    }

    /// The name of the plug-in.
    pub fn name(&self) -> &str {
        self.get("name").map_or("", |property| property.value.as_str())
    }
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Files {
    /// In order.
    pub sections: Vec<Section>,
    /// Files that could not be read: where they are named, which, why.
    pub missing: Vec<(Place, String, String)>,
    set: BTreeMap<String, String>,
    count: usize,
}

impl Files {
    /// Reads one file and those it includes.
    pub fn read(path: &Path, text: &str) -> Result<Self, ImportError> {
        let mut files = Self::default();
        files.add(path, text, 0)?;
        // Parsers stand in files of their own.
        let named: Vec<Property> = files
            .sections
            .iter()
            .filter(|section| section.kind == "SERVICE")
            .flat_map(|section| section.all("parsers_file"))
            .cloned()
            .collect();
        for property in named {
            files.include(path, &property.value, &property.place, 1)?;
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), ImportError> {
        self.count += 1;
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_yaml { self.yaml(path, text, depth) } else { self.classic(path, text, depth) }
    }

    fn include(&mut self, from: &Path, pattern: &str, place: &Place, depth: usize) -> Result<(), ImportError> {
        let folder = from.parent().unwrap_or(Path::new("."));
        let wanted = folder.join(pattern);
        let mut paths = Vec::new();
        if pattern.contains('*') {
            let name = wanted.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let listed = std::fs::read_dir(wanted.parent().unwrap_or(folder));
            match (listed, globset::Glob::new(&name)) {
                (Ok(entries), Ok(glob)) => {
                    let matcher = glob.compile_matcher();
                    let fits = |path: &PathBuf| path.file_name().is_some_and(|name| matcher.is_match(name));
                    paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(fits));
                    paths.sort();
                }
                (Err(error), _) => self.missing.push((place.clone(), pattern.to_owned(), error.to_string())),
                (_, Err(error)) => self.missing.push((place.clone(), pattern.to_owned(), error.to_string())),
            }
        } else {
            paths.push(wanted);
        }
        for path in paths {
            if depth >= MAX_DEPTH || self.count >= MAX_FILES {
                let text = format!("{place}: includes go deeper than {MAX_DEPTH} files, or name more than {MAX_FILES}");
                return Err(ImportError::Syntax(text));
            }
            match read(&path) {
                Ok(text) => self.add(&path, &text, depth + 1)?,
                Err(error) => self.missing.push((place.clone(), pattern.to_owned(), error.to_string())),
            }
        }
        Ok(())
    }

    /// Puts in what `@SET` set; variables of the environment stay.
    fn filled(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (name, value) in &self.set {
            out = out.replace(&format!("${{{name}}}"), value);
        }
        out
    }

    fn classic(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), ImportError> {
        let file: Arc<str> = path.display().to_string().into();
        let mut indent = None;
        for (number, raw) in text.lines().enumerate() {
            let line = raw.trim();
            let column = raw.chars().take_while(|c| c.is_whitespace()).count() + 1;
            let place = Place::File { file: Arc::clone(&file), line: number + 1, column };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| Err(ImportError::Syntax(format!("{place}: {what}: `{line}`")));
            if let Some(rest) = line.strip_prefix('@') {
                let (command, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                match command.to_ascii_lowercase().as_str() {
                    "include" => self.include(path, &self.filled(rest.trim()), &place, depth)?,
                    "set" => match rest.split_once('=') {
                        Some((name, value)) => {
                            let value = self.filled(value.trim());
                            self.set.insert(name.trim().to_owned(), value);
                        }
                        None => return wrong("expected `@SET name=value`"),
                    },
                    _ => return wrong("expected `@INCLUDE` or `@SET`"),
                }
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let Some(name) = name.strip_suffix(']') else { return wrong("expected `]` at the end") };
                self.sections.push(Section { kind: name.trim().to_ascii_uppercase(), place, properties: Vec::new() });
                indent = None;
                continue;
            }
            let Some(section) = self.sections.last_mut() else {
                return wrong("expected a section such as `[INPUT]` first");
            };
            if column == 1 && indent.is_some_and(|known| known > 1) {
                return wrong("keys of a section are indented");
            }
            indent.get_or_insert(column);
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let mut filled = value.trim().to_owned();
            for (name, set) in &self.set {
                filled = filled.replace(&format!("${{{name}}}"), set);
            }
            section.properties.push(Property { key: key.to_ascii_lowercase(), value: filled, place });
        }
        Ok(())
    }

    fn yaml(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), ImportError> {
        let root = foreign::yaml(&path.display().to_string(), text)?;
        for (name, node) in root.get("env").map(Node::entries).unwrap_or_default().iter().map(|e| (&e.key, &e.node)) {
            let value = self.filled(node.text().unwrap_or_default());
            self.set.insert(name.clone(), value);
        }
        for (file, place) in root.get("includes").map(Node::texts).unwrap_or_default() {
            self.include(path, &file, &place, depth)?;
        }
        for (path, kind) in [
            ("service", "SERVICE"),
            ("parsers", "PARSER"),
            ("multiline_parsers", "MULTILINE_PARSER"),
            ("pipeline.inputs", "INPUT"),
            ("pipeline.filters", "FILTER"),
            ("pipeline.outputs", "OUTPUT"),
        ] {
            for item in root.at_path(path).map(Node::items).unwrap_or_default() {
                let section = self.section(kind, item);
                self.sections.push(section);
            }
        }
        let known = ["service", "parsers", "multiline_parsers", "pipeline", "env", "includes"];
        for entry in root.entries().iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let kind = entry.key.to_ascii_uppercase();
            self.sections.push(Section { kind, place: entry.place.clone(), properties: Vec::new() });
        }
        Ok(())
    }

    fn section(&self, kind: &str, node: &Node) -> Section {
        let mut properties = Vec::new();
        for entry in node.entries() {
            let key = entry.key.to_ascii_lowercase();
            let property = |value: String, place: &Place| Property { key: key.clone(), value, place: place.clone() };
            match key.as_str() {
                // Rules of a parser of several lines: the three words of the classic format.
                "rules" => properties.extend(entry.node.items().into_iter().map(|rule| {
                    let part = |key: &str| rule.get(key).and_then(Node::text).unwrap_or_default();
                    let value = format!("\"{}\" \"{}\" \"{}\"", part("state"), part("regex"), part("next_state"));
                    Property { key: "rule".to_owned(), value, place: rule.place.clone() }
                })),
                _ if !entry.node.entries().is_empty() => properties.push(property(entry.node.brief(), &entry.place)),
                "record" | "add" | "set" => properties.extend(
                    entry
                        .node
                        .items()
                        .into_iter()
                        .filter_map(|item| Some(property(self.filled(item.text()?), &item.place))),
                ),
                _ => {
                    let texts: Vec<String> = entry.node.texts().into_iter().map(|(text, _)| text).collect();
                    properties.push(property(self.filled(&texts.join(",")), &entry.node.place));
                }
            }
        }
        Section { kind: kind.to_owned(), place: node.place.clone(), properties }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(files: &Files) -> Vec<String> {
        let property =
            |p: &Property| format!("{}={} @{}", p.key, p.value, p.place.to_string().rsplit('/').next().unwrap());
        let section =
            |s: &Section| format!("{}: {}", s.kind, s.properties.iter().map(property).collect::<Vec<_>>().join("; "));
        files.sections.iter().map(section).collect()
    }

    #[test]
    fn the_classic_format_with_includes_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("in-1.conf", "[INPUT]\n  Name tail\n  Path ${logs}/a b.log\n");
        file("in-2.conf", "[Input]\n  name  tail\n");
        file("parsers.conf", "[PARSER]\n  Name x\n");
        let text = "# comment\n@SET logs=/var/log\n[SERVICE]\n    Parsers_File parsers.conf\n    Daemon\n@INCLUDE in-*.conf\n@INCLUDE gone.conf\n[OUTPUT]\n    Name ${KIND}\n";
        let files = Files::read(&folder.path().join("main.conf"), text).unwrap();
        assert_eq!(
            shown(&files),
            [
                "SERVICE: parsers_file=parsers.conf @main.conf:4:5; daemon= @main.conf:5:5",
                "INPUT: name=tail @in-1.conf:2:3; path=/var/log/a b.log @in-1.conf:3:3",
                "INPUT: name=tail @in-2.conf:2:3",
                "OUTPUT: name=${KIND} @main.conf:9:5",
                "PARSER: name=x @parsers.conf:2:3",
            ]
        );
        assert_eq!(files.missing[0].1, "gone.conf");
        file("loop.conf", "@INCLUDE loop.conf\n");
        let error = Files::read(&folder.path().join("x.conf"), "@INCLUDE loop.conf\n").unwrap_err().to_string();
        assert!(error.contains("loop.conf:1:1: includes go deeper"), "{error}");
    }

    #[test]
    fn faults_name_their_line() {
        for (text, want) in [
            ("[INPUT\n", "m.conf:1:1: expected `]`"),
            ("Name x\n", "m.conf:1:1: expected a section"),
            ("[INPUT]\n@NEXT x\n", "m.conf:2:1: expected `@INCLUDE`"),
            ("[INPUT]\n  Name x\nPath y\n", "m.conf:3:1: keys of a section are indented"),
        ] {
            let error = Files::read(Path::new("m.conf"), text).unwrap_err().to_string();
            assert!(error.starts_with(want), "{text}: {error}");
        }
    }

    #[test]
    fn yaml_is_the_same() {
        let text = "env: {logs: /var/log}\nservice: {flush: 1}\npipeline:\n  inputs:\n    - name: tail\n      path: ${logs}/x.log\n  filters:\n    - name: record_modifier\n      record: [a b, c d]\n";
        let files = Files::read(Path::new("f.yaml"), text).unwrap();
        assert_eq!(
            shown(&files),
            [
                "SERVICE: flush=1 @f.yaml:2:18",
                "INPUT: name=tail @f.yaml:5:13; path=/var/log/x.log @f.yaml:6:13",
                "FILTER: name=record_modifier @f.yaml:8:13; record=a b @f.yaml:9:16; record=c d @f.yaml:9:21",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in "(\\[[A-Z]{0,3}\\]?\n|[ @#a-z${}=]{0,12}\n){0,8}") {
            drop(Files::read(Path::new("/nowhere/p.conf"), &text));
        }
    }
}
