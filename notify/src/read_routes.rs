//! `route` of `alertmanager.yml`: the tree of routes.
//!
//! In: its node, names of receivers and time intervals. Out: [`Route`]s, the root first; faults with their places. Touches
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::record::is_label_name;
use millrace_log::yaml::{Fields, Node};

use crate::reading::Reader;
use crate::routing::{GroupBy, Route};

const ROUTE_KEYS: [&str; 12] = [
    "receiver",
    "group_by",
    "group_wait",
    "group_interval",
    "repeat_interval",
    "matchers",
    "match",
    "match_re",
    "continue",
    "mute_time_intervals",
    "active_time_intervals",
    "routes",
];
/// Keys that the root must not have: it takes all alerts, always.
const NOT_OF_THE_ROOT: [(&str, &str); 5] = [
    ("match", "matchers"),
    ("match_re", "matchers"),
    ("matchers", "matchers"),
    ("mute_time_intervals", "mute time intervals"),
    ("active_time_intervals", "active time intervals"),
];

/// Names that routes refer to.
pub(crate) struct Names<'n> {
    /// Of receivers.
    pub(crate) receivers: Vec<&'n str>,
    /// Of time intervals.
    pub(crate) intervals: Vec<&'n str>,
}

impl Reader {
    /// Reads the tree: the root first, each route before its children.
    pub(crate) fn routes(&mut self, node: &Node, names: &Names<'_>) -> Option<Vec<Arc<Route>>> {
        let mut tree = Vec::new();
        self.route(node, None, names, &mut tree)?;
        // Siblings may have the same matchers: their groups are told apart by a number.
        let mut seen: HashMap<String, usize> = HashMap::new();
        for route in &mut tree {
            let count = seen.entry(route.key.clone()).or_default();
            *count += 1;
            if *count > 1 {
                route.id = format!("{}\u{1f}{count}", route.key);
            }
        }
        Some(tree.into_iter().map(Arc::new).collect())
    }

    /// Reads a route and those below it. Gives its place in the tree.
    fn route(&mut self, node: &Node, parent: Option<usize>, names: &Names<'_>, tree: &mut Vec<Route>) -> Option<usize> {
        let fields = self.doc.map(node, "a route", &ROUTE_KEYS)?;
        let mut route = match parent.and_then(|parent| tree.get(parent)) {
            None => self.root_route(&fields),
            Some(parent) => parent.child(self.matchers(&fields, ("matchers", "match", "match_re"))),
        };
        if let Some(node) = fields.get("continue") {
            route.continues = self.doc.flag(node, "`continue`") == Some(true);
            if route.continues && parent.is_none() {
                self.doc.fault(&node.place, "the root route must not have `continue`", Some("remove it".into()));
            }
        }
        if let Some(node) = fields.get("receiver")
            && let Some(name) = self.known(node, "receiver", "receivers", &names.receivers)
        {
            route.receiver = name;
        }
        if let Some(node) = fields.get("group_by") {
            match self.group_by(node) {
                // An empty list says nothing.
                GroupBy::Labels(labels) if labels.is_empty() => {}
                by => route.group_by = by,
            }
        }
        self.times(&fields, &mut route);
        for (key, list) in [
            ("mute_time_intervals", &mut route.mute_time_intervals),
            ("active_time_intervals", &mut route.active_time_intervals),
        ] {
            let Some(node) = fields.get(key) else { continue };
            for item in self.doc.list(node, &format!("`{key}`")) {
                list.extend(self.known(item, "time_interval", "time_intervals", &names.intervals));
            }
        }
        let place = tree.len();
        tree.push(route);
        let below = fields.get("routes").map(|node| self.doc.list(node, "`routes`")).unwrap_or_default();
        for item in below {
            let child = self.route(item, Some(place), names, tree);
            if let (Some(child), Some(route)) = (child, tree.get_mut(place)) {
                route.children.push(child);
            }
        }
        Some(place)
    }

    fn root_route(&mut self, fields: &Fields<'_>) -> Route {
        for (key, what) in NOT_OF_THE_ROOT {
            let is_given = fields.get(key).is_some_and(|node| !node.is_empty());
            if let Some(place) = fields.key(key).filter(|_| is_given) {
                let message = format!("the root route takes all alerts and must not have {what}");
                self.doc.fault(place, message, Some("move it to a route below".into()));
            }
        }
        if fields.get("receiver").is_none() {
            self.doc.fault(fields.place, "the root route requires `receiver`", None);
        }
        Route::usual()
    }

    fn times(&mut self, fields: &Fields<'_>, route: &mut Route) {
        if let Some(node) = fields.get("group_wait") {
            route.group_wait = self.doc.duration(node, "`group_wait`").unwrap_or(route.group_wait);
        }
        for (key, span) in
            [("group_interval", &mut route.group_interval), ("repeat_interval", &mut route.repeat_interval)]
        {
            let Some(node) = fields.get(key) else { continue };
            match self.doc.duration(node, &format!("`{key}`")) {
                Some(given) if given.is_zero() => {
                    self.doc.fault(&node.place, format!("`{key}` must be longer than 0"), None);
                }
                Some(given) => *span = given,
                None => {}
            }
        }
    }

    fn group_by(&mut self, node: &Node) -> GroupBy {
        let mut names: Vec<String> = Vec::new();
        let mut all = false;
        for item in self.doc.list(node, "`group_by`") {
            let Some(name) = self.doc.filled(item, "a label of `group_by`") else { continue };
            if name == "..." {
                all = true;
            } else if !is_label_name(name) {
                self.doc.fault(&item.place, format!("invalid label name `{name}`"), None);
            } else if names.iter().any(|have| have == name) {
                self.doc.fault(&item.place, format!("duplicate label `{name}` in `group_by`"), None);
            } else {
                names.push(name.to_owned());
            }
        }
        if all && !names.is_empty() {
            let hint = Some("remove the other labels, or `...`".to_owned());
            self.doc.fault(&node.place, "`...` means all labels and must be the only entry", hint);
        }
        if all { GroupBy::All } else { GroupBy::Labels(names) }
    }
}
