//! What of a configuration could not be read, and which later findings only follow from that.
//!
//! In: paths of keys that were left out. Out: whether a finding stands on its own. Touches nothing.
//!
//! A key that is unknown or of the wrong kind is left out, so that everything else is still checked. A finding about
//! what is left out, about what holds it, or about a value close beside it may disappear with the key's correction: it
//! is not reported until then.

use std::collections::BTreeMap;

use millrace_log::value::Fault;

/// The keys and entries that were left out of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    left_out: Vec<String>,
    /// Lists without all their entries: the numbers that these have in the file.
    lists: BTreeMap<String, Vec<usize>>,
}

impl Damage {
    /// Notes a key or an entry of a list by its path in the file.
    pub fn leave_out(&mut self, path: String) {
        self.left_out.push(path);
    }

    /// Notes which entries of a list are left.
    pub fn keep(&mut self, list: String, numbers: Vec<usize>) {
        self.lists.insert(list, numbers);
    }

    /// Whether something of a section is missing.
    pub fn is_in(&self, section: &str) -> bool {
        self.left_out.iter().any(|out| holds(section, out))
    }

    /// The path in the file of a path in what was read.
    pub fn in_file(&self, path: &str) -> String {
        let mut out = String::with_capacity(path.len());
        let mut rest = path;
        while let Some((before, after)) = rest.split_once('[') {
            out.push_str(before);
            let (number, behind) = after.split_once(']').unwrap_or((after, ""));
            let kept = self.lists.get(&out).zip(number.parse::<usize>().ok());
            let in_file = kept.and_then(|(kept, number)| kept.get(number)).map(ToString::to_string);
            out.push_str(&format!("[{}]", in_file.as_deref().unwrap_or(number)));
            rest = behind;
        }
        out.push_str(rest);
        out
    }

    /// Whether a finding about a key, by its path in the file, may disappear with the correction of what is left out.
    pub fn explains(&self, path: &str) -> bool {
        self.left_out.iter().any(|out| {
            let around = parent(out);
            let beside = !path.ends_with(']')
                && (parent(path) == around || (!parent(path).is_empty() && parent(path) == parent(around)));
            holds(path, out) || holds(out, path) || beside
        })
    }

    /// Findings with their paths in the file, without those that only follow from what is left out.
    pub fn remaining(&self, found: Vec<Fault>) -> Vec<Fault> {
        if self.left_out.is_empty() {
            return found;
        }
        let in_file = |fault: Fault| Fault { path: self.in_file(&fault.path), ..fault };
        let stands = |fault: &Fault| !self.explains(&fault.path) && !self.is_named(&fault.message);
        found.into_iter().map(in_file).filter(stands).collect()
    }

    /// Whether a message is about the name of something that was left out, such as a transform.
    fn is_named(&self, message: &str) -> bool {
        self.left_out.iter().any(|out| {
            let name = out.get(parent(out).len()..).unwrap_or_default().trim_start_matches('.');
            message.contains(&format!("unknown transform `{name}`"))
        })
    }
}

/// The path of what holds a key.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Whether a path is another, or leads to it.
fn holds(path: &str, other: &str) -> bool {
    !path.is_empty() && other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_from_a_left_out_key_is_explained() {
        for (left_out, path, want) in [
            ("aggregator.http.max_requests", "aggregator.http.max_requests", true),
            ("aggregator.http.max_requests", "aggregator.http", true),
            ("aggregator.http.max_requests", "aggregator.http.listen", true),
            ("aggregator.http.auth.tokn", "aggregator.http.listen", true),
            ("aggregator.http.max_requests", "aggregator.kafka.topics[1]", false),
            ("aggregator.http.max_requests", "aggregator.elasticsearch.listen", false),
            ("aggregator.http.max_requests", "rules", false),
            ("agregator", "rules", true),
            ("agregator", "agent.sources[0].include", false),
            ("agent.sources[0].labls", "agent.sources[1].include", false),
            ("agent.sources[0].transforms[2].presets[0]", "agent.sources[0].transforms[1]", false),
            ("broker.topics.a.b.config.retention.mss", "broker.topics.a.b.partitions", false),
        ] {
            let mut damage = Damage::default();
            damage.leave_out(left_out.to_owned());
            assert_eq!(damage.explains(path), want, "{left_out}: {path}");
        }
    }

    #[test]
    fn the_agent_names_a_transform_that_was_left_out_as_it_is_looked_for() {
        // The words are the agent's: a change of them there must change `is_named`.
        let agent: millrace_agent::AgentConfig = serde_json::from_value(
            serde_json::json!({"sources": [{"type": "file", "include": ["/l/*.log"], "transforms": ["parse"]}]}),
        )
        .unwrap();
        let mut faults = millrace_log::value::Faults::default();
        faults.within("agent", |faults| agent.check(faults));
        let found = faults.into_vec();
        let paths = |found: &[Fault]| found.iter().map(|fault| fault.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&found), ["agent.sources[0].transforms[0]"], "{found:?}");
        for (left_out, want) in
            [("agent.transforms.parse", 0), ("agent.transforms.pars", 1), ("agent.transforms.other", 1)]
        {
            let mut damage = Damage::default();
            damage.leave_out(left_out.to_owned());
            assert_eq!(damage.remaining(found.clone()).len(), want, "{left_out}");
        }
    }

    #[test]
    fn entries_keep_their_numbers_in_the_file() {
        let mut damage = Damage::default();
        damage.keep("agent.sources".to_owned(), vec![1, 3]);
        damage.keep("agent.sources[3].include".to_owned(), vec![2]);
        for (path, want) in [
            ("agent.sources[0].type", "agent.sources[1].type"),
            ("agent.sources[1].include[0]", "agent.sources[3].include[2]"),
            ("agent.sources[9]", "agent.sources[9]"),
            ("agent.kafka.brokers[0]", "agent.kafka.brokers[0]"),
            ("rules", "rules"),
        ] {
            assert_eq!(damage.in_file(path), want);
        }
    }
}
