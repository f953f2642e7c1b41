//! Fuzz target `template`: templates of `line_format` and `label_format`, and the lines that they are filled in for.
//!
//! In: any bytes. Out: a panic if a promise is broken: a template is refused with its line, and filling it in fails with a text or
//! gives no more than a line may have, for no more memory than one line may cost. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use millrace_fuzzing::memory;

use super::{Context, Template, TemplateFault};

/// Bytes that a line may have afterwards.
const LONGEST: usize = 1 << 20;
/// Bytes that filling in may hold: all values of a line, and what one function makes.
const HELD: u64 = 48 << 20;

/// The template, then behind the first NUL the line.
pub(crate) fn template(bytes: &[u8]) {
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
pub(crate) fn template_seeds(_: u64) -> Vec<Vec<u8>> {
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
