//! Helpers of templates written in handlebars: functions, loops, calls, lists of labels and alerts.
//!
//! In: JSON. Out: JSON, and text to the sink. Touches the state of one rendering.

use std::sync::Arc;

use handlebars::{
    BlockContext, BlockParams, Context, Handlebars, Helper, HelperDef, JsonRender as _, Output, RenderContext,
    RenderErrorReason, Renderable as _, ScopedJson,
};
use serde_json::Value as Json;

use crate::call::Call;
use crate::eval::STEP;
use crate::fault::RenderError;
use crate::functions;
use crate::html::Trust;
use crate::json;
use crate::run::{Done, Failure, Run};
use crate::show;
use crate::sink::marked;
use crate::value::{Safe, Value};

/// Gives a rendering its helpers.
pub(crate) fn register<'rc>(run: &'rc Run<'_>, rc: &mut RenderContext<'_, 'rc>) {
    for name in functions::names(run.dialect) {
        // handlebars has its own of these.
        if !matches!(name, "and" | "or" | "not" | "eq" | "ne" | "lt" | "gt") {
            rc.register_local_helper(name, Box::new(Function { run, name }));
        }
    }
    rc.register_local_helper("nl", Box::new(Literal));
    rc.register_local_helper("ws", Box::new(Literal));
    rc.register_local_helper("each", Box::new(Each { run }));
    rc.register_local_helper("template", Box::new(CallNamed { run }));
    rc.register_local_helper("firing", Box::new(OfStatus { run, status: "firing" }));
    rc.register_local_helper("resolved", Box::new(OfStatus { run, status: "resolved" }));
    rc.register_local_helper("labelValues", Box::new(LabelValues { run }));
    for part in ["pairs", "names", "values"] {
        rc.register_local_helper(part, Box::new(Pairs { run, part }));
    }
}

/// A function as a helper of handlebars.
struct Function<'r, 's> {
    run: &'r Run<'s>,
    name: &'static str,
}

fn parameters(h: &Helper<'_>) -> Vec<Value> {
    h.params().iter().map(|p| json::from_json(p.value())).collect()
}

impl Function<'_, '_> {
    fn value(&self, h: &Helper<'_>) -> Result<Value, Failure> {
        let mut values = parameters(h);
        // Times are texts in JSON.
        for at in 0..values.len() {
            let wants_time = matches!((self.name, at), ("date" | "tz", 1) | ("since", 0));
            if wants_time
                && let Some(time) =
                    values.get(at).and_then(Value::as_text).and_then(|t| crate::time::GoTime::parse_json(t))
            {
                values[at] = Value::Time(time);
            }
        }
        let size: usize = values.iter().map(|v| v.size(1 << 20)).sum();
        let made = functions::call(self.run.dialect, &Call { name: self.name, values, around: &self.run.around });
        let spent = self.run.around.spent.swap(0, std::sync::atomic::Ordering::Relaxed);
        self.run.with(|eval| eval.state.spend(size + spent + STEP))?;
        made.map_err(|message| RenderErrorReason::Other(message).into())
    }
}

impl HelperDef for Function<'_, '_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, Failure> {
        Ok(ScopedJson::Derived(json::to_json(&self.value(h)?)))
    }

    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Done {
        let value = self.value(h)?;
        let trust = match value {
            Value::Safe(Safe::Html, _) => Trust::Html,
            Value::Safe(Safe::Url, _) => Trust::Url,
            _ => Trust::None,
        };
        Ok(out.write(&marked(&json::to_json(&value).render(), trust))?)
    }
}

/// `{{nl}}` ends a line, `{{ws "  "}}` writes blanks: handlebars drops them beside blocks that stand alone on a line.
struct Literal;

impl HelperDef for Literal {
    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Done {
        let blanks = h.param(0).and_then(|p| p.value().as_str()).unwrap_or("\n");
        Ok(out.write(&blanks.chars().filter(|c| c.is_whitespace()).collect::<String>())?)
    }
}

/// `{{#each list as |item index|}}`, with a count of the work.
struct Each<'r, 's> {
    run: &'r Run<'s>,
}

