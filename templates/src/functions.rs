//! Functions by name, for the two kinds of templates: of rules, and of notifications.
//!
//! In: a kind, a name, arguments. Out: a value, or what does not fit. Touches nothing.

use crate::call::Call;
use crate::value::Value;
use crate::{functions_go, functions_number, functions_text};

/// Whose functions and data a template has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Labels and annotations of rules: Prometheus's.
    Rules,
    /// Fields of receivers: Alertmanager's.
    Notifications,
}

/// Functions of one kind: the value, or nothing where the name is another.
type Family = fn(&Call<'_>) -> Result<Option<Value>, String>;

const MANY: usize = usize::MAX;

/// Names and numbers of arguments, from and to: Go's own.
const GO: [(&str, usize, usize); 17] = [
    ("and", 1, MANY),
    ("or", 1, MANY),
    ("not", 1, 1),
    ("eq", 2, MANY),
    ("ne", 2, 2),
    ("lt", 2, 2),
    ("le", 2, 2),
    ("gt", 2, 2),
    ("ge", 2, 2),
    ("len", 1, 1),
    ("index", 1, MANY),
    ("slice", 1, 4),
    ("print", 0, MANY),
    ("println", 0, MANY),
    ("printf", 1, MANY),
    ("html", 0, MANY),
    ("urlquery", 0, MANY),
];
const JS: (&str, usize, usize) = ("js", 0, MANY);

const NOTIFICATIONS: [(&str, usize, usize); 22] = [
    ("toUpper", 1, 1),
    ("toLower", 1, 1),
    ("title", 1, 1),
    ("trimSpace", 1, 1),
    ("join", 2, 2),
    ("match", 2, 2),
    ("safeHtml", 1, 1),
    ("safeUrl", 1, 1),
    ("urlUnescape", 1, 1),
    ("reReplaceAll", 3, 3),
    ("stringSlice", 0, MANY),
    ("date", 2, 2),
    ("tz", 2, 2),
    ("now", 0, 0),
    ("since", 1, 1),
    ("humanizeDuration", 1, 1),
    ("toJson", 1, 1),
    ("base64encode", 1, 1),
    ("base64decode", 1, 1),
    ("list", 0, MANY),
    ("append", 1, MANY),
    ("dict", 0, MANY),
];

const RULES: [(&str, usize, usize); 28] = [
    ("toUpper", 1, 1),
    ("toLower", 1, 1),
    ("title", 1, 1),
    ("match", 2, 2),
    ("reReplaceAll", 3, 3),
    ("safeHtml", 1, 1),
    ("humanize", 1, 1),
    ("humanize1024", 1, 1),
    ("humanizeDuration", 1, 1),
    ("humanizePercentage", 1, 1),
    ("humanizeTimestamp", 1, 1),
    ("toTime", 1, 1),
    ("toDuration", 1, 1),
    ("now", 0, 0),
    ("parseDuration", 1, 1),
    ("stripPort", 1, 1),
    ("stripDomain", 1, 1),
    ("graphLink", 1, 1),
    ("tableLink", 1, 1),
    ("urlQueryEscape", 1, 1),
    ("pathPrefix", 0, 0),
    ("externalURL", 0, 0),
    ("args", 0, MANY),
    ("first", 1, 1),
    ("label", 2, 2),
    ("value", 1, 1),
    ("strvalue", 1, 1),
    ("sortByLabel", 2, 2),
];

/// Names of all functions of a kind of templates.
pub(crate) fn names(dialect: Dialect) -> impl Iterator<Item = &'static str> {
    table(dialect).map(|(name, ..)| *name)
}

fn table(dialect: Dialect) -> impl Iterator<Item = &'static (&'static str, usize, usize)> {
    let own: &[_] = match dialect {
        Dialect::Rules => &RULES,
        Dialect::Notifications => &NOTIFICATIONS,
    };
    GO.iter().chain([&JS]).chain(own)
}

/// Whether there is such a function; otherwise message and cure.
pub(crate) fn check(dialect: Dialect, name: &str) -> Result<(), (String, String)> {
    if names(dialect).any(|known| known == name) {
        return Ok(());
    }
    let refused =
        |why: &str, hint: &str| Err((format!("the function `{name}` is not supported: {why}"), hint.to_owned()));
    match name {
        "query" => refused(
            "a template can't ask for other series",
            "put what it should show into the rule's `expr`, as a label or the value",
        ),
        "tmpl" => refused("it belongs to console pages", "use `template \"name\" .`"),
        "call" => refused("no value is a function", "name the function itself"),
        "toDate" | "mustToDate" => refused("times can't be read from texts", "use times of alerts, as in `.StartsAt`"),
        "routeLabels" => refused("the route's labels are fields", "write `.RouteLabels.name`"),
        "trim" if dialect == Dialect::Notifications => {
            Err((format!("the function `{name}` does not exist"), "write `trimSpace`".to_owned()))
        }
        "labels" | "value" | "externalLabels" => Err((
            format!("the function `{name}` does not exist"),
            if dialect == Dialect::Rules {
                format!("write `${name}`")
            } else {
                "write `.CommonLabels.name` or `.Labels.name`".to_owned()
            },
        )),
        _ => {
            let near = names(dialect).find(|known| known.eq_ignore_ascii_case(name));
            let other = if dialect == Dialect::Rules { Dialect::Notifications } else { Dialect::Rules };
            let elsewhere = names(other).any(|known| known == name);
            let hint = match (near, elsewhere, dialect) {
                (Some(near), ..) => format!("did you mean `{near}`?"),
                (None, true, Dialect::Rules) => "only templates of notifications have it".to_owned(),
                (None, true, Dialect::Notifications) => {
                    "only templates of rules have it: use it in an annotation".to_owned()
                }
                (None, false, _) => "docs/templates.md lists the functions".to_owned(),
            };
            Err((format!("the function `{name}` does not exist"), hint))
        }
    }
}

/// Calls a function that [`check`] knows.
pub(crate) fn call(dialect: Dialect, a: &Call<'_>) -> Result<Value, String> {
    let (least, most) =
        table(dialect).find(|(n, ..)| *n == a.name).map_or((0, MANY), |(_, least, most)| (*least, *most));
    let given = a.values.len();
    if given < least || given > most {
        let want = match (least, most) {
            (least, MANY) => format!("at least {least}"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        return Err(format!("`{}` takes {want} arguments, {given} are given", a.name));
    }
    if let Some(value) = functions_go::call(a)? {
        return Ok(value);
    }
    let families: [Family; 2] = match dialect {
        Dialect::Rules => [functions_number::call, functions_text::call],
        Dialect::Notifications => [functions_text::call, functions_number::call],
    };
    for family in families {
        if let Some(value) = family(a)? {
            return Ok(value);
        }
    }
    Err(format!("the function `{}` does not exist", a.name))
}
