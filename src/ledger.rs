//! The ledger of the process: every hop from file to index, with what came in and what became of it.
//!
//! In: the ledgers of the rooms. Out: [`LedgerView`] as JSON (`/api/v1/ledger`) and as a table (`millrace doctor`).
//! Touches nothing.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One hop: `read = stored + dropped + waiting`, in events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// `agent`, `route TOPIC` or `index`.
    pub hop: String,
    /// Came in.
    pub read: u64,
    /// Went on to the next hop, durable there.
    pub stored: u64,
    /// Went nowhere, with the reasons below.
    pub dropped: u64,
    /// Is on its way.
    pub waiting: u64,
    /// Why how many were dropped.
    pub reasons: std::collections::BTreeMap<String, u64>,
    /// Stretches that were gone before they could be read.
    pub holes: u64,
    /// The room's own ledger, with its files or topics.
    pub detail: Json,
}

impl Hop {
    /// Whether nothing is unaccounted for.
    pub fn adds_up(&self) -> bool {
        self.read == self.stored + self.dropped + self.waiting
    }
}

/// All hops of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerView {
    /// In the order of an event.
    pub hops: Vec<Hop>,
}

/// From the agent's ledger, in records.
pub fn agent_hop(ledger: &millrace_agent::ledger::Ledger) -> Hop {
    let total = &ledger.total;
    Hop {
        hop: "agent".to_owned(),
        read: total.read.records,
        stored: total.sent.records,
        dropped: total.dropped.values().map(|count| count.records).sum(),
        waiting: total.waiting.records,
        reasons: total.dropped.iter().map(|(reason, count)| (reason.clone(), count.records)).collect(),
        holes: 0,
        detail: serde_json::to_value(ledger).unwrap_or_default(),
    }
}

/// From the counts of one pass of routes, in records of its source.
pub fn route_hop(counts: &millrace_aggregator::route::RouteCounts) -> Hop {
    let (stored, unmatched, dead, waiting) = (counts.copied(), counts.unmatched(), counts.dead(), counts.waiting());
    Hop {
        hop: format!("route {}", counts.from()),
        read: stored + unmatched + dead + waiting,
        stored,
        dropped: unmatched + dead,
        waiting,
        reasons: [("no route".to_owned(), unmatched), ("dead letter".to_owned(), dead)].into(),
        holes: 0,
        detail: Json::Null,
    }
}

/// From the aggregator's ledger, all topics together.
pub fn index_hop(ledger: &millrace_aggregator::ledger::Ledger) -> Hop {
    let mut all = millrace_aggregator::ledger::TopicCounts::default();
    for counts in ledger.topics.values() {
        all += *counts;
    }
    let reasons = [("duplicate", all.duplicate.lines), ("dead letter", all.dead_letter.lines)];
    Hop {
        hop: "index".to_owned(),
        read: all.read.lines,
        stored: all.stored.lines,
        dropped: all.duplicate.lines + all.dead_letter.lines,
        waiting: all.waiting.lines,
        reasons: reasons.map(|(reason, count)| (reason.to_owned(), count)).into(),
        holes: ledger.holes.len() as u64,
        detail: serde_json::to_value(ledger).unwrap_or_default(),
    }
}

impl LedgerView {
    /// For a terminal.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let written = writeln!(out, "{:<16}{:>14}{:>14}{:>12}{:>12}  ", "hop", "read", "stored", "dropped", "waiting");
        debug_assert!(written.is_ok(), "a String takes every text");
        for hop in &self.hops {
            let verdict = if hop.adds_up() { "adds up" } else { "DOES NOT ADD UP" };
            let reasons: Vec<String> =
                hop.reasons.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
            let holes = if hop.holes > 0 { format!("; {} holes in the log", hop.holes) } else { String::new() };
            let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
            let written = writeln!(
                out,
                "{:<16}{:>14}{:>14}{:>12}{:>12}  {verdict}{why}{holes}",
                hop.hop, hop.read, hop.stored, hop.dropped, hop.waiting
            );
            debug_assert!(written.is_ok(), "a String takes every text");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_does_not_add_up() {
        let hop = |read| Hop {
            hop: "index".to_owned(),
            read,
            stored: 7,
            dropped: 2,
            waiting: 1,
            reasons: [("duplicate".to_owned(), 2)].into(),
            holes: 0,
            detail: Json::Null,
        };
        let table = LedgerView { hops: vec![hop(10), hop(11)] }.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("adds up (2 duplicate)") && !lines[1].contains("NOT"), "{table}");
        assert!(lines[2].contains("DOES NOT ADD UP"), "{table}");
    }
}
