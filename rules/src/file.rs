//! Loki's rule files: groups of alerting rules, read with all faults at once, each with line, column and a hint.
//!
//! In: paths or patterns. Out: a [`RuleSet`], or every [`RuleFault`]. Touches the named files, by reading.
//! Leaves evaluation to `evaluate.rs`; `millrace rules check` prints what [`check_files`] returns.
//!
//! Beyond Loki's keys a group takes `on_arrival: true`, a rule `samples: N` and `link: TEMPLATE` (where the alert's
//! link leads, instead of the page with the rule's query). Recording rules are refused by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::expr::Expression;
use crate::template::Template;
use millrace_log::record::is_label_name;
use millrace_log::yaml::{Document, Fields, MapEntry, MoreDocuments, Node, Value, nearest};

pub use millrace_log::yaml::LocatedFault as RuleFault;

/// Bytes that one rule file may have.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// All rules of all files, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleSet {
    /// Groups in the order of files and of places in them.
    pub groups: Vec<Arc<Group>>,
}

impl RuleSet {
    /// Number of rules in all groups.
    pub fn rule_count(&self) -> usize {
        self.groups.iter().map(|g| g.rules.len()).sum()
    }
}

/// Rules that are evaluated together, one after the other, at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// File that it stands in.
    pub file: PathBuf,
    /// Name, unique in its file.
    pub name: String,
    /// How often it is evaluated; none: `rules.interval`.
    pub interval: Option<Duration>,
    /// How far before the time of its turn it is evaluated.
    pub query_offset: Duration,
    /// Alerts that one rule may have at the same time; 0: any number.
    pub limit: usize,
    /// Evaluate when lines arrive. Taken, but evaluated at the interval for now.
    pub on_arrival: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// One alerting rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Name of the alert.
    pub alert: String,
    /// A series in its answer is an alert.
    pub expr: Expression,
    /// How long a series must be there before its alert fires (`for`).
    pub hold: Duration,
    /// How long it fires on after the series has gone (`keep_firing_for`).
    pub keep_firing: Duration,
    /// Labels added to those of the series; they rule over the group's.
    pub labels: Vec<(String, Template)>,
    /// Texts for people.
    pub annotations: Vec<(String, Template)>,
    /// Lines to show with the alert. Taken, not sent yet.
    pub samples: u64,
    /// Where the alert's link leads; none: to the page with the rule's query.
    pub link: Option<Template>,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Finds the files of patterns, in order of names; a pattern's wildcards stand in the file's name.
