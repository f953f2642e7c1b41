//! What is fuzzed of rules: files and templates that people write, with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the tests
//! below feed seeds, changed seeds and kept inputs in every test run. Touches nothing. Compiled with the feature `fuzzing` and
//! in tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use std::path::Path;

use millrace_fuzzing::{Target, texts};
use millrace_log::alert::LabelSet;

use crate::file::parse;
use crate::template::{MAX_RENDERED_BYTES, Surroundings, Template};

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "rule_file", run: rule_file, seeds: |_| texts(&SEEDS) },
    Target { name: "rule_template", run: rule_template, seeds: |_| texts(&TEMPLATES) },
];

/// Rule files that reach far, to begin with.
const SEEDS: [&str; 2] = [
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
fn rule_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Err(faults) = parse(Path::new("f.yaml"), text) else { return };
    assert!(!faults.is_empty(), "refused without a reason: {text}");
    let lines = text.split(['\n', '\r']).count();
    for fault in faults {
        assert!(fault.place.line() <= lines + 1, "{fault} in a file of {lines} lines: {text}");
        assert!(!fault.message.is_empty() && !fault.to_string().is_empty());
    }
}

/// Templates of labels and annotations.
const TEMPLATES: [&str; 4] = [
    "plain } text { {{ $labels.service }} in {{$labels.region}}: {{\t$value }}/s größe ✓",
    "a {{ if gt $value 5.0 }}b{{ end }} {{ .Value }} {{ .Labels.service }} {{ printf \"%.2f\" $value }} {{- $value -}}",
    "{{ $labels }} {{ $labels.bad-name }} {{ with $x := 1 }} {{}} {{/* note */}} {{ $externalURL }} {{ $value | humanize }}",
    "{{ $value }} open {{ $value",
];

/// A template is refused with faults that stand in it, or renders to a text that is not too long.
fn rule_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Template::parse(text) {
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason: {text}");
            for fault in faults {
                assert!(text.is_char_boundary(fault.offset), "{fault:?} in {text}");
                assert!(!fault.message.is_empty() && !fault.hint.is_empty(), "{fault:?} in {text}");
            }
        }
        Ok(template) => {
            assert_eq!(template.source(), text);
            let long = "y".repeat(MAX_RENDERED_BYTES / 2);
            let labels = LabelSet::from([("service".to_owned(), "a".to_owned()), ("region".to_owned(), long)]);
            let around = Surroundings::new("http://page", &labels);
            match around.render(&template, &labels, 2.5, 0) {
                Ok(rendered) => assert!(rendered.len() <= MAX_RENDERED_BYTES, "{text}"),
                Err(error) => assert!(!error.to_string().is_empty(), "{text}"),
            }
            let bare = around.render(&template, &LabelSet::new(), 1.0, 0);
            assert!(text.contains("{{") || bare.as_deref() == Ok(text), "{text} renders as {bare:?}");
        }
    }
}

millrace_fuzzing::short_form!();

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
