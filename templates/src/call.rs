//! One call of a function: its arguments, their conversions, and what a call may cost.
//!
//! In: values. Out: typed arguments, or why they don't fit. Touches nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::time::GoTime;
use crate::value::{ListKind, Value};

/// Lists and maps inside one another that a template may make.
const MAX_NESTING: usize = 16;
/// Items in all that they may have.
const MAX_ITEMS: usize = 10_000;

/// What stands around a call.
pub(crate) struct Around {
    /// Bytes that a result may have.
    pub limit: usize,
    /// HTML shows nothing for what does not exist.
    pub is_html: bool,
    /// The wall clock when the rendering began, ns since 1970.
    pub now_ns: i64,
    /// Where people reach the notifier or the page.
    pub external_url: Arc<str>,
    /// Work beyond bytes: regular expressions that were compiled.
    pub spent: AtomicUsize,
}

/// One call of a function.
pub(crate) struct Call<'a> {
    pub name: &'a str,
    pub values: Vec<Value>,
    pub around: &'a Around,
}

impl Call<'_> {
    pub fn value(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    pub fn wrong(&self, at: usize, want: &str) -> String {
        format!("argument {} of `{}` is {}, {want} is expected", at + 1, self.name, self.value(at).describe())
    }

    pub fn text(&self, at: usize) -> Result<&str, String> {
        self.value(at).as_text().map(|text| &**text).ok_or_else(|| self.wrong(at, "a text"))
    }

    pub fn int(&self, at: usize) -> Result<i64, String> {
        match self.value(at) {
            Value::Int(n) | Value::Duration(n) | Value::Named(_, n, _) => Ok(*n),
            _ => Err(self.wrong(at, "a whole number")),
        }
    }

    pub fn time(&self, at: usize) -> Result<GoTime, String> {
        match self.value(at) {
            Value::Time(time) => Ok(*time),
            _ => Err(self.wrong(at, "a time")),
        }
    }

    /// A list of texts.
    pub fn strings(&self, at: usize) -> Result<Vec<&str>, String> {
        let Value::List(ListKind::Strings | ListKind::Any, list) = self.value(at) else {
            return Err(self.wrong(at, "a list of texts"));
        };
        let texts: Option<Vec<&str>> = list.iter().map(|item| item.as_text().map(|text| &**text)).collect();
        texts.ok_or_else(|| self.wrong(at, "a list of texts"))
    }

    /// A number from numbers, durations (seconds) and texts.
    pub fn number(&self, at: usize) -> Result<f64, String> {
        match self.value(at) {
            Value::Float(n) => Ok(*n),
            // As in Go, beyond 2^53 to the nearest.
            Value::Int(n) | Value::Named(_, n, _) => Ok(*n as f64),
            Value::Duration(ns) => Ok(*ns as f64 / 1e9),
            Value::Text(text) | Value::Safe(_, text) => match &*text.to_ascii_lowercase() {
                "+inf" | "inf" | "infinity" | "+infinity" => Ok(f64::INFINITY),
                "-inf" | "-infinity" => Ok(f64::NEG_INFINITY),
                "nan" => Ok(f64::NAN),
                number => number.parse().map_err(|_| format!("`{}` can't read `{text}` as a number", self.name)),
            },
            _ => Err(self.wrong(at, "a number")),
        }
    }

    /// A list or map of the arguments, if it is not too deep.
    pub fn nested(&self, made: Value) -> Result<Value, String> {
        let mut items = MAX_ITEMS;
        let flat = made.is_flat(MAX_NESTING, &mut items);
        self.around.spent.fetch_add((MAX_ITEMS - items) * 8, Ordering::Relaxed);
        let message =
            || format!("`{}`: more than {MAX_NESTING} lists inside one another, or {MAX_ITEMS} items", self.name);
        if flat { Ok(made) } else { Err(message()) }
    }

    pub fn too_long(&self) -> String {
        format!("the result of `{}` is longer than {} bytes", self.name, self.around.limit)
    }

    /// A text within the limit.
    pub fn made(&self, text: impl Into<String>) -> Result<Value, String> {
        let text: String = text.into();
        if text.len() > self.around.limit { Err(self.too_long()) } else { Ok(Value::text(text)) }
    }
}
