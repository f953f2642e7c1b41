//! `millrace test`: runs tests of the agent's transforms.
//!
//! In: configuration and test files. Out: a table or JSON, an exit status. Side effects: reads files.

use std::fmt::Write as _;

use millrace_agent::transform_test::{self, TestFile, TestResult};

use super::flags::ConfigFlags;
use super::terminal::{Output, print};
use super::validate;
use crate::config::{self, ConfigError};
use crate::exit::{Code, Failure};

/// What a file's tests gave.
#[derive(serde::Serialize)]
struct FileResult {
    file: String,
    tests: Vec<TestResult>,
}

/// Runs the tests of the files, or of those that the configuration names; exit 1 if one fails, 78 if a file has faults.
pub fn test(flags: &ConfigFlags, files: &[String], output: Output) -> Result<(), Failure> {
    let config = validate::read(flags)?;
    let Some(agent) = config.agent else {
        return Err(Failure::text(Code::Config, "the configuration has no section `agent`: give another with -c FILE"));
    };
    let patterns = if files.is_empty() { &agent.transform_tests } else { files };
    if patterns.is_empty() {
        let text = "no tests: give files, or set `agent.transform_tests`";
        return Err(Failure::text(Code::Usage, text));
    }
    let faults = |faults: Vec<String>| {
        let count = faults.len();
        let count = format!("{count} {} in the test files", if count == 1 { "error" } else { "errors" });
        Failure::text(Code::Config, format!("{}\n{count}", faults.join("\n")))
    };
    let paths = millrace_rules::file::find_files(patterns)
        .map_err(|found| faults(found.iter().map(ToString::to_string).collect()))?;
    if paths.is_empty() {
        return Err(Failure::text(Code::Config, format!("no file matches {}", patterns.join(", "))));
    }
    let mut wrong = Vec::new();
    let mut read = Vec::new();
    for path in &paths {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                wrong.push(format!("cannot read {name}: {error}"));
                continue;
            }
        };
        match config::parse_as::<TestFile>(&name, &text, |file, faults| file.check(&agent, faults)) {
            Ok(file) => read.push((name, file)),
            Err(ConfigError::Faults { faults }) => wrong.extend(faults.iter().map(ToString::to_string)),
            Err(error @ ConfigError::Read { .. }) => wrong.push(error.to_string()),
        }
    }
    if !wrong.is_empty() {
        return Err(faults(wrong));
    }
    let mut results = Vec::new();
    for (file, tests) in read {
        results.push(FileResult { file, tests: transform_test::run(&agent, &tests)? });
    }
    let all = results.iter().map(|file| file.tests.len()).sum::<usize>();
    let failed = results.iter().flat_map(|file| &file.tests).filter(|test| !test.passed).count();
    match output {
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&results)?))?,
        Output::Table => print(&table(&results))?,
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::text(Code::Failed, format!("{failed} of {all} {} failed", tests_word(all)))),
    }
}

fn tests_word(count: usize) -> &'static str {
    if count == 1 { "test" } else { "tests" }
}

/// For people: a line for each test, below it what differs.
fn table(results: &[FileResult]) -> String {
    let mut out = String::new();
    let mut write = |text: std::fmt::Arguments<'_>| {
        // Writing to a String never fails.
        let written = out.write_fmt(text);
        debug_assert!(written.is_ok(), "a String takes every text");
    };
    let mut all = 0;
    for file in results {
        write(format_args!("{}\n", file.file));
        for test in &file.tests {
            all += 1;
            write(format_args!("  {}  {}\n", if test.passed { "ok  " } else { "FAIL" }, test.name));
            for difference in &test.differences {
                write(format_args!("        event {}, {}\n", difference.event, difference.key));
                for (sign, side) in [("-", &difference.want), ("+", &difference.found)] {
                    for (i, line) in side.split('\n').enumerate() {
                        write(format_args!("        {} {line}\n", if i == 0 { sign } else { " " }));
                    }
                }
            }
        }
    }
    let failed = results.iter().flat_map(|file| &file.tests).filter(|test| !test.passed).count();
    write(format_args!("{all} {}, {failed} failed\n", tests_word(all)));
    out
}

#[cfg(test)]
mod tests {

    use super::*;

    const CONFIG: &str = "\
agent:
  transforms:
    parse:
      type: vrl
      program: |
        . |= object!(parse_json!(.message))
        del(.message)
        .labels.level = del(.level)
    debug: {type: drop, if: '.labels.level == \"debug\"', reason: debug}
  sources:
    - type: file
      include: [/var/log/shop/*.log]
      labels: {service: shop}
      transforms: [parse, debug]
";

    fn run(tests: &str) -> Result<(), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| -> std::path::PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let flags = ConfigFlags { config: Some(place("millrace.yaml", CONFIG)), data_dir: None };
        let tests = place("tests.yaml", tests).display().to_string();
        test(&flags, &[tests], Output::Table)
    }

    #[test]
    fn exit_codes_tell_failures_from_faults() {
        let good = "tests:\n  - name: level becomes a label\n    input:\n      - line: '{\"level\": \"warn\", \"n\": 1}'\n        \
                    filename: /var/log/shop/a.log\n    want:\n      - fields: {n: 1, level: null}\n        labels: {level: warn}\n";
        assert!(run(good).is_ok());
        let failure = run(&good.replace("n: 1, level", "n: 2, level")).unwrap_err();
        assert_eq!((failure.kind(), failure.to_string().as_str()), (Code::Failed, "1 of 1 test failed"));
        let failure = run(&good.replace("want:", "wnat:")).unwrap_err();
        assert_eq!(failure.kind(), Code::Config);
        assert!(failure.to_string().contains("tests.yaml:6:5: unknown key `wnat`: did you mean `want`?"), "{failure}");
        let failure = run(&good.replace("/var/log/shop", "/var/log/other")).unwrap_err();
        assert!(
            failure.to_string().contains("tests.yaml:5:19: tests[0].input[0].filename: no source of the configuration reads `/var/log/other/a.log`"),
            "{failure}"
        );
    }

    #[test]
    fn the_example_of_the_documentation_passes() {
        let page = include_str!("../../docs/transforms.md");
        let block = |head: &str| {
            let text = page.split("```yaml\n").find(|text| text.starts_with(head)).expect(head);
            text.split("```").next().unwrap_or_default().to_owned()
        };
        let config = config::parse("docs/transforms.md", &block("agent:\n  transforms:"), &Default::default()).unwrap();
        let agent = config.agent.unwrap();
        let file =
            config::parse_as::<TestFile>("docs/transforms.md", &block("tests:"), |file, f| file.check(&agent, f))
                .unwrap();
        let results = transform_test::run(&agent, &file).unwrap();
        assert!(results.iter().all(|test| test.passed), "{results:#?}");
        assert!(results.len() > 1);
    }

    #[test]
    fn failures_are_shown_with_both_sides() {
        let difference = |key: &str, want: &str, found: &str| transform_test::Difference {
            event: 2,
            key: key.to_owned(),
            want: want.to_owned(),
            found: found.to_owned(),
        };
        let test = |name: &str, differences: Vec<transform_test::Difference>| TestResult {
            name: name.to_owned(),
            passed: differences.is_empty(),
            differences,
        };
        let tests = vec![
            test("good", Vec::new()),
            test("bad", vec![difference("fields.n", "2", "1"), difference("message", "a\nb", "a\nc")]),
        ];
        insta::assert_snapshot!(table(&[FileResult { file: "t.yaml".to_owned(), tests }]));
    }
}
