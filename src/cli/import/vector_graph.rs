//! Vector: which components feed which, by their `inputs`.
//!
//! In: sources, transforms, sinks. Out: the sources of a component, and the chain of transforms behind a source. Side
//! effects: none.

use std::collections::{BTreeMap, BTreeSet};

use millrace_log::yaml::{MapEntry, Node};

/// Which sources feed a component.
pub struct Upstream<'n> {
    inputs: BTreeMap<&'n str, Vec<String>>,
    sources: BTreeSet<String>,
}

impl<'n> Upstream<'n> {
    /// Of all components.
    pub fn new(transforms: &'n [MapEntry], sources: &[MapEntry]) -> Self {
        let inputs = transforms.iter().map(|entry| (entry.key.as_str(), inputs(&entry.node)));
        Self { inputs: inputs.collect(), sources: sources.iter().map(|entry| entry.key.clone()).collect() }
    }

    /// The sources that feed a component.
    pub fn of(&self, component: &Node) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = inputs(component);
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let all = self.sources.iter().map(String::as_str).chain(self.inputs.keys().copied());
            for known in all.filter(|known| wild(&name, known) || name.split('.').next() == Some(*known)) {
                if self.sources.contains(known) {
                    found.insert(known.to_owned());
                }
                open.extend(self.inputs.get(known).cloned().unwrap_or_default());
            }
        }
        found
    }
}

pub fn inputs(component: &Node) -> Vec<String> {
    component.get("inputs").map(Node::texts).unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}

/// The transforms behind a source, in order, and what ends the chain.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain<'n> {
    /// Names of transforms that all events of the source go through.
    pub steps: Vec<&'n str>,
    /// Names of transforms that only a part of the events, or a copy of them, goes through.
    pub others: BTreeSet<&'n str>,
}

impl<'n> Chain<'n> {
    /// Follows a source until its events go several ways.
    pub fn of(source: &'n str, transforms: &'n [MapEntry], sinks: &[&MapEntry]) -> Self {
        let reads = |entry: &MapEntry, name: &str| {
            inputs(&entry.node).iter().any(|input| wild(input, name) || input.split('.').next() == Some(name))
        };
        let after =
            |name: &str| -> Vec<&'n MapEntry> { transforms.iter().filter(|entry| reads(entry, name)).collect() };
        let mut chain = Self { steps: Vec::new(), others: BTreeSet::new() };
        let mut last = source;
        loop {
            let next = after(last);
            let sunk = sinks.iter().any(|sink| reads(sink, last));
            match next.as_slice() {
                [one] if !sunk && !chain.steps.contains(&one.key.as_str()) && whole(one, last) => {
                    last = &one.key;
                    chain.steps.push(last);
                }
                _ => break,
            }
        }
        let mut open = after(last);
        while let Some(entry) = open.pop() {
            if !chain.steps.contains(&entry.key.as_str()) && chain.others.insert(&entry.key) {
                open.extend(after(&entry.key));
            }
        }
        chain
    }
}

/// Whether a transform reads all events of a component, and not one of its named outputs.
fn whole(entry: &MapEntry, name: &str) -> bool {
    inputs(&entry.node).iter().any(|input| wild(input, name))
}

/// `app*` names all that start with `app`.
fn wild(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_name_inputs() {
        assert!(wild("app*", "app1") && wild("*", "x") && wild("a", "a") && !wild("a*b", "a") && !wild("a", "ab"));
    }

    #[test]
    fn a_chain_ends_where_events_go_several_ways() {
        let text = "t: {a: {inputs: [s]}, b: {inputs: [a]}, c: {inputs: [b]}, d: {inputs: [b]}, e: {inputs: [c]}}\n\
                    k: {x: {inputs: [e, d]}}\n";
        let root = super::super::foreign::yaml("f", text).unwrap();
        let transforms = root.get("t").unwrap().entries();
        let sinks: Vec<&MapEntry> = root.get("k").unwrap().entries().iter().collect();
        let chain = Chain::of("s", transforms, &sinks);
        assert_eq!(chain.steps, ["a", "b"]);
        assert_eq!(chain.others, ["c", "d", "e"].into());
        let early = super::super::foreign::yaml("f", "x: {inputs: [s, b]}\n").unwrap();
        assert_eq!(Chain::of("s", transforms, &early.entries().iter().collect::<Vec<_>>()).steps, [""; 0]);
        let one = super::super::foreign::yaml("f", "a: {inputs: [s.errors]}\n").unwrap();
        assert_eq!(Chain::of("s", one.entries(), &[]).steps, [""; 0]);
    }
}
