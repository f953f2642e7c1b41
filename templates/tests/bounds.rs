//! Broken templates are named with their place and cure; no template loops, allocates or recurses without bound.

#![allow(clippy::unwrap_used)]

use millrace_templates::{Data, Format, Setting, TemplateSet};

fn setting() -> Setting {
    Setting { limit: 64 << 10, now_ns: 1_772_370_000_000_000_000, external_url: "http://page".into() }
}

fn render(text: &str) -> Result<String, String> {
    let set = TemplateSet::notifications();
    let template = set.compile(text).map_err(|faults| format!("{faults:?}"))?;
    set.render(&template, &Data::sample(), Format::Text, &setting()).map_err(|error| error.to_string())
}

#[test]
fn broken_templates_are_named_with_line_and_column() {
    for (text, place, message) in [
        ("{{ .Status", (1, 1), "`{{` is never closed"),
        ("a\n  {{ if .Alerts }}b", (2, 6), "`if` is never closed"),
        ("{{ range .Alerts }}x", (1, 4), "`range` is never closed"),
        ("{{ with .Alerts }}x{{ else }}", (1, 4), "`with` is never closed"),
        ("{{ define \"x\" }}", (1, 4), "`define` is never closed"),
        ("{{ end }}", (1, 4), "`end` closes nothing"),
        ("x{{ else }}", (1, 5), "`else` belongs to nothing"),
        ("{{ if .A }}{{ else }}{{ else }}{{ end }}", (1, 25), "a second `else` of `if`"),
        ("{{ range .A }}{{ else if .B }}{{ end }}", (1, 23), "`else if` behind `range`"),
        ("{{ break }}", (1, 4), "`break` outside of `range`"),
        ("{{ if .A }}{{ continue }}{{ end }}", (1, 15), "`continue` outside of `range`"),
        ("{{ if }}x{{ end }}", (1, 7), "`if` needs a value"),
        ("{{ range }}x{{ end }}", (1, 10), "`range` needs a value"),
        ("{{}}", (1, 3), "the action is empty"),
        ("{{ . | }}", (1, 8), "nothing stands behind `|`"),
        ("{{ $x := }}", (1, 10), "a value is missing"),
        ("{{ $x }}", (1, 4), "the variable `$x` does not exist"),
        ("{{ $x = 1 }}", (1, 4), "the variable `$x` does not exist"),
        ("{{ if $y := .A }}{{ end }}{{ $y }}", (1, 30), "the variable `$y` does not exist"),
        ("{{ $a, $b := .A }}", (1, 4), "too many variables are set at once"),
        ("{{ .CommonLabels.a-b }}", (1, 19), "unexpected `-` behind a name"),
        ("{{ (len .Alerts }}", (1, 4), "`(` is never closed"),
        ("{{ len .Alerts) }}", (1, 15), "`)` without `(`"),
        ("{{ \"a }}", (1, 4), "the quoted text is never closed"),
        ("{{ \"a\\q\" }}", (1, 4), "invalid escape in the quoted text"),
        ("{{ `a }}", (1, 4), "the raw text is never closed"),
        ("{{ 'ab' }}", (1, 4), "invalid character"),
        ("{{ 1x }}", (1, 4), "invalid number `1x`"),
        ("{{/* a }}", (1, 1), "the comment is never closed"),
        ("{{/* a */ .B }}", (1, 10), "a comment must end its action"),
        ("{{ .A == .B }}", (1, 7), "unexpected `=`"),
        ("{{ .A && .B }}", (1, 7), "unexpected `&` in an action"),
        ("{{ .A | 5 }}", (1, 9), "a pipe leads into a value"),
        ("{{ toupper .Status }}", (1, 4), "the function `toupper` does not exist"),
        ("{{ humanize 5 }}", (1, 4), "the function `humanize` does not exist"),
        ("{{ query \"up\" }}", (1, 4), "the function `query` is not supported"),
        ("{{ call .A }}", (1, 4), "the function `call` is not supported"),
        ("{{ template foo . }}", (1, 13), "`template` needs a name in quotes"),
        ("{{ if .A }}{{ define \"x\" }}{{ end }}{{ end }}", (1, 15), "`define` inside of another action"),
        ("{{ template \"x\" $y := 1 }}", (1, 17), "no variable may be set here"),
        ("{{ \"a\".B }}", (1, 4), "`\"a\"` has no fields"),
        ("{{ .A \"b\"\"c\" }}", (1, 10), "unexpected `\"c\"` behind an operand"),
        ("{{ if .A }}{{ if", (1, 12), "`{{` is never closed"),
    ] {
        let faults = TemplateSet::notifications().compile(text).expect_err(text);
        let first = faults.first().unwrap();
        assert!(first.message.starts_with(message), "{text}: {first:?}");
        assert_eq!((first.line, first.column), place, "{text}: {first:?}");
        assert!(!first.hint.is_empty(), "{text}");
    }
}

