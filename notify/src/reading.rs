//! `alertmanager.yml` being read: the document with its faults, and readers of what stands in several places.
//!
//! In: nodes of the file. Out: credentials, matchers, names; faults with their places. Touches nothing.

use std::path::PathBuf;

use millrace_log::record::is_label_name;
use millrace_log::yaml::{Document, Fields, Node, nearest};

use crate::credential::Credential;
use crate::matcher::{self, Matcher, Operator};

/// What to do about keys that are not supported.
pub(crate) const LATER: &str = "remove it, or run Alertmanager instead";

/// A file being read.
pub(crate) struct Reader {
    /// The text with the faults found so far.
    pub(crate) doc: Document,
    /// Where relative paths count from.
    pub(crate) folder: PathBuf,
}

impl Reader {
    /// A secret that may stand here or in a file; the outer `None` is a fault.
    pub(crate) fn either(&mut self, fields: &Fields<'_>, here: &str, file: &str) -> Option<Option<Credential>> {
        match (fields.get(here), fields.get(file)) {
            (Some(_), Some(second)) => {
                let message = format!("`{here}` and `{file}` are mutually exclusive");
                self.doc.fault(&second.place, message, Some("remove one".into()));
                None
            }
            (Some(node), None) => {
                let text = self.doc.text(node, &format!("`{here}`"))?;
                Some(Some(Credential::Literal(text.to_owned())))
            }
            (None, Some(node)) => self.path(node, &format!("`{file}`")).map(Some),
            (None, None) => Some(None),
        }
    }

    /// A path; a relative one counts from the folder of the file.
    pub(crate) fn path(&mut self, node: &Node, what: &str) -> Option<Credential> {
        let text = self.doc.filled(node, what)?;
        Some(Credential::File(self.folder.join(text)))
    }

    /// A name that must be one of those defined; `list` says where they are.
    pub(crate) fn known(&mut self, node: &Node, what: &str, list: &str, names: &[&str]) -> Option<String> {
        let name = self.doc.filled(node, &format!("`{what}`"))?;
        if !names.contains(&name) {
            let hint = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("`{list}` has {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }),
            };
            self.doc.fault(&node.place, format!("unknown {} `{name}`", what.replace('_', " ")), Some(hint));
        }
        Some(name.to_owned())
    }

    /// Matchers of all three forms: texts, and the older maps of values and of expressions.
    pub(crate) fn matchers(&mut self, fields: &Fields<'_>, (texts, equal, regex): (&str, &str, &str)) -> Vec<Matcher> {
        let mut found = Vec::new();
        for (key, operator) in [(equal, Operator::Equal), (regex, Operator::Regex)] {
            let Some(node) = fields.get(key) else { continue };
            let Some(map) = self.doc.any_map(node, &format!("`{key}`")) else { continue };
            for entry in map.all() {
                if !is_label_name(&entry.key) {
                    self.doc.fault(&entry.place, format!("invalid label name `{}`", entry.key), None);
                    continue;
                }
                // Nothing is the empty text where values are compared, and no expression.
                let is_empty = entry.node.is_null() && operator == Operator::Equal;
                let value = if is_empty { Some("") } else { self.doc.text(&entry.node, &format!("`{}`", entry.key)) };
                let Some(value) = value else { continue };
                // Keys of groups have such expressions as Alertmanager compiles them.
                let shown = if operator == Operator::Regex { format!("^(?:{value})$") } else { value.to_owned() };
                let checked = if operator == Operator::Regex { matcher::anchored(value).map(drop) } else { Ok(()) };
                let made = checked.and_then(|()| Matcher::new(&entry.key, operator, shown));
                match made {
                    Ok(matcher) => found.push(matcher),
                    Err(fault) => self.doc.fault(&entry.node.place, fault, None),
                }
            }
        }
        if let Some(node) = fields.get(texts) {
            for item in self.doc.list(node, &format!("`{texts}`")) {
                let Some(text) = self.doc.text(item, "a matcher") else { continue };
                match Matcher::parse_list(text) {
                    Ok(list) => found.extend(list),
                    Err(fault) => {
                        let hint = "write it as `name=\"value\"`, with `=`, `!=`, `=~` or `!~`; put names with other characters \
                                    than letters, digits and `_` in quotes";
                        self.doc.fault(&item.place, fault, Some(hint.to_owned()));
                    }
                }
            }
        }
        matcher::sort(&mut found);
        found
    }
}
