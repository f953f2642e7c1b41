//! Templates of the kinds in public Alertmanager and rule configurations give what Go's text/template gives with the functions of
//! Alertmanager and Prometheus themselves (`tests/templates/run` records it).

#![allow(clippy::unwrap_used)]

use std::path::Path;

use millrace_log::alert::LabelSet;
use millrace_templates::{Data, Format, RuleData, RuleTemplate, Setting, TemplateSet};

#[derive(serde::Deserialize)]
struct Case {
    template: String,
    want: Option<String>,
    error: Option<String>,
    html: Option<String>,
}

fn cases(name: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn setting(external_url: &str) -> Setting {
    Setting { limit: 1 << 20, now_ns: 1_772_366_400_000_000_000, external_url: external_url.into() }
}

fn compare(differences: &mut Vec<String>, case: &Case, got: &Result<String, String>, want: Option<&String>) {
    let same = match (got, want) {
        (Ok(got), Some(want)) => got == want,
        (Err(_), None) => true,
        _ => false,
    };
    if !same {
        differences.push(format!("{}\n  got  {got:?}\n  want {want:?} {:?}", case.template, case.error));
    }
}

#[test]
fn notifications_read_as_alertmanager_writes_them() {
    let set = TemplateSet::notifications();
    let mut data = Data::sample();
    for (alert, fingerprint) in data.alerts.iter_mut().zip(["f1", "f2", "f3"]) {
        fingerprint.clone_into(&mut alert.fingerprint);
    }
    let cases = cases("notifications.json");
    assert!(cases.len() > 60, "{}", cases.len());
    let mut differences = Vec::new();
    for case in &cases {
        let render = |format| {
            let template = set.compile(&case.template).map_err(|faults| format!("{faults:?}"))?;
            set.render(&template, &data, format, &setting("http://127.0.0.1:9093")).map_err(|error| error.to_string())
        };
        compare(&mut differences, case, &render(Format::Text), case.want.as_ref());
        if let Some(html) = &case.html {
            compare(&mut differences, case, &render(Format::Html), Some(html));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn rules_read_as_prometheus_writes_them() {
    let label = |pairs: &[(&str, &str)]| -> LabelSet {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    };
    let labels = label(&[("instance", "10.0.0.7:9100"), ("job", "api"), ("region", "eu-west-1")]);
    let external_labels = label(&[("cluster", "prod")]);
    let data = RuleData { labels: &labels, external_labels: &external_labels, value: 1234.5678 };
    let cases = cases("rules.json");
    assert!(cases.len() > 20, "{}", cases.len());
    let mut differences = Vec::new();
    for case in &cases {
        let got = RuleTemplate::parse(&case.template).map_err(|faults| format!("{faults:?}")).and_then(|template| {
            template.render(&data, &setting("http://page.example:3100/logs")).map_err(|error| error.to_string())
        });
        compare(&mut differences, case, &got, case.want.as_ref());
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn a_text_that_fails_says_so_under_the_default() {
    let set = TemplateSet::notifications();
    let failing = set.compile("{{ index .Alerts 99 }}").unwrap();
    let default = set.compile("{{ template \"__subject\" . }}").unwrap();
    let (text, error) = set.render_or(&failing, &default, &Data::sample(), Format::Text, &setting(""));
    assert_eq!(
        text,
        "[FIRING:2] DiskFull (eu-west-1 page)\n(the template of this message failed: line 1, column 4: `index`: 99 is out of range, \
         the list has 3 items)"
    );
    assert!(error.is_some());
}

#[derive(serde::Deserialize)]
struct Group {
    data: serde_json::Value,
    templates: std::collections::BTreeMap<String, Rendered>,
}

#[derive(serde::Deserialize)]
struct Rendered {
    text: String,
    html: String,
}

#[test]
fn the_default_templates_read_as_those_of_alertmanager() {
    let set = TemplateSet::notifications();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/defaults.json");
    let groups: Vec<Group> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut differences = Vec::new();
    let mut compared = 0;
    for group in &groups {
        let data = Data::from_json(&group.data.to_string()).unwrap();
        for (name, want) in &group.templates {
            let is_list = name.starts_with("__text_alert_list") || name == "pagerduty.default.instances";
            let call = format!("{{{{ template \"{name}\" .{} }}}}", if is_list { "Alerts" } else { "" });
            let template = set.compile(&call).unwrap();
            assert!(set.unknown_calls(&template).is_empty(), "{name}");
            for (format, want) in [(Format::Text, &want.text), (Format::Html, &want.html)] {
                // As text it has a comment that HTML drops; nobody sends that.
                if name == "email.default.html" && format == Format::Text {
                    continue;
                }
                // Alertmanager 0.25, which the recorded payloads are of, has the older address.
                let want = want.replace("https://schema.org/", "http://schema.org/");
                let got = set.render(&template, &data, format, &setting("")).map_err(|error| error.to_string());
                compared += 1;
                if got.as_ref() != Ok(&want) {
                    let got = got.unwrap_or_else(|error| error);
                    let at = got.bytes().zip(want.bytes()).take_while(|(a, b)| a == b).count();
                    let part = |text: &str| text.chars().skip(at.saturating_sub(40)).take(120).collect::<String>();
                    differences.push(format!(
                        "{name} {format:?} at {at}\n  got  {:?}\n  want {:?}",
                        part(&got),
                        part(&want)
                    ));
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    assert!(differences.is_empty(), "{} of {compared} differ:\n{}", differences.len(), differences.join("\n"));
}
