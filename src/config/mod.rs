//! Configuration: YAML to a tree with places, environment over it, every fault at once, then the types of the rooms.
//!
//! In: a file, variables, paths of the command line. Out: a checked [`Config`], or all [`LocatedFault`]s.
//! Touches the file only. The order: `tree` reads, `environment` expands and overlays, `schema` compares with the
//! types (their JSON schema), then the rooms' own `check()` says what types can't.

/// Places of settings, and what is wrong there.
pub mod place;
/// YAML with places.
pub mod tree;
/// Variables.
pub mod environment;
/// Keys, kinds and suggestions.
pub mod schema;
/// The section `broker:`.
pub mod broker_section;
/// The whole configuration.
pub mod types;
/// Every key with its default.
pub mod reference;

use std::path::{Path, PathBuf};

use millrace_log::value::Faults;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

pub use place::LocatedFault;
pub use types::{Config, reachable};

use environment::Variables;
use tree::Node;

/// Where the configuration lies if no flag names it.
pub const DEFAULT_FILE: &str = "/etc/millrace/millrace.yaml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration {path} can't be read: {source}; name another with -c FILE")]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with it.
    #[error("{}", render(faults))]
    Faults {
        /// At least one, in the order of the file.
        faults: Vec<LocatedFault>,
    },
}

fn render(faults: &[LocatedFault]) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let count = faults.len();
    lines.push(format!("{count} {} in the configuration", if count == 1 { "fault" } else { "faults" }));
    lines.join("\n")
}

/// Reads and checks a file.
pub fn load(path: &Path, variables: &Variables) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text, variables)
}

/// Reads and checks a file; beside the configuration what is most likely not meant so.
pub fn load_with_warnings(path: &Path, variables: &Variables) -> Result<(Config, Vec<LocatedFault>), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let root = rooted(&path.display().to_string(), &text)?;
    let (config, root) = typed(root, variables)?;
    let mut warnings = Faults::default();
    if let Some(agent) = &config.agent {
        warnings.within("agent", |w| agent.warn(w));
    }
    Ok((config, located(&root, warnings)))
}

/// Checks the text of a file; `file` is its name for messages.
pub fn parse(file: &str, text: &str, variables: &Variables) -> Result<Config, ConfigError> {
    Ok(typed(rooted(file, text)?, variables)?.0)
}

fn rooted(file: &str, text: &str) -> Result<Node, ConfigError> {
    tree::parse(file, text).map_err(|fault| ConfigError::Faults { faults: vec![fault] })
}

/// Every role that needs nothing but its defaults, under the variables of the environment.
pub fn embedded(variables: &Variables) -> Result<Config, ConfigError> {
    let place = environment::of_flag("no file");
    // No agent: what it should tail, only a file or the command line can say.
    let sections = ["broker", "aggregator", "rules", "notify"].map(|key| tree::Entry {
        key: key.to_owned(),
        place: place.clone(),
        node: Node::empty_map(place.clone()),
    });
    Ok(typed(Node::new(tree::Value::Map(sections.into()), place), variables)?.0)
}

/// The configuration, and the tree that it was made from.
fn typed(mut root: Node, variables: &Variables) -> Result<(Config, Node), ConfigError> {
    let mut faults = Vec::new();
    environment::expand(&mut root, variables, &mut faults);
    environment::overlay(&mut root, variables, &mut faults);
    let config = checked(&root, &schema(), faults, Config::check)?;
    Ok((config, root))
}

/// Reads a file of another kind by the same rules, but without variables.
pub fn parse_as<T: DeserializeOwned + JsonSchema>(
    file: &str,
    text: &str,
    check: impl FnOnce(&T, &mut Faults),
) -> Result<T, ConfigError> {
    let root = rooted(file, text)?;
    checked(&root, &schema_of::<T>(), Vec::new(), check)
}

/// Types a tree by their schema, then by their own check.
fn checked<T: DeserializeOwned>(
    root: &Node,
    schema: &Json,
    mut faults: Vec<LocatedFault>,
    check: impl FnOnce(&T, &mut Faults),
) -> Result<T, ConfigError> {
    let mut by_schema = schema::Check::new(schema);
    let json = by_schema.node(root, schema);
    faults.append(&mut by_schema.faults);
    if let (Some(json), true) = (json, faults.is_empty()) {
        match serde_json::from_value::<T>(json) {
            Ok(typed) => {
                let mut found = Faults::default();
                check(&typed, &mut found);
                if found.is_empty() {
                    return Ok(typed);
                }
                faults.extend(located(root, found));
            }
            Err(error) => faults.push(LocatedFault::new(root.place.clone(), error.to_string())),
        }
    }
    Err(ConfigError::Faults { faults })
}