#[test]
fn several_faults_are_named_at_once() {
    let faults = TemplateSet::notifications().compile("{{ nope }}\n{{ .Status }} {{ $x }}\n {{ also }}").unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
    assert_eq!(places, [(1, 4), (2, 18), (3, 5)]);
}

#[test]
fn failures_say_where() {
    for (text, want) in [
        ("a\n {{ .Alerts.Nope }}", "line 2, column 5: a list (template.Alerts) has no field `.Nope`"),
        ("{{ .status }}", "line 1, column 4: a record (template.Data) has no field `.status`: did you mean `.Status`?"),
        (
            "{{ define \"x\" }}\n{{ toUpper 5 }}{{ end }}{{ template \"x\" . }}",
            "template `x`, line 2, column 4: argument 1 of `toUpper` is a number (int), a text is expected",
        ),
        ("{{ gt 1 2.5 }}", "line 1, column 4: `gt` can't compare a number (int) with a number (float64): write `1.0`"),
        ("{{ template \"none\" . }}", "line 1, column 4: the template `none` does not exist"),
    ] {
        assert_eq!(render(text), Err(want.to_owned()), "{text}");
    }
}

#[test]
fn no_template_runs_without_bound() {
    let doubled = format!("{{{{ $x := \"ab\" }}}}{}", "{{ $x = print $x $x }}".repeat(60));
    let nested = format!("{}x{}", "{{ range $.Alerts }}".repeat(35), "{{ end }}".repeat(35));
    let deep = format!("{}1{}", "{{ if .Alerts }}".repeat(38), "{{ end }}".repeat(38));
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    for (text, want) in [
        ("{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}", "too much work"),
        ("{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}", "deeper than 100 levels"),
        (
            "{{ define \"r\" }}{{ range . }}{{ template \"r\" $ }}{{ end }}{{ end }}{{ template \"r\" .Alerts }}",
            "deeper than",
        ),
        (doubled.as_str(), "longer than 65536 bytes"),
        (nested.as_str(), "too much work"),
        (parens.as_str(), "deeper than 40 levels"),
        ("{{ range 100000 }}aaaaaaaaaa{{ end }}", "grows beyond 65536 bytes"),
        ("{{ printf \"%99999d%99999d%99999d%99999d%99999d%99999d%99999d\" 1 1 1 1 1 1 1 }}", "longer than"),
        ("{{ $l := list 1 }}{{ range 100000 }}{{ $l = list $l $l $l }}{{ end }}{{ $l }}", "more than 16 lists"),
        ("{{ $l := list 1 }}{{ range 100000 }}{{ $l = append (list $l) 1 }}{{ end }}{{ $l }}", "more than 16 lists"),
        ("{{ $d := dict }}{{ range 100000 }}{{ $d = dict \"a\" $d }}{{ end }}{{ $d }}", "more than 16 lists"),
        ("{{ range $i := 100000 }}{{ match (printf \"a{%d}b\" $i) \"x\" }}{{ end }}", "too much work"),
    ] {
        let error = render(text).unwrap_err();
        let error = if error.contains(want) { want } else { &error };
        assert!(
            error.contains(want) || want == "longer than" && error.contains("grows"),
            "{}: {error}",
            text.chars().take(60).collect::<String>()
        );
    }
    assert_eq!(render(&deep).as_deref(), Ok("1"));
}

