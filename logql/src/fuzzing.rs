//! What is fuzzed of LogQL: queries and templates from strangers, with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the tests
//! below feed seeds, changed seeds and kept inputs in every test run. Touches nothing. Compiled with the feature `fuzzing` and
//! in tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use millrace_fuzzing::{Target, memory};

use crate::pipeline::Pipeline;
use crate::plan::parse;
use crate::storage::StreamLabels;
use crate::syntax::tree::Expr;
use crate::template::{Context, Template, TemplateFault};

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "logql", run: logql, seeds: |_| millrace_fuzzing::texts(&SEEDS) },
    Target { name: "template", run: template, seeds: template_seeds },
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

/// Bytes that a line may have afterwards.
const LONGEST: usize = 1 << 20;
/// Bytes that filling in may hold: all values of a line, and what one function makes.
const HELD: u64 = 48 << 20;

/// A template, and behind the first NUL the line that it is filled in for. A template is refused with its line; filling it in fails
/// with a text or gives no more than a line may have, for no more memory than one line may cost.
fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, line) = text.split_once('\0').unwrap_or((text, r#"{"a":{"b":[1,"x"]},"n":null} 10.0.0.1 1.5s"#));
    let template = match Template::new("line", text) {
        Ok(template) => template,
        Err(TemplateFault::NotYet(what)) => return assert!(!what.is_empty(), "{text}"),
        Err(TemplateFault::Wrong(message)) => {
            let at = message.strip_prefix("template: line:").and_then(|rest| rest.split_once(": "));
            let (number, why) = at.unwrap_or_else(|| panic!("{text}: {message}"));
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&number.parse().unwrap()) && !why.is_empty(), "{text}: {message}");
            return;
        }
    };
    let all = || vec![("a".to_owned(), "1".to_owned()), ("json".to_owned(), line.to_owned())];
    let label = |name: &str| all().into_iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let context = Context { label: &label, all: &all, line, time_ns: 1_772_366_400_123_000_000 };
    let (filled, held) = memory::most(|| template.fill(&context));
    assert!(held <= HELD, "{held} bytes held for {text}");
    match filled {
        Ok(filled) => assert!(filled.len() <= LONGEST, "{} bytes of {text}", filled.len()),
        Err(why) => assert!(!why.is_empty(), "{text}"),
    }
}

/// Templates that reach far.
fn template_seeds(_: u64) -> Vec<Vec<u8>> {
    millrace_fuzzing::texts(&[
        "{{.method}}-{{ .nope }}|{{ __line__ | len }} {{ __timestamp__ | date \"2006-01-02T15:04:05.000Z07:00\" }}",
        "{{ if eq .a \"1\" }}bad{{ else if not .json }}m{{ else }}ok{{ end }}{{- with .a -}} {{ . }} {{- end -}}{{/* note */}}",
        "{{ range $i, $e := (fromJson .json).a.b }}{{ $i }}={{ $e }};{{ break }}{{ else }}none{{ end }}\0{\"a\":{\"b\":[1,[2],{\"c\":null}]}}",
        "{{ $x := \"a\" }}{{ range $i := 5 }}{{ $x = printf \"%s%s%-5d|%05d|%.2f|%q|%x|%e|%v|%%\" $x $x 4 42 1.234 .a 255 2.5 . }}{{ continue }}{{ end }}{{ $x }}",
        "{{ .json | replace \"a\" `_` | trunc -4 | upper | repeat 3 | b64enc | b64dec | urlencode | urldecode | title }}",
        "{{ regexReplaceAll \"(\\\\w+)/\" .json \"<$1>\" }}{{ count \"a|b\" __line__ }}{{ regexReplaceAllLiteral \"[\" .a \"$1\" }}",
        "{{ add .a 1 | mul 3 | sub 9 }} {{ div 7 2 }} {{ mod 7 0 }} {{ addf 1 0.5 }} {{ round 2.55 1 }} {{ max 1 2 0x1F }} {{ minf 1e3 -.5 }} {{ ceil \"1.2\" }}",
        "{{ alignLeft 5 .a }}|{{ indent 4 \"x\\ny\" }}{{ substr 1 -1 .json }}{{ slice .json 1 3 }}{{ index .json 0 }}{{ 'x' }}{{ default \"d\" .nope }}{{ and .a .json }}",
        "{{ \"1KB\" | bytes }} {{ \"1.5s\" | duration_seconds }} {{ \"1772366400\" | unixToTime | unixEpochMillis }} {{ . }} {{ $.a }} {{ println .a nil true }}",
        "{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}",
        "{{ Trim .json \"{}\" | TrimLeft \"a\" | TrimPrefix \"b\" }}{{ trimAll \"x\" .a }}{{ contains \"a\" .json }}{{ (printf \"%*d\" 5 7) }}",
    ])
}

millrace_fuzzing::short_form!();

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

    #[test]
    fn seeds_are_accepted() {
        for seed in SEEDS {
            assert!(parse(seed).is_ok(), "{seed}: {:?}", parse(seed));
        }
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
