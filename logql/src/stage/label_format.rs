//! `| label_format a=b, c="{{.d}}"`: renames labels and fills in templates.

use std::borrow::Cow;

use super::labels::{Category, ERROR, ERROR_DETAILS};
use super::{LineState, Run, StageFault};
use crate::syntax::tree::{FormatValue, LabelFormat};

#[derive(Debug)]
enum Action {
    Rename {
        to: String,
        from: String,
    },
    /// A template without actions.
    Text {
        to: String,
        text: String,
    },
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
                FormatValue::Template(text) if text.contains("{{") => {
                    return Err(StageFault::NotYet("a template in `label_format`"));
                }
                FormatValue::Template(text) => Action::Text { to: format.name.clone(), text: text.clone() },
            });
        }
        Ok(Self(actions))
    }
}

impl Run for LabelFormats {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        let labels = &mut state.labels;
        for action in &self.0 {
            match action {
                Action::Rename { to, from } => {
                    if let Some((value, category)) = labels.find(from) {
                        let value = Cow::Owned(value.to_owned());
                        labels.set(category, Cow::Borrowed(to), value);
                        labels.delete(from);
                    }
                }
                Action::Text { to, text } => {
                    let category = labels.find(to).map_or(Category::Parsed, |(_, category)| category);
                    labels.set(category, Cow::Borrowed(to), Cow::Borrowed(text));
                }
            }
        }
        true
    }

    fn required(&self, names: &mut Vec<String>) {
        for action in &self.0 {
            if let Action::Rename { from, .. } = action {
                names.push(from.clone());
            }
        }
    }
}
