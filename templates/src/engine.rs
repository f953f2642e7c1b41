//! Rendering by handlebars: of translated templates, and of those written in handlebars.
//!
//! In: a template, the templates it may call, a value. Out: text, or why it failed. Touches nothing. One [`Run`] is one rendering; it
//! is bounded in output, work and depth whatever the templates are.

use std::sync::{Arc, LazyLock};

use handlebars::{Context, Handlebars, Output, RenderContext, Renderable as _};

use crate::eval::{Frame, STEP};
use crate::fault::RenderError;
use crate::helpers_go::{GoHelper, KINDS};
use crate::helpers_native;
use crate::html::Trust;
use crate::json;
use crate::program::Unit;
use crate::run::{Body, Done, Run};
use crate::sink::{Sink, marked};
use crate::value::Value;

/// Without templates: those that call one another are ours to bound. What a template shows is marked for [`Sink`].
static REGISTRY: LazyLock<Handlebars<'static>> = LazyLock::new(|| {
    let mut registry = Handlebars::new();
    registry.register_escape_fn(|text| marked(text, Trust::None));
    registry.unregister_helper("log");
    registry
});

/// What is rendered.
pub(crate) enum What<'t> {
    Go(&'t Arc<Unit>),
    Native(&'t handlebars::Template),
}

/// Renders; `variables` are set before it begins.
pub(crate) fn render(
    run: &Run<'_>,
    what: &What<'_>,
    dot: Value,
    variables: &[(&str, Value)],
    sink: &mut Sink,
) -> Result<(), RenderError> {
    let done = match what {
        What::Go(unit) => {
            {
                let mut state = run.state.lock();
                state.frames.push(Frame { unit: Arc::clone(unit), name: "".into(), base: 0 });
                state.variables.push(("$".into(), dot.clone()));
                state.variables.extend(variables.iter().map(|(name, value)| (Arc::from(*name), value.clone())));
                state.dots.push(dot);
            }
            go(run, &unit.main, sink)
        }
        What::Native(template) => native(run, template, &dot, sink),
    };
    let Err(failure) = done else { return Ok(()) };
    let state = run.state.lock();
    if let Some(error) = &state.failed {
        return Err(error.clone());
    }
    if sink.too_long {
        return Err(RenderError::TooLong { limit: sink.limit });
    }
    let message = sink.failed.clone().unwrap_or_else(|| failure.reason().to_string());
    Err(match (failure.line_no, failure.column_no) {
        (Some(line), Some(column)) if matches!(what, What::Native(_)) => {
            RenderError::Failed { template: String::new(), line, column, message }
        }
        _ => RenderError::Failed { template: String::new(), line: 1, column: 1, message },
    })
}

fn go(run: &Run<'_>, template: &handlebars::Template, out: &mut dyn Output) -> Done {
    let context = Context::null();
    let mut rc = RenderContext::new(None);
    for (name, kind) in KINDS {
        rc.register_local_helper(name, Box::new(GoHelper { run, kind }));
    }
    template.render(&REGISTRY, &context, &mut rc, out)
}

fn native(run: &Run<'_>, template: &handlebars::Template, dot: &Value, out: &mut dyn Output) -> Done {
    let context = Context::wraps(json::to_json(dot))?;
    let mut rc = RenderContext::new(None);
    helpers_native::register(run, &mut rc);
    template.render(&REGISTRY, &context, &mut rc, out)
}

/// Renders a template by name, with `dot` as what it is called with.
pub(crate) fn named(run: &Run<'_>, name: &Arc<str>, dot: Value, fault: RenderError, out: &mut dyn Output) -> Done {
    let own = run.state.lock().frames.last().map(|frame| Arc::clone(&frame.unit));
    let own = own.filter(|unit| unit.defines.contains_key(name)).map(Body::Go);
    let Some(body) = own.or_else(|| run.library.get(name).cloned()) else { return Err(run.stop(fault)) };
    let mark = run.state.lock().mark();
    run.with(|eval| {
        eval.state.spend(STEP)?;
        eval.state.deeper()?;
        if let Body::Go(unit) = &body {
            let base = eval.state.variables.len();
            eval.state.frames.push(Frame { unit: Arc::clone(unit), name: Arc::clone(name), base });
            eval.state.variables.push(("$".into(), dot.clone()));
            eval.state.dots.push(dot.clone());
        }
        Ok(())
    })?;
    match &body {
        Body::Go(unit) => match unit.defines.get(name) {
            Some(template) => go(run, template, out)?,
            None => return Err(run.stop(fault)),
        },
        Body::Native(template) => native(run, template, &dot, out)?,
    }
    run.state.lock().back(mark);
    Ok(())
}
