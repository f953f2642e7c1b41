//! Configuration: YAML to a tree with places, environment over it, every fault at once, then the types of the rooms.
//!
//! In: a file, variables, paths of the command line. Out: a checked [`Config`], or all [`LocatedFault`]s.
//! Touches files only by reading.

/// The section `broker:`.
pub mod broker_section;
/// What could not be read, and what follows from that.
pub mod damage;
/// The sections as types.
pub mod types;
/// Their JSON schema.
pub mod schema;
/// Every key with its default.
pub mod reference;
/// Variables.
pub mod environment;
/// The tree against the schema: keys, kinds and suggestions.
pub mod compare;
/// Addresses to listen on, and those that exclude each other.
pub mod listeners;
/// Files, secrets and certificates that a start reads.
pub mod outside;
/// A configuration that a process can start with.
pub mod settings;
/// From a file to a checked configuration.
pub mod load;

pub use load::{ConfigError, Written, parse, parse_as};
pub use millrace_log::yaml::LocatedFault;
pub use schema::schema;
pub use settings::Settings;
pub use types::{Config, reachable};

/// Where the configuration lies if no flag names it.
pub const DEFAULT_FILE: &str = "/etc/millrace/millrace.yaml";

#[cfg(test)]
mod tests {
    use super::environment::Variables;
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
        let settings = Written::read(&at("millrace.yaml"), &Variables::new()).unwrap().settings().unwrap();
        assert_eq!(settings.config.agent.unwrap().sources.len(), 1);
        let shown: Vec<String> = settings
            .warnings
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
    fn what_cannot_be_read_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("millrace.yaml");
        let rules = folder.path().join("rules");
        std::fs::create_dir(&rules).unwrap();
        let text = format!(
            "data_dirr: /x\n\
             agent:\n  sources:\n    - type: fil\n    - {{type: file, include: [/var/log/*.log], labls: {{}}, transforms: [niose]}}\n    \
             - {{type: otlp, http: '127.0.0.1:4318', grpc: '127.0.0.1:4318'}}\n    - {{type: syslog, tcp: 'nowhere'}}\n\
             aggregator:\n  kafka: {{topics: [logs, logs]}}\n  http: {{auth: {{tokn: x}}, listen: '0.0.0.0:3100'}}\n  \
             elasticsearch: {{max_requests: lots}}\n  retention: {{age: '${{AGE}}'}}\n\
             rules: {{files: ['{}']}}\n\
             notify: {{config_file: /no/such/file, listen: nowhere}}\n",
            rules.display()
        );
        std::fs::write(&file, text).unwrap();
        let found = Written::read(&file, &Variables::new()).unwrap().settings().unwrap_err().to_string();
        insta::assert_snapshot!(found.replace(&folder.path().display().to_string(), "DIR"));
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
        assert!(Written::embedded(&Variables::new()).unwrap().config.aggregator.is_some());
    }
}
