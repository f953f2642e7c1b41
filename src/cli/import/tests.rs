//! Whole files of each program in `tests/data/import/`: the wanted result stands beside each as `NAME.want.yaml` (what is
//! left over and good to know is in its comments). `UPDATE_IMPORT=1` writes them anew; look at what changed.

use std::path::{Path, PathBuf};

use millrace_agent::transform_test::{self, TestFile};

use super::*;
use crate::config::environment::Variables;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

/// As `millrace import` from within the folder of the files.
fn imported(format: Format, name: &str) -> (String, Draft) {
    let path = folder().join(name);
    let draft = draft(format, &path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let prefix = format!("{}/", folder().display());
    (draft.render(format.name(), &path.display().to_string()).replace(&prefix, ""), draft)
}

/// File, and how many things are left out.
const FILES: [(Format, &str, usize); 14] = [
    (Format::Promtail, "promtail-simple.yaml", 1),
    (Format::Promtail, "promtail-stages.yaml", 9),
    (Format::Vector, "vector-kafka.toml", 0),
    (Format::Vector, "vector-loki.yaml", 8),
    (Format::Vector, "vector-elastic.json", 2),
    (Format::Filebeat, "filebeat-kafka.yml", 0),
    (Format::Filebeat, "filebeat-mixed.yml", 9),
    (Format::FluentBit, "fluent-bit-kafka.conf", 0),
    (Format::FluentBit, "fluent-bit-mixed.conf", 11),
    (Format::FluentBit, "fluent-bit.yaml", 3),
    (Format::Promtail, "promtail-transforms.yaml", 1),
    (Format::Vector, "vector-transforms.yaml", 4),
    (Format::Filebeat, "filebeat-lines.yml", 2),
    (Format::FluentBit, "fluent-bit-grep.conf", 3),
];

/// The transforms of a result do with lines what the other program does: `NAME.tests.yaml` beside the file.
#[test]
fn transforms_do_what_the_other_program_does() {
    let mut count = 0;
    for (format, name, _) in FILES {
        let path = folder().join(format!("{name}.tests.yaml"));
        let Ok(tests) = std::fs::read_to_string(&path) else { continue };
        let (text, _) = imported(format, name);
        let agent = crate::config::parse(name, &text, &Variables::new()).unwrap().agent.unwrap();
        let tests =
            crate::config::parse_as::<TestFile>(name, &tests, |file, faults| file.check(&agent, faults)).unwrap();
        for result in transform_test::run(&agent, &tests).unwrap() {
            assert!(result.passed, "{name}: {result:#?}\n{text}");
            count += 1;
        }
    }
    assert!(count >= 7, "{count}");
}

#[test]
fn files_become_what_is_wanted() {
    let update = std::env::var_os("UPDATE_IMPORT").is_some();
    let mut faults = Vec::new();
    for (format, name, left) in FILES {
        let (text, draft) = imported(format, name);
        let given: Variables = ["KAFKA", "REGION", "ES_PASSWORD", "HOSTNAME"]
            .map(|name| (name.to_owned(), "value:9092".to_owned()))
            .into();
        if let Err(error) = crate::config::parse(name, &text, &given) {
            faults.push(format!("{name}: validate refuses the result: {error}\n{text}"));
        }
        let path = folder().join(format!("{name}.want.yaml"));
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        if text != want {
            faults.push(format!("{name}: another result than {}:\n{text}", path.display()));
        }
        if draft.left().len() != left {
            let told: Vec<String> = draft.left().iter().map(ToString::to_string).collect();
            faults.push(format!("{name}: {} things are left out, {left} are wanted:\n{}", told.len(), told.join("\n")));
        }
        // Each says where.
        for told in draft.left() {
            let place = told.place.to_string();
            assert!(place.rsplit(':').take(2).all(|part| part.parse::<usize>().is_ok()), "{told}");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Format, text, what the remarks say, what the result has.
type Said = (Format, &'static str, &'static [&'static str], &'static [&'static str]);

#[test]
fn nothing_is_left_out_or_renamed_silently() {
    let promtail = "scrape_configs:\n  - encoding: UTF-16\n    static_configs:\n      - labels: {__path__: /a, weird-label: x}\n    \
                    pipeline_stages:\n      - json: {expressions: {user.id: id}}\n      - labels: {user.id: }\n      - metrics: {a: b}\n";
    let vector = "[sources.app]\ntype = \"file\"\ninclude = [\"/a\"]\n[transforms.parse]\ntype = \"remap\"\ninputs = [\"app\"]\n\
                  source = \"\"\"\n.a = 1\n.b = no_such_function(.message)\n\"\"\"\n[transforms.after]\ntype = \"filter\"\ninputs = [\"parse\"]\n\
                  condition = \".a == 1\"\n[sinks.out]\ntype = \"kafka\"\ninputs = [\"after\"]\nbootstrap_servers = \"k:9092\"\n\
                  topic = \"logs\"\nbuffer.type = \"disk\"\nhealthcheck.enabled = false\nbatch.max_events = 7\n";
    let elastic = "sources: {app: {type: file, include: [/a]}}\nsinks:\n  out:\n    type: elasticsearch\n    inputs: [app]\n    \
                   endpoints: [\"http://es:9200\"]\n    buffer: {type: disk}\n    healthcheck: false\n";
    let filebeat = "filebeat.inputs:\n  - type: filestream\n    paths: [/a]\n    processors:\n      - add_fields: {target: project, fields: {name: x}}\n      \
                    - add_fields: {target: '', fields: {top: y}}\n      - add_fields: {fields: {plain: z}}\n";
    let cases: &[Said] = &[
        (
            Format::Promtail,
            promtail,
            &[
                "odd:2:5: scrape_configs[0].encoding: names no byte order: set to that of Windows",
                "odd:4:45: label `weird-label`: is `weird_label` here",
                "odd:7:18: label `user.id`: is `user_id` here",
                "instead: a metric query in Grafana, such as",
            ],
            &["encoding: utf-16le", "weird_label: x"],
        ),
        (
            Format::Vector,
            vector,
            &[
                "odd:9:1: transforms.parse (remap): Millrace rejects it: error[E105]: call to undefined function in \
                 `.b = no_such_function(.message)`",
                "odd:11:13: transforms.after (filter): follows `transforms.parse (remap)`, which was not converted",
                "sinks.out.buffer: the files are the buffer",
                "sinks.out.healthcheck: Millrace starts without it",
                "sinks.out.batch: Millrace sizes its requests itself",
            ],
            &["- 'k:9092'"],
        ),
        (
            Format::Vector,
            elastic,
            &["sinks.out.buffer: the log is the buffer", "sinks.out.healthcheck: Millrace starts without it"],
            &["type: elasticsearch"],
        ),
        (
            Format::Filebeat,
            filebeat,
            &["odd:5:9: filebeat.inputs[0].processors[0].add_fields.target: fields below `project` are labels"],
            &["project_name: x", "top: 'y'", "plain: z"],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    for (format, text, said, has) in cases {
        std::fs::write(&path, text).unwrap();
        let draft = draft(*format, &path).unwrap();
        let remarks: Vec<String> = draft.left().iter().chain(draft.notes()).map(ToString::to_string).collect();
        let remarks = remarks.join("\n").replace(&path.display().to_string(), "odd");
        for want in *said {
            assert!(remarks.contains(want), "{format:?}: {want}\n{remarks}");
        }
        let result = draft.render(format.name(), "odd");
        for want in *has {
            assert!(result.contains(want), "{format:?}: {want}\n{result}");
        }
        crate::config::parse("odd", &result, &Variables::new()).unwrap_or_else(|error| panic!("{error}\n{result}"));
    }
}

#[test]
fn files_of_another_program_are_refused() {
    for (format, name) in [
        (Format::Promtail, "vector-loki.yaml"),
        (Format::Promtail, "fluent-bit-kafka.conf"),
        (Format::Vector, "promtail-simple.yaml"),
        (Format::Vector, "fluent-bit-kafka.conf"),
        (Format::Filebeat, "promtail-simple.yaml"),
        (Format::FluentBit, "vector-kafka.toml"),
        (Format::FluentBit, "promtail-simple.yaml"),
        (Format::FluentBit, "nowhere.conf"),
    ] {
        assert!(draft(format, &folder().join(name)).is_err(), "{format:?} {name}");
    }
}

#[test]
fn odd_files_are_imported_or_refused_but_never_break() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.yaml");
    for text in [
        "scrape_configs: 7\n",
        "scrape_configs: [{static_configs: [{labels: {__path__: [a]}}], pipeline_stages: [a, {json: 1}, {match: {}}]}]\n",
        "scrape_configs: [{static_configs: [{labels: {__path__: /a}}], pipeline_stages: [{drop: {expression: '('}}, {labels: {a: }}, {match: {selector: '{', action: drop}}, {limit: 7}, {output: 7}]}]}\n",
        "scrape_configs: [{pipeline_stages: [{multiline: {firstline: '('}}, {timestamp: {}}, {regex: {expression: '('}}]}]\n",
        "sources: {a: {type: file, include: 7, multiline: [], exclude: {}}}\nsinks: {k: {type: kafka, inputs: [a]}}\n",
        "sources: {a: {type: file, include: [\"/a\"]}}\ntransforms: {t: {inputs: [t, a]}}\nsinks: {k: {type: loki, inputs: [t], labels: 7}}\n",
        "filebeat: {inputs: [7, {type: [a]}, {paths: [\"/a[\"], multiline: 7, json: 1, parsers: [7]}]}\noutput.kafka: 7\n",
        "filebeat.inputs: {a: b}\n",
        "filebeat.inputs: [{paths: [/a], include_lines: ['('], exclude_lines: [7, '('], processors: [{drop_event: {when: {or: 7}}}, {drop_event: {when: {not: {equals: {message: [a]}}}}}]}]\n",
        "sources: {a: {type: file, include: [\"/a\"]}}\ntransforms: {t: {type: remap, inputs: [a], source: '.x = ('}, u: {type: filter, inputs: [t], condition: .a == 1}}\n",
        "pipeline: {inputs: [{name: tail, path: 7, multiline.parser: x}, 7], outputs: [{name: kafka, match: '*'}]}\n",
    ] {
        std::fs::write(&path, text).unwrap();
        for format in [Format::Promtail, Format::Vector, Format::Filebeat, Format::FluentBit] {
            if let Ok(draft) = draft(format, &path) {
                let result = draft.render(format.name(), "odd.yaml");
                let read = crate::config::parse("odd.yaml", &result, &Variables::new());
                assert!(read.is_ok(), "{format:?} {text}: {read:?}\n{result}");
            }
        }
    }
}
