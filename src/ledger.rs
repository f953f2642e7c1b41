//! The ledger of the process: every hop from file to index, with what came in and what became of it.
//!
//! In: the ledgers of the rooms. Out: [`LedgerView`] as JSON (`/api/v1/ledger`) and as a table (`millrace doctor`); from
//! two of them how fast each hop is ([`Pace`]), and which is the slowest. Touches nothing.

use std::fmt::Write as _;
use std::time::Duration;

use millrace_log::consume::ConsumerStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::human::{bytes, count, rate};

/// One hop: `read = stored + dropped + waiting`, in events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// `agent`, `route TOPIC`, `index` or `export NAME`.
    pub hop: String,
    /// Came in.
    pub read: u64,
    /// Went on to the next hop, durable there.
    pub stored: u64,
    /// Went nowhere, with the reasons below.
    pub dropped: u64,
    /// Is on its way.
    pub waiting: u64,
    /// Of what waits: searchable already, and safe in the log until a split on disk has it. Nothing to worry about.
    #[serde(default)]
    pub in_memory: u64,
    /// Why how many were dropped.
    pub reasons: std::collections::BTreeMap<String, u64>,
    /// Stretches that were gone before they could be read.
    pub holes: u64,
    /// How much is there and has not yet gone on, in `unit`s; absent where nobody can tell now.
    #[serde(default)]
    pub behind: Option<u64>,
    /// How much has gone on, in `unit`s: two looks tell how long the rest takes.
    #[serde(default)]
    pub moved: u64,
    /// `bytes` or `records`.
    #[serde(default)]
    pub unit: String,
    /// What is in the way now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The room's own ledger, with its files or topics.
    pub detail: Json,
}

impl Hop {
    /// Whether nothing is unaccounted for.
    pub fn adds_up(&self) -> bool {
        self.read == self.stored + self.dropped + self.waiting
    }

    /// How fast it has been since an earlier look, so long ago; `None` if it was not there then.
    pub fn pace(&self, before: &LedgerView, elapsed: Duration) -> Option<Pace> {
        let old = before.hops.iter().find(|old| old.hop == self.hop)?;
        Some(Pace::between(old, self, elapsed))
    }

    /// Bytes that the agent cut off lines over `max_line_bytes`: their records went on, so no record counts as dropped.
    pub fn cut_bytes(&self) -> u64 {
        self.detail.pointer("/total/dropped/cut/bytes").and_then(Json::as_u64).unwrap_or(0)
    }

    /// How much is behind, for people.
    pub fn behind_text(&self) -> String {
        match self.behind {
            None => "?".to_owned(),
            Some(behind) if self.unit == "bytes" => bytes(behind),
            Some(behind) => count(behind),
        }
    }
}

/// How fast a hop is between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Events that came in, by the second.
    pub in_per_s: f64,
    /// Events that went on or were dropped, by the second.
    pub out_per_s: f64,
    /// How long what is behind takes at this pace; infinite if nothing moves, absent if nobody knows what is behind.
    pub delay_s: Option<f64>,
}

impl Pace {
    /// From two looks, the second so much later.
    #[allow(clippy::cast_precision_loss)] // shown with few digits
    fn between(old: &Hop, new: &Hop, elapsed: Duration) -> Self {
        let per_s = |old: u64, new: u64| match elapsed.as_secs_f64() {
            seconds if seconds > 0.0 => new.saturating_sub(old) as f64 / seconds,
            _ => 0.0,
        };
        let moved = per_s(old.moved, new.moved);
        let delay = |behind: u64| match behind {
            0 => 0.0,
            behind if moved > 0.0 => behind as f64 / moved,
            _ => f64::INFINITY,
        };
        Self {
            in_per_s: per_s(old.read, new.read),
            out_per_s: per_s(old.stored + old.dropped, new.stored + new.dropped),
            delay_s: new.behind.map(delay),
        }
    }

    /// For people.
    pub fn delay_text(&self) -> String {
        match self.delay_s {
            None => "?".to_owned(),
            Some(seconds) if seconds.is_infinite() => "not moving".to_owned(),
            Some(seconds) if seconds < 100.0 => format!("{seconds:.1} s"),
            Some(seconds) if seconds < 6000.0 => format!("{:.0} min", seconds / 60.0),
            Some(seconds) => format!("{:.0} h", seconds / 3600.0),
        }
    }
}

