//! `inhibit_rules` of `alertmanager.yml`.
//!
//! In: their nodes. Out: [`InhibitRule`]s; faults with their places. Touches nothing.

use millrace_log::yaml::Node;

use crate::reading::Reader;
use crate::routing::InhibitRule;

const INHIBIT_KEYS: [&str; 8] = [
    "name",
    "source_matchers",
    "target_matchers",
    "equal",
    "source_match",
    "source_match_re",
    "target_match",
    "target_match_re",
];

impl Reader {
    /// Reads all inhibition rules.
    pub(crate) fn inhibit_rules(&mut self, node: &Node) -> Vec<InhibitRule> {
        let mut found = Vec::new();
        for item in self.doc.list(node, "`inhibit_rules`") {
            let Some(fields) = self.doc.map(item, "an inhibition rule", &INHIBIT_KEYS) else { continue };
            let name = fields.get("name").and_then(|node| self.doc.text(node, "`name`")).unwrap_or_default();
            let mut equal = Vec::new();
            for item in fields.get("equal").map(|node| self.doc.list(node, "`equal`")).unwrap_or_default() {
                equal.extend(self.doc.filled(item, "a label of `equal`").map(str::to_owned));
            }
            found.push(InhibitRule {
                name: name.to_owned(),
                source: self.matchers(&fields, ("source_matchers", "source_match", "source_match_re")),
                target: self.matchers(&fields, ("target_matchers", "target_match", "target_match_re")),
                equal,
            });
        }
        found
    }
}
