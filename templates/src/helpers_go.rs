//! Helpers of translated templates: text, values, conditions, loops, calls.
//!
//! In: the number of a step. Out: text to the sink. Touches the state of one rendering.

use std::sync::Arc;

use handlebars::{Context, Handlebars, Helper, HelperDef, Output, RenderContext, Renderable as _};

use crate::eval::{Eval, Flow, STEP};
use crate::fault::RenderError;
use crate::html::Trust;
use crate::program::Step;
use crate::run::{Done, Run, stopped};
use crate::show;
use crate::sink::{marked, unmarked};
use crate::tree::Pipe;
use crate::value::{Safe, Value};

/// Loops over a number go round so often at most.
const MAX_COUNT: i64 = 100_000;

/// What a helper of translated templates does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Show,
    When,
    Items,
    Inner,
    Leave(Flow),
    Run,
}

/// Helpers by name.
pub(crate) const KINDS: [(&str, Kind); 8] = [
    ("go:text", Kind::Text),
    ("go:show", Kind::Show),
    ("go:when", Kind::When),
    ("go:items", Kind::Items),
    ("go:inner", Kind::Inner),
    ("go:leave", Kind::Leave(Flow::Break)),
    ("go:next", Kind::Leave(Flow::Continue)),
    ("go:run", Kind::Run),
];

/// A helper of translated templates: its argument is the number of a step.
pub(crate) struct GoHelper<'r, 's> {
    pub run: &'r Run<'s>,
    pub kind: Kind,
}

impl HelperDef for GoHelper<'_, '_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        r: &'reg Handlebars<'reg>,
        ctx: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Done {
        let run = self.run;
        if let Kind::Leave(flow) = self.kind {
            run.state.lock().flow = Some(flow);
            return Err(stopped());
        }
        let number =
            h.param(0).and_then(|p| p.value().as_u64()).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let (unit, mark) = {
            let state = run.state.lock();
            (state.frames.last().map(|frame| Arc::clone(&frame.unit)), state.mark())
        };
        let Some(step) = unit.as_ref().and_then(|unit| unit.steps.get(number)) else { return Err(stopped()) };
        let mut body = |wanted: bool, out: &mut dyn Output| match if wanted { h.template() } else { h.inverse() } {
            Some(template) => template.render(r, ctx, rc, out),
            None => Ok(()),
        };
        match (self.kind, step) {
            (Kind::Text, Step::Text(text)) => {
                run.with(|eval| eval.state.spend(STEP))?;
                out.write(&unmarked(text))?;
            }
            (Kind::Show, Step::Pipe(pipe)) => {
                let shown = run.with(|eval| shown(eval, pipe))?;
                if let Some(shown) = shown {
                    out.write(&shown)?;
                }
            }
            (Kind::Run, Step::Call { at, name, pipe }) => {
                let (dot, fault) = run.with(|eval| {
                    let dot = eval.state.dot();
                    let fault = eval.state.fault(*at, format!("the template `{name}` does not exist"));
                    Ok((pipe.as_ref().map_or(Ok(Value::Nil), |pipe| eval.value(pipe, &dot))?, fault))
                })?;
                (run.named)(run, name, dot, fault, out)?;
            }
            (Kind::When | Kind::Inner, Step::Pipe(pipe)) => {
                let holds = run.with(|eval| {
                    eval.state.deeper()?;
                    let dot = eval.state.dot();
                    let value = eval.pipe(pipe, &dot)?;
                    let holds = value.is_true();
                    if self.kind == Kind::Inner && holds {
                        eval.state.dots.push(value);
                    }
                    Ok(holds)
                })?;
                body(holds, out)?;
                run.state.lock().back(mark);
            }
            (Kind::Items, Step::Pipe(pipe)) => {
                let items = run.with(|eval| {
                    eval.state.deeper()?;
                    let dot = eval.state.dot();
                    let value = eval.value(pipe, &dot)?;
                    items(eval, pipe, &value)
                })?;
                if items.is_empty() {
                    body(false, out)?;
                }
                let inside = run.state.lock().mark();
                for (key, value) in items {
                    run.with(|eval| item(eval, pipe, key, value))?;
                    let done = body(true, out);
                    let flow = {
                        let mut state = run.state.lock();
                        state.back(inside);
                        state.flow.take()
                    };
                    match (done, flow) {
                        (_, Some(Flow::Break)) => break,
                        (_, Some(Flow::Continue)) => {}
                        (done, None) => done?,
                    }
                }
                run.state.lock().back(mark);
            }
            _ => return Err(stopped()),
        }
        Ok(())
    }
}

/// What an action shows; nothing where it sets variables.
fn shown(eval: &mut Eval<'_>, pipe: &Pipe) -> Result<Option<String>, RenderError> {
    let dot = eval.state.dot();
    let value = eval.pipe(pipe, &dot)?;
    if !pipe.names.is_empty() {
        return Ok(None);
    }
    let limit = eval.around.limit;
    if value == Value::Nil && eval.around.is_html {
        return Ok(None);
    }
    let text = show::show(&value, limit).ok_or(RenderError::TooLong { limit })?;
    eval.state.spend(text.len())?;
    let trust = match value {
        Value::Safe(Safe::Html, _) => Trust::Html,
        Value::Safe(Safe::Url, _) => Trust::Url,
        _ => Trust::None,
    };
    Ok(Some(marked(&text, trust)))
}

/// Keys and values of a loop.
fn items(eval: &mut Eval<'_>, pipe: &Pipe, value: &Value) -> Result<Vec<(Value, Value)>, RenderError> {
    let count = match value {
        Value::List(_, list) => list.len(),
        Value::Map(_, map) => map.len(),
        Value::Int(count) => usize::try_from(*count.min(&MAX_COUNT)).unwrap_or(0),
        Value::Nil => 0,
        other => {
            let message = format!("`range` can't go over {}", other.describe());
            return Err(eval.state.fault(pipe.at, message));
        }
    };
    eval.state.spend(count.saturating_mul(4 * STEP))?;
    let index = |n: usize| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(match value {
        Value::List(_, list) => list.iter().enumerate().map(|(n, v)| (index(n), v.clone())).collect(),
        Value::Map(_, map) => map.iter().map(|(name, v)| (Value::Text(name.clone()), v.clone())).collect(),
        _ => (0..count).map(|n| (index(n), index(n))).collect(),
    })
}

/// Sets `.` and the variables for one turn of a loop.
fn item(eval: &mut Eval<'_>, pipe: &Pipe, key: Value, value: Value) -> Result<(), RenderError> {
    eval.state.spend(STEP)?;
    match pipe.names.as_slice() {
        [only] => eval.set(only, value.clone(), pipe.assigns),
        [index, element, ..] => {
            eval.set(index, key, pipe.assigns);
            eval.set(element, value.clone(), pipe.assigns);
        }
        [] => {}
    }
    eval.state.dots.push(value);
    Ok(())
}