/// The hop that takes longest to be where the one before it is; `None` if none is behind.
pub fn slowest<'h>(hops: impl Iterator<Item = (&'h Hop, Pace)>) -> Option<String> {
    let behind = hops.filter(|(_, pace)| pace.delay_s.is_some_and(|delay| delay > 0.0));
    let (hop, pace) = behind.max_by(|(_, a), (_, b)| a.delay_s.unwrap_or(0.0).total_cmp(&b.delay_s.unwrap_or(0.0)))?;
    let much = match hop.unit.as_str() {
        "bytes" => hop.behind_text(),
        unit => format!("{} {unit}", hop.behind_text()),
    };
    let delay = pace.delay_s.unwrap_or(0.0);
    Some(if delay.is_infinite() {
        format!("slowest hop: {}, {much} behind, not moving", hop.hop)
    } else {
        format!("slowest hop: {}, {much} behind, {} at this pace", hop.hop, pace.delay_text())
    })
}

/// All hops of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerView {
    /// In the order of an event.
    pub hops: Vec<Hop>,
    /// What those who look after the process should know although it works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// From the agent's ledger, in records.
pub fn agent_hop(ledger: &millrace_agent::ledger::Ledger) -> Hop {
    let total = &ledger.total;
    let unread: u64 = ledger.sources.iter().map(millrace_agent::ledger::SourceLedger::unread).sum();
    let condition = &ledger.condition;
    // Waiting for a log that takes what it can is no trouble; one that takes nothing says so below.
    let paused = condition.paused.as_ref().filter(|what| *what != "log");
    let paused = paused.map(|what| format!("reading is paused, {what} is used up"));
    let log = condition.troubles.iter().next().map(|(partition, trouble)| format!("{partition}: {trouble}"));
    let not_yet = (!condition.reached && log.is_none()).then(|| "the log was not reached yet".to_owned());
    let troubles: Vec<String> = paused.into_iter().chain(log).chain(not_yet).collect();
    // Before the log is reached no file is open: what waits in them is known once they were looked at.
    let unread = if condition.reached { Some(unread) } else { condition.unread };
    Hop {
        hop: "agent".to_owned(),
        read: total.read.records,
        stored: total.sent.records,
        dropped: total.dropped.values().map(|dropped| dropped.records).sum(),
        waiting: total.waiting.records,
        in_memory: 0,
        reasons: total.dropped.iter().map(|(reason, dropped)| (reason.clone(), dropped.records)).collect(),
        holes: 0,
        behind: unread.map(|unread| unread + total.waiting.bytes),
        moved: total.sent.bytes + total.dropped.values().map(|dropped| dropped.bytes).sum::<u64>(),
        unit: "bytes".to_owned(),
        trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
        detail: serde_json::to_value(ledger).unwrap_or_default(),
    }
}

/// From a consumer that keeps no ledger of its own, in records of its source: an export, a pass of routes.
pub fn consumer_hop(name: &str, status: &ConsumerStatus) -> Hop {
    let counts = status.counts();
    let dropped = counts.dropped.values().sum();
    Hop {
        hop: name.to_owned(),
        read: counts.read,
        stored: counts.stored,
        dropped,
        waiting: counts.waiting,
        in_memory: 0,
        reasons: counts.dropped.iter().map(|(reason, records)| ((*reason).to_owned(), *records)).collect(),
        holes: status.holes().0,
        behind: status.lag(),
        moved: counts.stored + dropped,
        unit: "records".to_owned(),
        trouble: status.trouble(),
        detail: serde_json::json!({ "holes": status.hole_list() }),
    }
}

/// From the aggregator's ledger, all topics together; `behind`: records in the log that can't be searched yet, or why
/// nobody can tell; `status`: of its consumer, which knows of holes before they are in the catalog.
pub fn index_hop(ledger: &millrace_index::ledger::Ledger, behind: Result<u64, String>, status: &ConsumerStatus) -> Hop {
    let mut all = millrace_index::ledger::TopicCounts::default();
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
        // What the index has read is searchable at once.
        in_memory: all.waiting.lines,
        reasons: reasons.map(|(reason, count)| (reason.to_owned(), count)).into(),
        holes: status.holes().0.max(ledger.holes.len() as u64),
        behind: behind.as_ref().ok().copied(),
        moved: all.stored.lines + all.duplicate.lines + all.dead_letter.lines + all.waiting.lines,
        unit: "records".to_owned(),
        trouble: behind.err(),
        detail: serde_json::to_value(ledger).unwrap_or_default(),
    }
}

