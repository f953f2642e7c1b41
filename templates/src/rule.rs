//! Templates of rules: labels and annotations, with Prometheus's functions and variables.
//!
//! In: a text; then a series' labels and value. Out: text, or what is wrong. Touches nothing.

use std::sync::Arc;

use millrace_log::alert::LabelSet;

use crate::engine::What;
use crate::fault::{Fault, RenderError};
use crate::functions::Dialect;
use crate::program::{Unit, calls};
use crate::run::Library;
use crate::set::{Format, Setting, compile, run};
use crate::value::{MapKind, Record, Value};

/// Variables that Prometheus sets before a template begins.
const VARIABLES: [&str; 4] = ["$labels", "$externalLabels", "$externalURL", "$value"];

/// A template of a rule, compiled.
#[derive(Debug, Clone)]
pub struct RuleTemplate {
    source: Arc<str>,
    /// None: plain text.
    unit: Option<Arc<Unit>>,
}

/// The same text is the same template.
impl PartialEq for RuleTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for RuleTemplate {}

/// What a template of a rule is rendered with.
#[derive(Debug)]
pub struct RuleData<'a> {
    /// Labels of the series.
    pub labels: &'a LabelSet,
    /// Labels that the whole set-up has for others.
    pub external_labels: &'a LabelSet,
    /// Its value.
    pub value: f64,
}

impl RuleTemplate {
    /// Compiles a text. On failure: all faults that can be found.
    pub fn parse(source: &str) -> Result<Self, Vec<Fault>> {
        if !source.contains("{{") {
            return Ok(Self { source: source.into(), unit: None });
        }
        let unit = compile(Dialect::Rules, "", source, &VARIABLES)?;
        let fault = |(name, at): (&Arc<str>, usize)| {
            let hint = "define it in the same text with `define`";
            Fault::at(source, at, format!("the template `{name}` does not exist"), hint)
        };
        let unknown: Vec<Fault> =
            calls(&unit).filter(|(name, _)| !unit.defines.contains_key(*name)).map(fault).collect();
        if unknown.is_empty() { Ok(Self { source: source.into(), unit: Some(unit) }) } else { Err(unknown) }
    }

    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders it for one series; a label that it does not have is empty.
    pub fn render(&self, data: &RuleData<'_>, setting: &Setting) -> Result<String, RenderError> {
        let Some(unit) = &self.unit else {
            let limit = setting.limit;
            let fits = self.source.len() <= limit;
            return if fits { Ok(self.source.to_string()) } else { Err(RenderError::TooLong { limit }) };
        };
        let fields = vec![
            ("Labels", Value::labels(MapKind::Strings, data.labels)),
            ("ExternalLabels", Value::labels(MapKind::Strings, data.external_labels)),
            ("ExternalURL", Value::Text(Arc::clone(&setting.external_url))),
            ("Value", Value::Float(data.value)),
        ];
        let values = fields.iter().map(|(_, value)| value.clone());
        let variables: Vec<(&str, Value)> = VARIABLES.iter().copied().zip(values).collect();
        let dot = Value::Record(Arc::new(Record { kind: "template.AlertData", fields }));
        run(&Library::new(), Dialect::Rules, &What::Go(unit), dot, &variables, Format::Text, setting)
    }
}