impl HelperDef for Each<'_, '_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        r: &'reg Handlebars<'reg>,
        ctx: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Done {
        let Some(given) = h.param(0) else { return Err(RenderErrorReason::ParamNotFoundForIndex("each", 0).into()) };
        let items: Vec<(Json, &Json)> = match given.value() {
            Json::Array(list) => list.iter().enumerate().map(|(n, v)| (Json::from(n), v)).collect(),
            Json::Object(map) => map.iter().map(|(k, v)| (Json::from(k.as_str()), v)).collect(),
            _ => Vec::new(),
        };
        if items.is_empty() {
            return h.inverse().map_or(Ok(()), |inverse| inverse.render(r, ctx, rc, out));
        }
        let Some(body) = h.template() else { return Ok(()) };
        self.run.with(|eval| eval.state.deeper())?;
        let last = items.len() - 1;
        for (n, (key, value)) in items.into_iter().enumerate() {
            let size = json::size(value);
            self.run.with(|eval| eval.state.spend(4 * STEP + size))?;
            let mut block = BlockContext::new();
            block.set_base_value(value.clone());
            for (name, set) in [
                ("index", Json::from(n)),
                ("key", key.clone()),
                ("first", Json::from(n == 0)),
                ("last", Json::from(n == last)),
            ] {
                block.set_local_var(name, set);
            }
            let mut params = BlockParams::new();
            if let Some(name) = h.block_param() {
                params.add_value(name, value.clone())?;
            } else if let Some((item, index)) = h.block_param_pair() {
                params.add_value(item, value.clone())?;
                params.add_value(index, key)?;
            }
            block.set_block_params(params);
            rc.push_block(block);
            let done = body.render(r, ctx, rc, out);
            rc.pop_block();
            done?;
        }
        self.run.state.lock().depth -= 1;
        Ok(())
    }
}

/// `{{template "name" value}}`: another template by name.
struct CallNamed<'r, 's> {
    run: &'r Run<'s>,
}

impl HelperDef for CallNamed<'_, '_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        ctx: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Done {
        let name = h.param(0).and_then(|p| p.value().as_str()).unwrap_or_default();
        let dot = json::from_json(h.param(1).map_or(ctx.data(), |p| p.value()));
        self.run.with(|eval| eval.state.spend(dot.size(usize::MAX)))?;
        let message = format!("the template `{name}` does not exist");
        let fault = RenderError::Failed { template: String::new(), line: 1, column: 1, message };
        (self.run.named)(self.run, &Arc::from(name), dot, fault, out)
    }
}

/// `{{#each (firing alerts)}}`: alerts of a status.
struct OfStatus<'r, 's> {
    run: &'r Run<'s>,
    status: &'static str,
}

impl HelperDef for OfStatus<'_, '_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, Failure> {
        let list: Vec<Json> = match h.param(0).map(|p| p.value()) {
            Some(Json::Array(list)) => list.iter().filter(|alert| alert["status"] == self.status).cloned().collect(),
            _ => Vec::new(),
        };
        let size: usize = list.iter().map(json::size).sum();
        self.run.with(|eval| eval.state.spend(STEP + size))?;
        Ok(ScopedJson::Derived(Json::Array(list)))
    }
}

/// `(labelValues alerts "severity")`: the values that a label has in a list of alerts.
struct LabelValues<'r, 's> {
    run: &'r Run<'s>,
}

impl HelperDef for LabelValues<'_, '_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, Failure> {
        let name = h.param(1).and_then(|p| p.value().as_str()).unwrap_or_default();
        let alerts = h.param(0).and_then(|p| p.value().as_array()).map(Vec::as_slice).unwrap_or_default();
        let list: Vec<Json> = alerts.iter().filter_map(|alert| alert["labels"].get(name)).cloned().collect();
        let size: usize = list.iter().map(json::size).sum();
        self.run.with(|eval| eval.state.spend(STEP * (alerts.len() + 1) + size))?;
        Ok(ScopedJson::Derived(Json::Array(list)))
    }
}

/// `{{#each (pairs labels)}}{{Name}}={{Value}}{{/each}}`, `(names labels)`, `(values labels)`: labels with `alertname` first, without
/// those of a second map.
struct Pairs<'r, 's> {
    run: &'r Run<'s>,
    part: &'static str,
}

impl HelperDef for Pairs<'_, '_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, Failure> {
        let values = parameters(h);
        let [Value::Map(_, map), rest @ ..] = values.as_slice() else {
            return Ok(ScopedJson::Derived(Json::Array(Vec::new())));
        };
        let size: usize = values.iter().map(|value| value.size(usize::MAX)).sum();
        self.run.with(|eval| eval.state.spend(size + STEP))?;
        let without = |name: &str| matches!(rest, [Value::Map(_, other), ..] if other.contains_key(name));
        let list = show::sorted_pairs(map).into_iter().filter(|(name, _)| !without(name));
        let part = |(name, value): (&str, &str)| match self.part {
            "names" => Json::from(name),
            "values" => Json::from(value),
            _ => serde_json::json!({"Name": name, "Value": value}),
        };
        Ok(ScopedJson::Derived(list.map(part).collect()))
    }
}
