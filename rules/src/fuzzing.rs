//! What is fuzzed of rule files: texts that people write, with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds rule files and changed rule files in every test run. Touches nothing. Compiled with the feature `fuzzing`
//! and in tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use std::path::Path;

use crate::file::parse;

/// Rule files that reach far, to begin with.
pub const SEEDS: [&str; 2] = [
    r#"groups:
  - &group
    name: errors
    interval: 30s
    query_offset: 1m
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
          other: "{{ with $x }}{{ printf \"%v\" .Value }}{{ end }}"
        link: http://wiki/{{ $labels.service }}
        samples: 3
  - <<: *group
    name: again
"#,
    "groups:\n- name: a\n  rules:\n  - alert: A\n    expr: >-\n      count_over_time({a=\"b\"}\n\n      [1m]) > 5\n  - record: r\n    expr: '1'\n",
];

/// A file is read, or refused with faults that stand in it.
pub fn rule_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Err(faults) = parse(Path::new("f.yaml"), text) else { return };
    assert!(!faults.is_empty(), "refused without a reason: {text}");
    let lines = text.split('\n').count();
    for fault in faults {
        assert!(fault.place.line() <= lines + 1, "{fault} in a file of {lines} lines: {text}");
        assert!(!fault.message.is_empty() && !fault.to_string().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Changes of a text, as a fuzzer makes them: characters put in, taken out, lines doubled, moved and indented.
    fn changed(seed: &str, edits: &[(usize, u8, char)]) -> String {
        let mut text = seed.to_owned();
        for (at, kind, new) in edits {
            if kind % 2 == 0 {
                let mut chars: Vec<char> = text.chars().collect();
                let at = at % (chars.len() + 1);
                match kind % 6 {
                    0 => chars.insert(at, *new),
                    2 if at < chars.len() => chars[at] = *new,
                    _ => chars.truncate(at.max(1)),
                }
                text = chars.into_iter().collect();
            } else {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                if lines.is_empty() {
                    continue;
                }
                let at = at % lines.len();
                match kind % 6 {
                    1 => lines.insert(at, lines[at].clone()),
                    3 => drop(lines.remove(at)),
                    _ => lines[at].insert_str(0, "  "),
                }
                text = lines.join("\n");
            }
        }
        text
    }

    #[test]
    fn promises_hold_for_seeds() {
        for seed in SEEDS {
            rule_file(seed.as_bytes());
        }
    }

    /// Fills the folder that cargo-fuzz starts from.
    #[test]
    #[ignore = "writes files for tests/fuzz"]
    fn corpus_is_written() {
        let folder = std::path::PathBuf::from(std::env::var("MILLRACE_CORPUS").unwrap()).join("rule_file");
        std::fs::create_dir_all(&folder).unwrap();
        for (n, seed) in SEEDS.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n:04}")), seed).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// A short form of `tests/fuzz` that every test run can afford.
        #[test]
        fn promises_hold_for_changed_seeds(
            seed in 0..SEEDS.len(),
            edits in prop::collection::vec((any::<usize>(), any::<u8>(), prop_oneof![prop::char::range(' ', '~'), any::<char>()]), 1..6),
        ) {
            rule_file(changed(SEEDS[seed], &edits).as_bytes());
        }
    }
}