#[test]
fn templates_in_handlebars_have_the_same_data_and_functions() {
    let set = TemplateSet::notifications();
    for (text, want) in [
        ("{{toUpper status}} {{len alerts}} {{groupLabels.alertname}}", "FIRING 3 DiskFull"),
        ("{{#each (firing alerts)}}{{labels.host}}{{#unless @last}}, {{/unless}}{{/each}}", "web-1, web-2"),
        ("{{#each alerts as |a n|}}{{n}}={{a.labels.host}} {{/each}}", "0=web-1 1=web-2 2=web-3 "),
        ("{{join \"/\" (values commonLabels groupLabels)}}", "eu-west-1/page"),
        ("{{date \"15:04 MST\" (tz \"Europe/Berlin\" alerts.[0].startsAt)}}", "13:00 +0100"),
        ("{{template \"__subject\"}} <&>", "[FIRING:2] DiskFull (eu-west-1 page) <&>"),
        ("{\"labels\": {{toJson groupLabels}}}", "{\"labels\": {\"alertname\":\"DiskFull\"}}"),
    ] {
        let template = set.compile_handlebars(text).unwrap();
        assert_eq!(set.render(&template, &Data::sample(), Format::Text, &setting()).as_deref(), Ok(want), "{text}");
    }
    for text in ["{{> x}}", "{{#if a}}", "{{#*inline \"x\"}}{{/inline}}", "{{"] {
        assert!(set.compile_handlebars(text).is_err(), "{text}");
    }
    let loops = format!("{}x{}", "{{#each @root.alerts}}".repeat(30), "{{/each}}".repeat(30));
    let template = set.compile_handlebars(&loops).unwrap();
    let error = set.render(&template, &Data::sample(), Format::Text, &setting()).unwrap_err();
    assert!(error.to_string().contains("too much work"), "{error}");
}

#[test]
fn files_override_defaults() {
    let mut set = TemplateSet::notifications();
    set.add_file("own.tmpl", "{{ define \"__subject\" }}own {{ .Status }}{{ end }}{{ define \"mine\" }}{{ template \"__subject\" . }}!{{ end }}").unwrap();
    let template = set.compile("{{ template \"slack.default.title\" . }} {{ template \"mine\" . }}").unwrap();
    assert_eq!(
        set.render(&template, &Data::sample(), Format::Text, &setting()).as_deref(),
        Ok("own firing own firing!")
    );
    set.add_file("/etc/alertmanager/whole.tmpl", "whole {{ .Receiver }}").unwrap();
    let whole = set.compile("{{ template \"whole.tmpl\" . }}").unwrap();
    assert_eq!(set.render(&whole, &Data::sample(), Format::Text, &setting()).as_deref(), Ok("whole sample"));
    let unknown = set.compile("{{ template \"none\" . }}").unwrap();
    assert_eq!(set.unknown_calls(&unknown).len(), 1);
}

#[test]
fn the_priority_for_jira_is_that_of_the_highest_severity() {
    let set = TemplateSet::notifications();
    let template = set.compile("{{ template \"jira.default.priority\" . }}").unwrap();
    for (alerts, want) in [
        (&[("critical", "firing")][..], "High"),
        (&[("info", "firing"), ("warning", "firing")], "Medium"),
        (&[("info", "firing")], "Low"),
        (&[("page", "firing")], ""),
        (&[("warning", "firing"), ("critical", "firing")], "High"),
        (&[("warning", "firing"), ("critical", "resolved")], "Medium"),
        (&[("critical", "resolved")], "High"),
    ] {
        let list: Vec<_> = alerts
            .iter()
            .map(|(severity, status)| serde_json::json!({"labels": {"severity": severity}, "status": status}))
            .collect();
        let data = Data::from_json(&serde_json::Value::Array(list).to_string()).unwrap();
        assert_eq!(set.render(&template, &data, Format::Text, &setting()).as_deref(), Ok(want), "{alerts:?}");
    }
}
