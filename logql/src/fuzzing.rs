//! What is fuzzed of LogQL: queries and templates from strangers, with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the tests
//! below feed seeds, changed seeds and kept inputs in every test run. Touches nothing. Compiled with the feature `fuzzing` and
//! in tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use millrace_fuzzing::Target;

use crate::pipeline::Pipeline;
use crate::plan::parse;
use crate::storage::StreamLabels;
use crate::syntax::tree::Expr;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "logql", run: logql, seeds: |_| millrace_fuzzing::texts(&SEEDS) },
    Target { name: "template", run: crate::template::fuzz::template, seeds: crate::template::fuzz::template_seeds },
];

/// Queries that reach far, to begin with.
const SEEDS: [&str; 8] = [
    r#"{app="api", env=~"prod|test"} |= "error" != `timeout` |~ "(?i)fail" | json status="http.status", took | status >= 500 and took > 1.5s"#,
    r#"sum by (app) (rate({env="prod"} | logfmt --strict | duration > 250ms or bytes < 10KiB [5m] offset 1h)) > 2"#,
    r#"topk(3, quantile_over_time(0.99, {app="a"} | json | unwrap duration(took) | __error__="" [1m]) by (pod))"#,
    r#"{app="a"} | regexp "(?P<code>\\d{3})" | line_format "{{ .code | ToUpper }} {{ __line__ }}" | label_format a=b,c="{{.d}}""#,
    r#"(count_over_time({a="b"}[1h]) / on (a) group_left (c) sum(bytes_over_time({a="b"}[1h]))) * 100 == bool 1"#,
    r#"label_replace(absent_over_time({a="b"} | pattern "<ip> - <_> [<time>]" [5m]), "x", "$1", "y", "(.*)")"#,
    r#"{a="b"} |= ip("10.0.0.0/8") | unpack | decolorize | drop x, y="z" | keep a | addr = ip("::1") # comment"#,
    "sort_desc(sum without (x) (max_over_time({a=\"\\u00e4\"} | unwrap bytes_processed [30s]))) ^ 2 unless vector(1)",
];

/// Lines that stages run over.
const LINES: [&str; 5] = [
    "",
    r#"{"http":{"status":500},"took":"1.5s","a":[1,{"b":null}],"__error__":"x","ä":"\u00e4"}"#,
    r#"level=error took=1.5s msg="quoted \"text\"" broken= =x 10.0.0.1 - - [now]"#,
    "10.1.2.3 - alice [10/Oct/2026:13:55:36 +0000] \"GET / HTTP/1.1\" 500 12 \u{1b}[31mred",
    "\u{0}\u{ffff} äöü 🙂 error fail timeout",
];

/// A text is read or refused with a place in it; what was read prints as what reads the same, and its stages run over any
/// line without a panic.
fn logql(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let expr = match parse(text) {
        Ok(expr) => expr,
        Err(error) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&error.line), "line {} of {lines}: {text}", error.line);
            assert!(error.column >= 1 && !error.to_string().is_empty(), "{text}");
            return;
        }
    };
    let printed = expr.to_string();
    let again = parse(&printed).unwrap_or_else(|error| panic!("`{text}` prints as `{printed}`: {error}"));
    assert_eq!(again.to_string(), printed, "`{text}` prints as `{printed}`, and that in another way");
    // What is read alone may still be too large to run: a pipeline is made or refused.
    if let Expr::Log(log) = &expr
        && let Ok(pipeline) = Pipeline::new(log)
    {
        let labels: StreamLabels = [("app".to_owned(), "a".to_owned())].into();
        for line in LINES {
            drop(pipeline.process(&labels, None, 1_700_000_000_000_000_000, line.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Changes of a text, as a fuzzer makes them: characters put in, taken out, pieces doubled or taken from another text.
    fn changed(first: &str, second: &str, edits: &[(usize, u8, char)]) -> String {
        let (mut text, other): (Vec<char>, Vec<char>) = (first.chars().collect(), second.chars().collect());
        for (at, kind, new) in edits {
            let at = at % (text.len() + 1);
            match kind % 5 {
                0 => text.insert(at, *new),
                1 if at < text.len() => drop(text.remove(at)),
                2 if at < text.len() => text[at] = *new,
                3 => {
                    let piece: Vec<char> = other.iter().copied().skip(at).take(usize::from(*kind)).collect();
                    text.splice(at..at, piece);
                }
                _ => text.truncate(at),
            }
        }
        text.into_iter().collect()
    }

    #[global_allocator]
    static COUNTING: millrace_fuzzing::memory::Counting = millrace_fuzzing::memory::Counting;

    #[test]
    fn seeds_are_accepted() {
        for seed in SEEDS {
            assert!(parse(seed).is_ok(), "{seed}: {:?}", parse(seed));
        }
    }

    #[test]
    fn promises_hold_for_seeds_and_kept_inputs() {
        millrace_fuzzing::repeat(TARGETS);
    }

    #[test]
    #[ignore = "writes files for tests/fuzz"]
    fn corpus_is_written() {
        millrace_fuzzing::write_corpus(TARGETS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// A short form of `tests/fuzz` that every test run can afford.
        #[test]
        fn promises_hold_for_changed_seeds(
            first in 0..SEEDS.len(),
            second in 0..SEEDS.len(),
            edits in prop::collection::vec((any::<usize>(), any::<u8>(), prop_oneof![prop::char::range(' ', '~'), any::<char>()]), 1..6),
        ) {
            logql(changed(SEEDS[first], SEEDS[second], &edits).as_bytes());
        }
    }
}
