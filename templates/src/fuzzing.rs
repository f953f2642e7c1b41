//! What is fuzzed of templates: texts that people write in rules and in the notifier's configuration.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzzing` feeds them from cargo-fuzz; the test below
//! feeds seeds, changed seeds and kept inputs in every test run. Touches nothing. Compiled with the feature `fuzzing` and in
//! tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use millrace_fuzzing::{Target, memory, texts};

use crate::data::Data;
use crate::fault::Fault;
use crate::set::{Format, Setting, TemplateSet};

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "go_template", run: go_template, seeds: |_| texts(&GO) },
    Target { name: "handlebars_template", run: handlebars_template, seeds: |_| texts(&NATIVE) },
];

/// Bytes that a rendered text may have here.
const LIMIT: usize = 64 << 10;
/// Memory that one rendering may hold, beside its output: work is bounded to 16 MiB.
const MEMORY: u64 = 64 << 20;

const GO: [&str; 9] = [
    "{{ define \"a\" }}{{ .Labels.SortedPairs.Values | join \" \" }}{{ end }}{{ range $i, $a := .Alerts -}}\n{{ if $i }}; {{ end }}{{ template \"a\" $a }} {{- end }}",
    "{{ with .CommonAnnotations.summary }}{{ . }}{{ else with .CommonLabels.x }}{{ printf \"%-5s|%05.2f\" . 2.5 }}{{ else }}none{{ end }}",
    "{{ $x := 1 }}{{ range 100000 }}{{ range 100000 }}{{ $x = print $x $x }}{{ if eq $x \"\" }}{{ break }}{{ else if not . }}{{ continue }}{{ end }}{{ end }}{{ end }}",
    "{{ block \"b\" . }}{{ template \"b\" . }}{{ end }}{{/* comment */ -}}  {{ (index .Alerts 0).StartsAt.Format \"2006-01-02T15:04:05.000Z07:00 Mon Jan _2\" | urlquery | html }}",
    "{{ reReplaceAll \"(a+)+$\" \"$1\" (toJson .) | toUpper | title | trimSpace | len }}{{ match `\\d[\\w\\b]` \"x\" }}",
    "<a href=\"{{ .ExternalURL }}?x={{ .Receiver }}\" title='{{ .Status }}' onclick=\"{{ .Status }}\"><!-- {{ . }} --><script>{{ . }}</script>{{ safeHtml \"<b>\" }}",
    "{{ dict \"a\" (list 1 2.5 'c' `r` nil) }}{{ slice \"abc\" 1 2 }}{{ and 1 0 }}{{ or \"\" nil }}{{ tz \"Europe/Berlin\" (index .Alerts 0).StartsAt | date \"3:04PM\" }}",
    "{{ humanizeDuration 1e300 }}{{ since (index .Alerts 0).EndsAt }}{{ ((index .Alerts 0).StartsAt.AddDate 99999 -99999 1).Unix }}{{ template \"email.default.html\" . }}",
    "{{ template \"__subject\" . }}{{ template \"wechat.default.message\" . }}{{ .CommonLabels }}{{ .GroupLabels.Remove (stringSlice \"a\") }}",
];

/// A text is refused with faults that stand in it, or renders within its bounds, or fails with a reason.
fn go_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut set = TemplateSet::notifications();
    faults_stand_in(text, set.add_file("x.tmpl", text).err());
    match set.compile(text) {
        Err(faults) => faults_stand_in(text, Some(faults)),
        Ok(template) => {
            for format in [Format::Text, Format::Html] {
                let (rendered, held) = memory::most(|| set.render(&template, &Data::sample(), format, &setting()));
                check(text, rendered.map_err(|error| error.to_string()), held);
            }
        }
    }
}

const NATIVE: [&str; 4] = [
    "{{#each alerts as |alert n|}}{{n}}: {{alert.labels.host}} {{#if (eq alert.status \"firing\")}}{{toUpper alert.status}}{{else}}-{{/if}}{{@last}}{{/each}}",
    "{\"text\": {{{toJson commonLabels}}}, \"n\": {{len (firing alerts)}}, \"at\": \"{{date \"2006-01-02\" alerts.[0].startsAt}}\"}",
    "{{#each alerts}}{{#each ../alerts}}{{#each this}}{{@key}}{{/each}}{{/each}}{{/each}}{{template \"__text_alert_list\" alerts}}{{nl}}{{ws \" \"}}",
    "{{#with groupLabels}}{{alertname}}{{/with}}{{~#unless x~}} a {{~/unless~}}{{lookup alerts 0}}{{join \",\" (values commonLabels groupLabels)}}",
];

/// The same of a text in handlebars.
fn handlebars_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let set = TemplateSet::notifications();
    match set.compile_handlebars(text) {
        Err(faults) => faults_stand_in(text, Some(faults)),
        Ok(template) => {
            let (rendered, held) = memory::most(|| set.render(&template, &Data::sample(), Format::Text, &setting()));
            check(text, rendered.map_err(|error| error.to_string()), held);
        }
    }
}

fn setting() -> Setting {
    Setting { limit: LIMIT, now_ns: 1_772_370_000_000_000_000, external_url: "http://page".into() }
}

fn faults_stand_in(text: &str, faults: Option<Vec<Fault>>) {
    let Some(faults) = faults else { return };
    assert!(!faults.is_empty(), "refused without a reason: {text}");
    let lines = text.split('\n').count();
    for fault in faults {
        assert!(fault.offset <= text.len() && fault.line >= 1 && fault.line <= lines + 1, "{fault:?} in {text}");
        assert!(!fault.message.is_empty() && !fault.hint.is_empty(), "{fault:?} in {text}");
    }
}

fn check(text: &str, rendered: Result<String, String>, held: u64) {
    assert!(held <= MEMORY, "{held} bytes held for {text}");
    match rendered {
        Ok(rendered) => assert!(rendered.len() <= LIMIT, "{} bytes for {text}", rendered.len()),
        Err(error) => assert!(!error.is_empty(), "{text}"),
    }
}

millrace_fuzzing::short_form!();