pub fn find_files(patterns: &[String]) -> Result<Vec<PathBuf>, Vec<RuleFault>> {
    let mut files = Vec::new();
    let mut faults = Vec::new();
    for pattern in patterns {
        let path = Path::new(pattern);
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.contains(['*', '?']) {
            files.push(path.to_owned());
            continue;
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A folder that is not there yet has no rules, as for Prometheus.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                let hint = Some("let this user read the folder".to_owned());
                faults.push(RuleFault::of_file(folder, format!("the folder can't be listed: {e}"), hint));
                continue;
            }
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| matches_name(&name, &entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        found.sort();
        files.append(&mut found);
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

/// Whether a name matches a pattern of `*` and `?`; a name with a leading dot is hidden from `*`.
fn matches_name(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

/// Every fault of some rule files; empty when all are good.
pub fn check_files<P: AsRef<Path>>(paths: &[P]) -> Vec<RuleFault> {
    paths.iter().flat_map(|path| read_file(path.as_ref()).err().unwrap_or_default()).collect()
}

/// Reads the files of patterns: all of them, or every fault. Blocks.
pub fn load(patterns: &[String]) -> Result<RuleSet, Vec<RuleFault>> {
    let mut set = RuleSet::default();
    let mut faults = Vec::new();
    for file in find_files(patterns)? {
        match read_file(&file) {
            Ok(groups) => set.groups.extend(groups.into_iter().map(Arc::new)),
            Err(mut more) => faults.append(&mut more),
        }
    }
    if faults.is_empty() { Ok(set) } else { Err(faults) }
}

/// Reads one file. Blocks.
pub fn read_file(path: &Path) -> Result<Vec<Group>, Vec<RuleFault>> {
    let unreadable = |message: String, hint: &str| vec![RuleFault::of_file(path, message, Some(hint.to_owned()))];
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE_BYTES => {
            let message = format!("the file has {} bytes, {MAX_FILE_BYTES} are allowed", meta.len());
            return Err(unreadable(message, "split it, or name the right file"));
        }
        Ok(_) => {}
        Err(e) => return Err(unreadable(format!("the file can't be read: {e}"), "check the path and who may read it")),
    }
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(e) => Err(unreadable(format!("the file can't be read: {e}"), "it must be a text file in UTF-8")),
    }
}

const GROUP_KEYS: [&str; 7] = ["name", "interval", "query_offset", "limit", "labels", "rules", "on_arrival"];
const GROUP_REFUSED: [(&str, &str); 5] = [
    ("source_tenants", "rules query the tenant set by `rules.tenant`: remove it"),
    ("remote_write", "alerting rules write no metrics: remove it"),
    ("partial_response_strategy", "only Thanos supports it: remove it"),
    ("align_evaluation_time_on_interval", "evaluations are always aligned to the interval: remove it"),
    ("evaluation_delay", "write `query_offset`"),
];
const RULE_KEYS: [&str; 8] = ["alert", "expr", "for", "keep_firing_for", "labels", "annotations", "samples", "link"];
const RULE_REFUSED: [(&str, &str); 1] = [("record", "move recording rules to a file that `rules.files` does not list")];

/// Reads a file's text.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Group>, Vec<RuleFault>> {
    let (mut doc, root) = Document::parse(path, text, MoreDocuments::Refused);
    let groups = root.map(|root| read_root(&mut doc, path, &root)).unwrap_or_default();
    let faults = doc.into_faults();
    if faults.is_empty() { Ok(groups) } else { Err(faults) }
}

fn read_root(doc: &mut Document, path: &Path, root: &Node) -> Vec<Group> {
    let Some(fields) = doc.map(root, "a rule file", &["groups", "namespace"]) else { return Vec::new() };
    let Some(list) = fields.get("groups") else {
        if fields.key("groups").is_none() {
            doc.fault(
                fields.place,
                "the file has no `groups`",
                Some("begin it with `groups:` and a list of groups".into()),
            );
        }
        return Vec::new();
    };
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut groups = Vec::new();
    for node in doc.list(list, "`groups`") {
        let Some(group) = read_group(doc, path, node) else { continue };
        if let Some(first) = names.insert(group.name.clone(), node.place.line())
            && !group.name.is_empty()
        {
            let message = format!("group `{}` is defined twice in this file, first in line {first}", group.name);
            doc.fault(&node.place, message, Some("give one of them another name".into()));
        }
        groups.push(group);
    }
    groups
}

fn read_group(doc: &mut Document, path: &Path, node: &Node) -> Option<Group> {
    let fields = doc.map_except(node, "a group", &GROUP_KEYS, &GROUP_REFUSED)?;
    let name = required(doc, &fields, "name", "a group").unwrap_or_default();
    let interval = fields.get("interval").and_then(|n| doc.duration(n, "`interval`"));
    if interval.is_some_and(|i| i.is_zero())
        && let Some(node) = fields.get("interval")
    {
        doc.fault(&node.place, "`interval` must be longer than 0", Some("remove it to use `rules.interval`".into()));
    }
    let query_offset = fields.get("query_offset").and_then(|n| doc.duration(n, "`query_offset`")).unwrap_or_default();
    let limit = fields.get("limit").and_then(|n| doc.count(n, "`limit`")).unwrap_or(0);
    let on_arrival = fields.get("on_arrival").and_then(|n| doc.flag(n, "`on_arrival`")).unwrap_or(false);
    let labels = fields.get("labels").map(|n| read_labels(doc, n, "`labels`", true)).unwrap_or_default();
    let mut rules = Vec::new();
    match fields.get("rules") {
        Some(list) => {
            for node in doc.list(list, "`rules`") {
                rules.extend(read_rule(doc, node, &labels));
            }
        }
        None if misspelt(&fields, "rules") => {}
        None => {
            doc.fault(
                fields.place,
                format!("group `{name}` has no `rules`"),
                Some("add `rules:` with a list of rules".into()),
            );
        }
    }
    Some(Group {
        file: path.to_owned(),
        name,
        interval,
        query_offset,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        on_arrival,
        rules,
    })
}

fn read_rule(doc: &mut Document, node: &Node, group_labels: &[(String, Template)]) -> Option<Rule> {
    let fields = doc.map_except(node, "a rule", &RULE_KEYS, &RULE_REFUSED)?;
    let recording = fields.key("record").is_some();
    let alert = match fields.get("alert") {
        Some(node) => doc.filled(node, "`alert`").map(str::to_owned),
        None if recording => None,
        None => required(doc, &fields, "alert", "a rule"),
    };
    let expr = match fields.get("expr") {
        Some(node) => read_expr(doc, node),
        None => {
            required(doc, &fields, "expr", "a rule");
            None
        }
    };
    let hold = fields.get("for").and_then(|n| doc.duration(n, "`for`")).unwrap_or_default();
    let keep_firing =
        fields.get("keep_firing_for").and_then(|n| doc.duration(n, "`keep_firing_for`")).unwrap_or_default();
    let mut labels = group_labels.to_vec();
    for (name, template) in fields.get("labels").map(|n| read_labels(doc, n, "`labels`", true)).unwrap_or_default() {
        labels.retain(|(have, _)| *have != name);
        labels.push((name, template));
    }
    let annotations =
        fields.get("annotations").map(|n| read_labels(doc, n, "`annotations`", false)).unwrap_or_default();
    let samples = fields.get("samples").and_then(|n| doc.count(n, "`samples`")).unwrap_or(0);
    let link = fields.get("link").and_then(|n| read_template(doc, n, "`link`"));
    Some(Rule {
        alert: alert?,
        expr: expr?,
        hold,
        keep_firing,
        labels,
        annotations,
        samples,
        link,
        line: node.place.line(),
    })
}

fn required(doc: &mut Document, fields: &Fields<'_>, key: &str, what: &str) -> Option<String> {
    match fields.get(key) {
        Some(node) => doc.filled(node, &format!("`{key}`")).map(str::to_owned),
        None => {
            if fields.key(key).is_some() || !misspelt(fields, key) {
                let at = fields.key(key).unwrap_or(fields.place);
                doc.fault(at, format!("{what} needs `{key}`"), None);
            }
            None
        }
    }
}

/// Whether a key is there in a wrong spelling, which has been told already with its suggestion.
fn misspelt(fields: &Fields<'_>, key: &str) -> bool {
    fields.all().iter().any(|have| have.key != key && nearest(&have.key, [key]).is_some())
}

fn read_expr(doc: &mut Document, node: &Node) -> Option<Expression> {
    let text = doc.filled(node, "`expr`")?;
    match Expression::parse(text) {
        Ok(expr) => Some(expr),
        Err(fault) => {
            let at = node.place_within(fault.offset);
            doc.fault(&at, format!("invalid LogQL in `expr`: {}", fault.message), fault.hint);
            None
        }
    }
}

/// Names with templates; `strict` names are labels, the others annotations: both follow the rule for label names.
fn read_labels(doc: &mut Document, node: &Node, what: &str, strict: bool) -> Vec<(String, Template)> {
    let Value::Map(entries) = &node.value else {
        doc.fault(&node.place, format!("{what} must be a map of names and texts"), None);
        return Vec::new();
    };
    let mut list: Vec<(String, Template)> = Vec::new();
    for MapEntry { key, place, node: value } in entries {
        if !is_label_name(key) || (strict && key == "__name__") {
            let hint = "use letters, digits and `_`, with no digit at the start".to_owned();
            doc.fault(place, format!("invalid name `{key}` for {what}"), Some(hint));
        }
        if list.iter().any(|(have, _)| have == key) {
            doc.fault(place, format!("duplicate name `{key}` in {what}"), Some("remove one of them".into()));
        }
        if value.is_null() {
            list.extend(Template::parse("").ok().map(|t| (key.clone(), t)));
        } else if let Some(template) = read_template(doc, value, &format!("`{key}`")) {
            list.push((key.clone(), template));
        }
    }
    list
}

fn read_template(doc: &mut Document, node: &Node, what: &str) -> Option<Template> {
    let text = doc.text(node, what)?;
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(faults) => {
            for fault in faults {
                let at = node.place_within(fault.offset);
                doc.fault(&at, format!("{what}: {}", fault.message), Some(fault.hint));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
groups:
  - name: errors
    interval: 30s
    limit: 10
    labels: {team: web}
    rules:
      - alert: ErrorRate
        expr: |
          sum by (service) (rate({env="demo"} |= "error" [1m])) > 1
        for: 2m
        keep_firing_for: 5m
        labels: {severity: page, team: "{{ $labels.service }}"}
        annotations:
          summary: '{{ $labels.service }} fails {{ $value }} times a second'
        link: http://wiki/{{ $labels.service }}
  - name: empty
    rules: []
"#;

    #[test]
    fn a_good_file_is_read() {
        let groups = parse(Path::new("f.yaml"), GOOD).expect("good");
        assert_eq!(groups.len(), 2);
        let group = &groups[0];
        assert_eq!((group.name.as_str(), group.interval, group.limit), ("errors", Some(Duration::from_secs(30)), 10));
        let rule = &group.rules[0];
        assert_eq!((rule.hold, rule.keep_firing), (Duration::from_secs(120), Duration::from_secs(300)));
        let names: Vec<&str> = rule.labels.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!((names, rule.labels[1].1.source()), (vec!["severity", "team"], "{{ $labels.service }}"));
        assert_eq!(rule.line, 8);
    }

    #[test]
    fn all_faults_are_told_with_line_column_and_hint() {
        let text = r#"groups:
  - name: a
    intervall: 1m
    interval: 5
    rules:
      - alert: One
        exprr: sum(rate({a="b"}[1m])) > 1
        for: 1.5m
        labels: {bad-name: x}
        annotations:
          summary: |
            first line
            then {{ $value | humanise }}
          other: "{{ query .Labels.x }}"
      - record: r
        expr: sum(rate({a="b"}[1m]))
      - alert: ""
        expr: ""
      - just text
  - name: a
    rules: {}
    remote_write: {}
group: []
"#;
        let faults = parse(Path::new("rules/bad.yaml"), text).expect_err("faults");
        let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(list.join("\n\n"));
    }

    #[test]
    fn faults_of_expressions_are_found_in_their_place() {
        let text = r#"groups:
  - name: a
    rules:
      - alert: Block
        expr: |
          sum by (service) (
            rate({env="demo" |= "error" [1m])
          ) > 1
      - alert: Quoted
        expr: "sum(rate({env=\"demo\"} [1x]))"
      - alert: Lines
        expr: '{env="demo"} |= "it''s"'
      - alert: Folded
        expr: >-
          count_over_time({env="demo"}
          [1m]) > > 5
"#;
        let faults = parse(Path::new("rules/logql.yaml"), text).expect_err("faults");
        let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(list.join("\n\n"));
    }

    #[test]
    fn text_that_is_no_yaml_is_one_fault() {
        let list: Vec<String> = ["groups: [", "groups:\n\t- a", "- a", "groups: 1", "a: b\n---\nc: d\n"]
            .iter()
            .flat_map(|text| parse(Path::new("f.yaml"), text).expect_err(text))
            .map(|f| f.to_string())
            .collect();
        insta::assert_snapshot!(list.join("\n\n"));
    }

    #[test]
    fn an_empty_file_has_no_rules() {
        for text in ["", "# nothing\n", "groups:\n", "groups: []\n"] {
            assert_eq!(parse(Path::new("f.yaml"), text).expect(text).len(), 0, "{text}");
        }
    }

    #[test]
    fn patterns_find_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yaml", "c.yml", ".hidden.yaml"] {
            std::fs::write(folder.path().join(name), "groups: []\n").unwrap();
        }
        let pattern = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let found = find_files(&[pattern("*.yaml"), pattern("a.yaml"), pattern("none/*.yaml")]).unwrap();
        let names: Vec<String> = found.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["a.yaml", "b.yaml"]);
        for (pattern, name, want) in [
            ("*.yaml", "a.yaml", true),
            ("a*b*c", "aXbYbc", true),
            ("a?c", "ac", false),
            ("?", "ä", true),
            ("*", "", true),
        ] {
            assert_eq!(matches_name(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_missing_file_is_told() {
        let faults = check_files(&["/nowhere/x.yaml"]);
        assert!(
            faults[0].to_string().starts_with("/nowhere/x.yaml: the file can't be read: No such file"),
            "{}",
            faults[0]
        );
    }

    #[test]
    fn shipped_examples_are_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!files.is_empty());
        let faults = check_files(&files);
        assert!(faults.is_empty(), "{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
}