impl LedgerView {
    /// Hops of which nobody can tell now how far they are behind; `None` if there are none.
    pub fn unknown(&self) -> Option<String> {
        let hops: Vec<&str> = self.hops.iter().filter(|hop| hop.behind.is_none()).map(|hop| hop.hop.as_str()).collect();
        (!hops.is_empty()).then(|| hops.join(", "))
    }

    /// For a terminal; with an earlier look also how fast the hops are.
    pub fn table(&self, before: Option<(&Self, Duration)>) -> String {
        let mut out: String = self.notices.iter().map(|notice| format!("warning: {notice}\n")).collect();
        // Names of exports are free.
        let width = self.hops.iter().map(|hop| hop.hop.chars().count() + 1).max().unwrap_or(0).clamp(16, 40);
        let written = writeln!(
            out,
            "{:<width$}{:>14}{:>14}{:>12}{:>12}{:>10}{:>12}{:>14}  ",
            "hop", "read", "stored", "dropped", "waiting", "out/s", "behind", "delay"
        );
        debug_assert!(written.is_ok(), "a String takes every text");
        for hop in &self.hops {
            let pace = before.and_then(|(before, elapsed)| hop.pace(before, elapsed));
            let out_per_s = pace.map_or_else(String::new, |pace| rate(pace.out_per_s));
            let delay = pace.map_or_else(String::new, |pace| pace.delay_text());
            let behind = hop.behind_text();
            let verdict = if hop.adds_up() { "balanced" } else { "NOT BALANCED" };
            let reasons: Vec<String> =
                hop.reasons.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
            let memory = match hop.in_memory {
                0 => String::new(),
                events => format!("; {} searchable, not yet on disk", count(events)),
            };
            let holes = if hop.holes > 0 { format!("; {} holes in the log", hop.holes) } else { String::new() };
            let cut = match hop.cut_bytes() {
                0 => String::new(),
                cut => format!("; {} cut off lines over max_line_bytes", bytes(cut)),
            };
            let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
            let written = writeln!(
                out,
                "{:<width$}{:>14}{:>14}{:>12}{:>12}{out_per_s:>10}{behind:>12}{delay:>14}  {verdict}{why}{cut}{memory}{holes}",
                hop.hop,
                hop.read,
                hop.stored,
                hop.dropped,
                hop.waiting.saturating_sub(hop.in_memory)
            );
            debug_assert!(written.is_ok(), "a String takes every text");
        }
        for hop in &self.hops {
            if let Some(trouble) = &hop.trouble {
                out.push_str(&format!("{}: {trouble}\n", hop.hop));
            }
        }
        if let Some((before, elapsed)) = before {
            let paces = self.hops.iter().filter_map(|hop| Some((hop, hop.pace(before, elapsed)?)));
            let slow = slowest(paces);
            let unknown = self.unknown().map(|hops| format!("how far it is behind is not known: {hops}"));
            let is_silent = slow.is_none() && unknown.is_none();
            let verdict = slow.into_iter().chain(unknown).chain(is_silent.then(|| "nothing is behind".to_owned()));
            verdict.for_each(|line| out.push_str(&format!("{line}\n")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_not_balanced() {
        let hop = |read| Hop {
            hop: "index".to_owned(),
            read,
            stored: 7,
            dropped: 2,
            waiting: 1,
            in_memory: 0,
            reasons: [("duplicate".to_owned(), 2)].into(),
            holes: 0,
            behind: Some(5),
            moved: 9,
            unit: "records".to_owned(),
            trouble: None,
            detail: Json::Null,
        };
        let table = LedgerView { hops: vec![hop(10), hop(11)], notices: Vec::new() }.table(None);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("balanced (2 duplicate)") && !lines[1].contains("NOT"), "{table}");
        assert!(lines[2].contains("NOT BALANCED"), "{table}");
    }

    #[test]
    fn what_was_cut_off_long_lines_is_shown_in_bytes() {
        let mut ledger = millrace_agent::Ledger::default();
        let cut = millrace_agent::ledger::Count { bytes: 2048, ..Default::default() };
        ledger.total.dropped.insert("cut".to_owned(), cut);
        let table = LedgerView { hops: vec![agent_hop(&ledger)], notices: Vec::new() }.table(None);
        assert!(table.contains("balanced; 2KiB cut off lines over max_line_bytes\n"), "{table}");
    }

    #[test]
    fn what_is_searchable_and_not_yet_on_disk_is_no_delay() {
        let mut topics = millrace_index::ledger::Ledger::default();
        let counts = topics.topics.entry("logs".to_owned()).or_default();
        counts.read.lines = 1500;
        counts.stored.lines = 300;
        counts.waiting.lines = 1200;
        let status = ConsumerStatus::new("index", Vec::new(), &millrace_log::consume::ConsumerMetrics::default(), &[]);
        let view = LedgerView { hops: vec![index_hop(&topics, Ok(0), &status)], notices: Vec::new() };
        let table = view.table(Some((&view, Duration::from_secs(1))));
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(&words[..5], ["index", "1500", "300", "0", "0"], "nothing waits: {table}");
        assert!(table.contains("balanced; 1200 searchable, not yet on disk"), "{table}");
        assert!(table.ends_with("nothing is behind\n"), "{table}");
    }

    #[test]
    fn a_consumer_is_a_hop_with_its_gaps_and_the_reason_of_its_pause() {
        let metrics = millrace_log::consume::ConsumerMetrics::default();
        let status = ConsumerStatus::new("export `search`", Vec::new(), &metrics, &[]);
        status.pause(millrace_log::consume::Pause::Login, "the login is refused");
        let hop = consumer_hop("export search-of-the-second-team", &status);
        assert!(hop.adds_up() && hop.behind.is_none(), "{hop:?}");
        let holes = Hop { holes: 2, ..hop };
        let table = LedgerView { hops: vec![holes], notices: Vec::new() }.table(None);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[1].starts_with("export search-of-the-second-team ") && lines[1].ends_with("; 2 holes in the log")
        );
        assert_eq!(lines[2], "export search-of-the-second-team: the login is refused");
        assert_eq!(lines[0].find("read").map(|at| at + 4), lines[1].find(" 0").map(|at| at + 2), "{table}");
    }

    fn at(name: &str, unit: &str, behind: Option<u64>, moved: u64) -> Hop {
        Hop {
            hop: name.to_owned(),
            read: moved,
            stored: moved,
            dropped: 0,
            waiting: 0,
            in_memory: 0,
            reasons: std::collections::BTreeMap::new(),
            holes: 0,
            behind,
            moved,
            unit: unit.to_owned(),
            trouble: behind.is_none().then(|| "the log is away".to_owned()),
            detail: Json::Null,
        }
    }

    #[test]
    fn the_slowest_hop_is_the_one_that_takes_longest_for_what_is_behind() {
        type Case = (&'static [(&'static str, &'static str, Option<u64>, u64, u64)], &'static str);
        let cases: &[Case] = &[
            (&[("agent", "bytes", Some(0), 5, 9), ("index", "records", Some(0), 5, 5)], "nothing is behind"),
            (
                &[("agent", "bytes", Some(1000), 0, 1000), ("index", "records", Some(300), 0, 20)],
                "slowest hop: index, 300 records behind, 30.0 s at this pace",
            ),
            (
                &[("agent", "bytes", Some(20_480), 7, 7), ("index", "records", Some(300), 0, 20)],
                "slowest hop: agent, 20KiB behind, not moving",
            ),
            (
                &[("agent", "bytes", Some(0), 5, 9), ("index", "records", None, 0, 20)],
                "index: the log is away\nhow far it is behind is not known: index",
            ),
            (
                &[("agent", "bytes", Some(20_480), 7, 7), ("index", "records", None, 0, 20)],
                "slowest hop: agent, 20KiB behind, not moving\nhow far it is behind is not known: index",
            ),
        ];
        for (hops, want) in cases {
            let view = |second: bool| LedgerView {
                hops: hops.iter().map(|(n, u, b, old, new)| at(n, u, *b, if second { *new } else { *old })).collect(),
                notices: Vec::new(),
            };
            let table = view(true).table(Some((&view(false), Duration::from_secs(2))));
            assert!(table.ends_with(&format!("{want}\n")), "{table}");
        }
    }
}
