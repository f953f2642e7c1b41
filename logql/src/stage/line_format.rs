//! `| line_format "{{.a}}"`: a template becomes the line.

use std::borrow::Cow;

use super::fault::StageFault;
use super::line_state::{LineState, template_context};
use super::run::Run;
use crate::template::{Template, TemplateFault};

/// Value of `__error__` where a template can't be filled in.
pub(super) const TEMPLATE_ERROR: &str = "TemplateFormatErr";

/// The compiled stage.
#[derive(Debug)]
pub(super) struct LineFormat(Template);

impl From<TemplateFault> for StageFault {
    fn from(fault: TemplateFault) -> Self {
        match fault {
            TemplateFault::Wrong(message) => Self::Wrong(message),
            TemplateFault::NotYet(what) => Self::NotYet(what),
        }
    }
}

impl LineFormat {
    /// Compiles the template.
    pub fn new(text: &str) -> Result<Self, StageFault> {
        match Template::new("line", text) {
            Ok(template) => Ok(Self(template)),
            Err(TemplateFault::Wrong(message)) => Err(format!("invalid line template: {message}").into()),
            Err(fault) => Err(fault.into()),
        }
    }
}

impl Run for LineFormat {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        match template_context(state, |context| self.0.fill(context)) {
            Ok(line) => state.line = Cow::Owned(line.into_bytes()),
            Err(details) => state.fail_late(TEMPLATE_ERROR, details),
        }
        true
    }

    fn required(&self, names: &mut Vec<String>) {
        names.extend(self.0.fields().iter().cloned());
    }

    fn changes_line(&self) -> bool {
        true
    }
}