/// Finds the places of faults.
fn located(root: &Node, faults: Faults) -> Vec<LocatedFault> {
    let locate = |fault: millrace_log::value::Fault| {
        let place = match fault.inside {
            Some((line, column)) => root.place_inside(&fault.path, line, column),
            None => root.place_of(&fault.path).clone(),
        };
        LocatedFault::new(place, format!("{}: {}", fault.path, fault.message))
    };
    faults.into_vec().into_iter().map(locate).collect()
}

/// The JSON schema of the configuration, for editors (`millrace schema`) and for the check.
pub fn schema() -> Json {
    schema_of::<Config>()
}

fn schema_of<T: JsonSchema>() -> Json {
    let mut schema = schemars::schema_for!(T).to_value();
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    inline_tagged(&mut schema, &definitions);
    schema
}

/// A kind that is told apart by `type:` refers to its struct and adds the tag beside the reference; the struct alone
/// would refuse the tag as an unknown key. Joins the two.
fn inline_tagged(schema: &mut Json, definitions: &Json) {
    match schema {
        Json::Array(items) => items.iter_mut().for_each(|item| inline_tagged(item, definitions)),
        Json::Object(map) => {
            map.values_mut().for_each(|value| inline_tagged(value, definitions));
            let target = map.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
            let target = target.and_then(|name| definitions.get(name)).and_then(Json::as_object).cloned();
            if let (Some(target), Some(Json::Object(own))) = (target, map.get("properties").cloned()) {
                map.remove("$ref");
                let mut properties = own;
                properties.extend(target.get("properties").and_then(Json::as_object).cloned().unwrap_or_default());
                map.insert("properties".to_owned(), Json::Object(properties));
                for (key, value) in target {
                    map.entry(key).or_insert(value);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        match parse("millrace.yaml", text, &Variables::new()) {
            Ok(config) => panic!("good: {config:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn all_faults_come_at_once_with_place_and_hint() {
        insta::assert_snapshot!(faults(
            "data_dirr: /x\n\
             agent:\n  sources:\n    - type: file\n      include: [\"/var/log/*.log\"]\n      labls: {a: b}\n    - type: fil\n    - include: []\n  \
             kafka: {brokers: 127.0.0.1, topic: [a]}\n\
             aggregator:\n  retention: {age: 30 days, size: 50Gib}\n  http: {max_requests: lots}\n  http: {}\n\
             exports:\n  - type: elasticsearch\n    urll: x\n"
        ));
    }

    #[test]
    fn warnings_of_programs_have_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("good.vrl"), ".x = 1\nlevel = downcase(\"X\")\n.y = 3\n").unwrap();
        let text = format!(
            "agent:\n  sources:\n    - type: file\n      include: [/var/log/x.log]\n      transforms:\n        - type: vrl\n          \
             program: |\n            .a = 1\n            downcase(\"X\")\n            .b = 1\n        - named\n  transforms:\n    \
             named: {{type: vrl, file: {}}}\n    clean: {{type: vrl, program: \".c = 1\"}}\n",
            at("good.vrl").display()
        );
        std::fs::write(at("millrace.yaml"), text).unwrap();
        let (config, warnings) = load_with_warnings(&at("millrace.yaml"), &Variables::new()).unwrap();
        assert_eq!(config.agent.unwrap().sources.len(), 1);
        let shown: Vec<String> = warnings
            .iter()
            .map(|warning| warning.to_string().replace(&folder.path().display().to_string(), "DIR"))
            .map(|text| text.lines().next().unwrap().to_owned())
            .collect();
        assert_eq!(
            shown,
            [
                "DIR/millrace.yaml:9:13: agent.sources[0].transforms[0].program: warning[E900]: unused result for \
                 function call `downcase(\"X\")`",
                "DIR/millrace.yaml:13:30: agent.transforms.named.file: DIR/good.vrl:2:1: warning[E900]: unused \
                 variable `level`",
            ]
        );
    }

    #[test]
    fn faults_of_rooms_have_their_place_too() {
        insta::assert_snapshot!(faults(
            "aggregator:\n  kafka:\n    topics: [logs, logs]\n  http:\n    listen: nowhere\nrules: {}\nstreams: [{}]\n"
        ));
    }

    #[test]
    fn roles_that_the_own_broker_keeps_out_are_told_what_to_set() {
        let text = faults(
            "broker:\n  users: [{name: agent, password: secret}]\n  listeners:\n    - {name: outside, listen: \"0.0.0.0:9092\", sasl: {mechanisms: [PLAIN]}}\n\
             aggregator:\n  kafka: {sasl_mechanism: PLAIN, sasl_username: agent, sasl_password: other}\n\
             agent:\n  sources: [{type: file, include: [/var/log/*.log]}]\n",
        );
        assert!(
            text.contains("agent.kafka.sasl_mechanism: listener `outside` of this broker requires a login by PLAIN"),
            "{text}"
        );
        assert!(
            text.contains("millrace.yaml:6:71: aggregator.kafka.sasl_password: is not the password of `agent`"),
            "{text}"
        );
    }

    #[test]
    fn the_whole_file_of_the_documentation_is_good() {
        let page = include_str!("../../docs/operations.md");
        let text = page.split("```yaml\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
        let config = parse("docs/operations.md", text, &Variables::new()).unwrap();
        assert!(config.agent.is_some() && config.broker.is_some() && config.notify.is_some());
    }

    #[test]
    fn topics_and_routes_are_checked_at_their_places() {
        let text = faults(
            "broker:\n  default_topic_config: {retention.mss: 1}\n  topics:\n    a.b:\n      partitions: 0\n      config:\n        \
             cleanup.policy: shred\n        segment.byts: 1\n",
        );
        for want in [
            "f.yaml:2:26: unknown key `retention.mss`: did you mean `retention.ms`?",
            "f.yaml:8:9: unknown key `segment.byts`: did you mean `segment.bytes`?",
        ] {
            assert!(text.replace("millrace.yaml", "f.yaml").contains(want), "{text}");
        }
        let text = faults(
            "broker:\n  topics:\n    a.b:\n      partitions: 0\n      config:\n        cleanup.policy: shred\n  \
             routes:\n    - {from: logs, to: logs}\n    - from: logs\n      to: errors\n      match: level=error\n",
        );
        for want in [
            "millrace.yaml:4:19: broker.topics.a.b.partitions: must lie between",
            "millrace.yaml:6:25: broker.topics.a.b.config.cleanup.policy: invalid value `shred`",
            "millrace.yaml:8:24: broker.routes[0].to: is the topic that is read",
            "millrace.yaml:11:14: broker.routes[1].match: invalid stream selector `level=error`",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
        let good = "broker:\n  topics: {logs: {partitions: 8, config: {retention.ms: 86400000}}}\n  routes:\n    \
                    - {from: logs, to: errors, match: '{level=~\"error|warn\"}', drop_labels: [pod]}\n";
        assert_eq!(parse("f", good, &Variables::new()).unwrap().broker.unwrap().routes.len(), 1);
    }

    #[test]
    fn faults_of_programs_stand_where_they_are_in_the_file() {
        insta::assert_snapshot!(faults(
            "agent:\n  transforms:\n    parse:\n      type: vrl\n      program: |\n        . = parse_json(.message)\n        \
             .labels.level = downcase(.level)\n    noise: {type: drop, if: '.level = \"debug\"'}\n  sources:\n    - type: file\n      \
             include: [/var/log/*.log]\n      transforms: [parse, niose, {type: redact, presets: [cards]}]\n    - type: file\n      \
             include: [/var/log/*.txt]\n      transforms:\n        - type: sampel\n"
        ));
        insta::assert_snapshot!(faults(
            "agent:\n  transforms:\n    parse:\n      type: vrl\n      program: |\n        . = parse_json(.message)\n        \
             .labels.level = downcase(.level)\n    noise: {type: drop, if: '.level = \"debug\"'}\n    file: {type: vrl, file: /no/such.vrl}\n  \
             sources:\n    - type: file\n      include: [/var/log/*.log]\n      transforms: [parse, niose, {type: drop, if: .message}]\n"
        ));
    }

    #[test]
    fn a_variable_overrides_and_its_fault_names_it() {
        let variables = [("MILLRACE__AGGREGATOR__HTTP__LISTEN".to_owned(), "x".to_owned())].into();
        let text = parse("f", "aggregator: {}\n", &variables).unwrap_err().to_string();
        assert!(text.contains("environment variable MILLRACE__AGGREGATOR__HTTP__LISTEN"), "{text}");
        assert!(embedded(&Variables::new()).unwrap().aggregator.is_some());
    }
}
