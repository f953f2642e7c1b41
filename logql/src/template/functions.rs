//! Functions of templates by name: Go's own, Loki's and those that Loki takes from Sprig.
//!
//! In: a name, and arguments. Out: values, or Go's messages. Touches nothing. One file for each family.

use std::cell::Cell;

use super::arguments::Arguments;
use super::context::Context;
use super::fault::TemplateFault;
use super::value::Value;
use super::{functions_encoding, functions_go, functions_number, functions_text};

/// Number of arguments: from, to.
type Arity = (usize, usize);

const MANY: usize = usize::MAX;

/// Names and numbers of arguments.
const FUNCTIONS: [(&str, Arity); 84] = [
    ("and", (1, MANY)),
    ("or", (1, MANY)),
    ("not", (1, 1)),
    ("eq", (1, MANY)),
    ("ne", (2, 2)),
    ("lt", (2, 2)),
    ("le", (2, 2)),
    ("gt", (2, 2)),
    ("ge", (2, 2)),
    ("len", (1, 1)),
    ("index", (1, MANY)),
    ("slice", (1, 4)),
    ("print", (0, MANY)),
    ("println", (0, MANY)),
    ("printf", (1, MANY)),
    ("urlquery", (1, MANY)),
    ("__line__", (0, 0)),
    ("__timestamp__", (0, 0)),
    ("ToLower", (1, 1)),
    ("ToUpper", (1, 1)),
    ("Replace", (4, 4)),
    ("Trim", (2, 2)),
    ("TrimLeft", (2, 2)),
    ("TrimRight", (2, 2)),
    ("TrimPrefix", (2, 2)),
    ("TrimSuffix", (2, 2)),
    ("TrimSpace", (1, 1)),
    ("regexReplaceAll", (3, 3)),
    ("regexReplaceAllLiteral", (3, 3)),
    ("count", (2, 2)),
    ("urlencode", (1, 1)),
    ("urldecode", (1, 1)),
    ("bytes", (1, 1)),
    ("duration", (1, 1)),
    ("duration_seconds", (1, 1)),
    ("unixEpoch", (1, 1)),
    ("unixEpochMillis", (1, 1)),
    ("unixEpochNanos", (1, 1)),
    ("unixToTime", (1, 1)),
    ("date", (2, 2)),
    ("alignLeft", (2, 2)),
    ("alignRight", (2, 2)),
    ("b64enc", (1, 1)),
    ("b64dec", (1, 1)),
    ("lower", (1, 1)),
    ("upper", (1, 1)),
    ("title", (1, 1)),
    ("trunc", (2, 2)),
    ("substr", (3, 3)),
    ("contains", (2, 2)),
    ("hasPrefix", (2, 2)),
    ("hasSuffix", (2, 2)),
    ("indent", (2, 2)),
    ("nindent", (2, 2)),
    ("replace", (3, 3)),
    ("repeat", (2, 2)),
    ("trim", (1, 1)),
    ("trimAll", (2, 2)),
    ("trimPrefix", (2, 2)),
    ("trimSuffix", (2, 2)),
    ("int", (1, 1)),
    ("float64", (1, 1)),
    ("add", (0, MANY)),
    ("sub", (2, 2)),
    ("mul", (1, MANY)),
    ("div", (2, 2)),
    ("mod", (2, 2)),
    ("addf", (0, MANY)),
    ("subf", (1, MANY)),
    ("mulf", (1, MANY)),
    ("divf", (1, MANY)),
    ("max", (1, MANY)),
    ("min", (1, MANY)),
    ("maxf", (1, MANY)),
    ("minf", (1, MANY)),
    ("ceil", (1, 1)),
    ("floor", (1, 1)),
    ("round", (2, 3)),
    ("fromJson", (1, 1)),
    ("default", (1, 2)),
    // Known, not built.
    ("now", (0, 0)),
    ("toDate", (2, 2)),
    ("toDateInZone", (3, 3)),
    ("html", (1, MANY)),
];

/// Whether there is such a function.
pub(super) fn check(name: &str) -> Result<(), TemplateFault> {
    match name {
        "now" => Err(TemplateFault::NotYet("the template function `now`")),
        "toDate" | "toDateInZone" => Err(TemplateFault::NotYet("the template functions `toDate` and `toDateInZone`")),
        "html" | "js" | "call" => Err(TemplateFault::NotYet("the template functions `html`, `js` and `call`")),
        name if FUNCTIONS.iter().any(|(n, _)| *n == name) => Ok(()),
        name => Err(TemplateFault::Wrong(format!("function {name:?} not defined"))),
    }
}

/// Calls a function; `spent` counts work that its result does not show.
pub(super) fn call(
    name: &str,
    values: Vec<Value>,
    context: &Context<'_>,
    spent: &Cell<usize>,
) -> Result<Value, String> {
    let (least, most) = FUNCTIONS.iter().find(|(n, _)| *n == name).map_or((0, MANY), |(_, arity)| *arity);
    let given = values.len();
    if given < least || given > most {
        let want = if most == MANY { format!("at least {least}") } else { least.to_string() };
        return Err(format!("wrong number of args for {name}: want {want} got {given}"));
    }
    let a = Arguments { function: name, values, spent };
    let mut made = functions_go::call(name, &a, context)?;
    for family in [functions_text::call, functions_number::call, functions_encoding::call] {
        if made.is_none() {
            made = family(name, &a)?;
        }
    }
    let value = made.ok_or_else(|| format!("function {name:?} not defined"))?;
    // What only passes a long line on makes nothing.
    if let Value::Text(text) = &value
        && a.values.iter().all(|given| text.len() > given.size())
        && name != "__line__"
    {
        a.within(text.len())?;
    }
    Ok(value)
}
