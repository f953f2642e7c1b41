//! `| label_format a=b, c="{{.d}}"`: renames labels and fills in templates.

use std::borrow::Cow;

use super::fault::StageFault;
use super::labels::{Category, ERROR, ERROR_DETAILS};
use super::line_format::TEMPLATE_ERROR;
use super::line_state::{LineState, template_context};
use super::run::Run;
use crate::syntax::tree::{FormatValue, LabelFormat};
use crate::template::{Template, TemplateFault};

#[derive(Debug)]
enum Action {
    Rename { to: String, from: String },
    Fill { to: String, template: Template },
}

/// The compiled stage.
#[derive(Debug)]
pub(super) struct LabelFormats(Vec<Action>);

impl LabelFormats {
    /// Compiles it; a name is written once, faults never.
    pub fn new(formats: &[LabelFormat]) -> Result<Self, StageFault> {
        let mut actions = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for format in formats {
            if format.name == ERROR || format.name == ERROR_DETAILS {
                return Err(format!("{} cannot be formatted", format.name).into());
            }
            if names.contains(&format.name.as_str()) {
                let message = format!("multiple label name '{}' not allowed in a single format operation", format.name);
                return Err(message.into());
            }
            names.push(&format.name);
            actions.push(match &format.value {
                FormatValue::Rename(from) => Action::Rename { to: format.name.clone(), from: from.clone() },
                FormatValue::Template(text) => {
                    let template = match Template::new("label", text) {
                        Ok(template) => template,
                        Err(TemplateFault::Wrong(message)) => {
                            let message = format!("invalid template for label '{}': {message}", format.name);
                            return Err(message.into());
                        }
                        Err(fault) => return Err(fault.into()),
                    };
                    Action::Fill { to: format.name.clone(), template }
                }
            });
        }
        Ok(Self(actions))
    }
}

impl Run for LabelFormats {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        for action in &self.0 {
            match action {
                Action::Rename { to, from } => {
                    let labels = &mut state.labels;
                    if let Some((value, category)) = labels.find(from) {
                        let value = Cow::Owned(value.to_owned());
                        labels.set(category, Cow::Borrowed(to), value);
                        labels.delete(from);
                    }
                }
                Action::Fill { to, template } => match template_context(state, |context| template.fill(context)) {
                    Ok(text) => {
                        let labels = &mut state.labels;
                        let category = labels.find(to).map_or(Category::Parsed, |(_, category)| category);
                        labels.set(category, Cow::Borrowed(to), Cow::Owned(text));
                    }
                    Err(details) => state.fail_late(TEMPLATE_ERROR, details),
                },
            }
        }
        true
    }

    fn required(&self, names: &mut Vec<String>) {
        for action in &self.0 {
            match action {
                Action::Rename { from, .. } => names.push(from.clone()),
                Action::Fill { template, .. } => names.extend(template.fields().iter().cloned()),
            }
        }
    }
}
