//! One rendering: the templates that it may call, its state, and how it stops.
//!
//! In: templates by name. Out: what helpers work with. Touches nothing.

use std::collections::HashMap;
use std::sync::Arc;

use handlebars::{Output, RenderErrorReason};
use parking_lot::Mutex;

use crate::call::Around;
use crate::eval::{Eval, State};
use crate::fault::RenderError;
use crate::functions::Dialect;
use crate::program::Unit;
use crate::value::Value;

/// Why handlebars stopped.
pub(crate) type Failure = handlebars::RenderError;
/// What a helper gives.
pub(crate) type Done = Result<(), Failure>;
/// Renders a template by name with what it is called with; the error is for a name that does not exist.
type Named = fn(&Run<'_>, &Arc<str>, Value, RenderError, &mut dyn Output) -> Done;

/// A template by name.
#[derive(Clone)]
pub(crate) enum Body {
    /// Defined by a unit.
    Go(Arc<Unit>),
    /// Written in handlebars.
    Native(Arc<handlebars::Template>),
}

/// Templates by name.
pub(crate) type Library = HashMap<Arc<str>, Body>;

/// One rendering.
pub(crate) struct Run<'s> {
    pub library: &'s Library,
    pub dialect: Dialect,
    pub around: Around,
    pub state: Mutex<State>,
    /// Renders a template by name.
    pub named: Named,
}

impl Run<'_> {
    /// Keeps an error, and makes handlebars stop.
    pub fn stop(&self, error: RenderError) -> Failure {
        let mut state = self.state.lock();
        state.failed.get_or_insert(error);
        stopped()
    }

    /// Evaluates; a failure is kept, and stops the rendering.
    pub fn with<T>(&self, work: impl FnOnce(&mut Eval<'_>) -> Result<T, RenderError>) -> Result<T, Failure> {
        let made = {
            let mut state = self.state.lock();
            work(&mut Eval { around: &self.around, dialect: self.dialect, state: &mut state })
        };
        made.map_err(|error| self.stop(error))
    }
}

/// Makes handlebars stop: why is in the state.
pub(crate) fn stopped() -> Failure {
    RenderErrorReason::Other("stopped".to_owned()).into()
}
