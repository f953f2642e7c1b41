//! Templates of labels, annotations and links: Go's text/template with Prometheus's functions, from `millrace-templates`.
//!
//! In: the text of a template, then a series' labels and value. Out: a checked template, then text. Touches nothing.
//! Rendering fails where values are not what the template expects, or make it too long; the caller then shows
//! [`Template::source`].

use std::sync::Arc;

use millrace_log::alert::LabelSet;
use millrace_templates::{RuleData, Setting};

pub use millrace_templates::{Fault as TemplateFault, RenderError, RuleTemplate as Template};

/// Bytes that one rendered text may have: Alertmanager's receivers cut far earlier.
pub const MAX_RENDERED_BYTES: usize = 64 * 1024;

/// What templates see beside the series: `$externalURL`, `$externalLabels`.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    external_url: Arc<str>,
    external_labels: LabelSet,
}

impl Surroundings {
    /// Of a configuration.
    pub fn new(external_url: &str, external_labels: &LabelSet) -> Self {
        Self { external_url: external_url.into(), external_labels: external_labels.clone() }
    }

    /// Renders a template for one series at a time.
    pub fn render(
        &self,
        template: &Template,
        labels: &LabelSet,
        value: f64,
        at_ns: i64,
    ) -> Result<String, RenderError> {
        let data = RuleData { labels, external_labels: &self.external_labels, value };
        let setting =
            Setting { limit: MAX_RENDERED_BYTES, now_ns: at_ns, external_url: Arc::clone(&self.external_url) };
        template.render(&data, &setting)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(source: &str, labels: &LabelSet) -> Result<String, String> {
        let template = Template::parse(source).map_err(|faults| format!("{faults:?}"))?;
        let others = [("cluster".to_owned(), "prod".to_owned())].into();
        let around = Surroundings::new("http://page/x", &others);
        around.render(&template, labels, 2.5, 0).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_and_value_are_put_in() {
        let labels =
            [("service", "checkout"), ("region", "eu-west-1")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        for (source, want) in [
            ("plain } text {", "plain } text {"),
            ("{{ $labels.service }} in {{$labels.region}}: {{\t$value }}/s", "checkout in eu-west-1: 2.5/s"),
            ("{{ $labels.none }}|", "|"),
            ("", ""),
            ("größe {{ $value }} ✓", "größe 2.5 ✓"),
            ("{{ .Labels.service | toUpper }} {{ $value | printf \"%.2f\" }}", "CHECKOUT 2.50"),
            ("{{ if gt $value 2.0 }}over{{ else }}under{{ end }}", "over"),
            ("{{ $externalLabels.cluster }} {{ $externalURL }}", "prod http://page/x"),
        ] {
            assert_eq!(render(source, &labels).as_deref(), Ok(want), "{source}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place() {
        let list: Vec<String> = [
            "{{ query \"up\" | first | value }}",
            "a {{ if gt $value 5.0 }}b",
            "{{ $labels.bad-name }}",
            "{{ with $x := 1 }}",
            "{{}}",
            "open {{ $value",
            "{{ $value }",
            "{{ $values }} {{ nope }}\n  {{ $label.x }}",
            "{{ template \"x\" . }}",
            "{{ labels.service }}",
        ]
        .iter()
        .flat_map(|source| {
            let faults = Template::parse(source).expect_err(source);
            faults.into_iter().map(move |f| format!("{source} @{}:{}: {} ({})", f.line, f.column, f.message, f.hint))
        })
        .collect();
        insta::assert_snapshot!(list.join("\n"));
    }

    #[test]
    fn a_text_that_grows_too_long_is_an_error() {
        let labels = LabelSet::from([("x".to_owned(), "y".repeat(MAX_RENDERED_BYTES + 1))]);
        assert_eq!(render("{{ $labels.x }}", &labels), Err("the text grows beyond 65536 bytes".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_text_without_braces_is_kept(source in "\\PC*") {
            if let Ok(text) = render(&source, &LabelSet::new())
                && !source.contains("{{")
            {
                prop_assert_eq!(text, source);
            }
        }

        #[test]
        fn braces_in_any_order_never_panic(source in "[{}$a-z. \\n-]{0,60}") {
            render(&source, &LabelSet::new()).ok();
        }
    }
}
