//! Data of `top`: the last ledger, and rates from the last two samples.
//!
//! In: ledgers with the moment at which they came. Out: rows. Touches nothing.

use std::collections::HashMap;
use std::time::Instant;

use millrace_agent::Ledger;
use millrace_agent::condition::Condition;

use crate::ledger::{Hop, LedgerView, Pace};

/// One look at a process.
#[derive(Debug, Clone)]
pub(super) struct Look {
    at: Instant,
    view: LedgerView,
    agent: Option<Ledger>,
}

impl Look {
    /// A ledger that came just now.
    pub fn now(view: LedgerView) -> Self {
        Self::at(Instant::now(), view)
    }

    /// A ledger that came at a moment.
    pub fn at(at: Instant, view: LedgerView) -> Self {
        let agent = view.hops.iter().find(|hop| hop.hop == "agent");
        let agent = agent.and_then(|hop| serde_json::from_value(hop.detail.clone()).ok());
        Self { at, view, agent }
    }
}

/// By what sources are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Fastest first.
    Rate,
    /// Most unread first.
    Behind,
    /// Most dropped first.
    Dropped,
    /// By name.
    Name,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Behind => "unread",
            Self::Dropped => "dropped",
            Self::Name => "name",
        }
    }
}

/// A row of the table of sources.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceRow {
    pub name: String,
    pub kind: String,
    pub lines_per_s: f64,
    pub bytes_per_s: f64,
    pub unread: u64,
    pub waiting: u64,
    pub dropped: u64,
    pub adds_up: bool,
}

/// Everything that a frame needs.
#[derive(Debug)]
pub(super) struct Model {
    pub addr: String,
    last: Option<Look>,
    before: Option<Look>,
    /// Why the last look failed.
    pub error: Option<String>,
    pub order: Order,
    /// First source shown.
    pub from: usize,
}

impl Model {
    pub fn new(addr: &str) -> Self {
        Self { addr: addr.to_owned(), last: None, before: None, error: None, order: Order::Rate, from: 0 }
    }

    /// Takes a look, or why there is none: then the last one stays.
    pub fn take(&mut self, look: Result<Look, String>) {
        match look {
            Ok(look) => {
                self.before = self.last.replace(look);
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    pub fn next_order(&mut self) {
        self.order = match self.order {
            Order::Rate => Order::Behind,
            Order::Behind => Order::Dropped,
            Order::Dropped => Order::Name,
            Order::Name => Order::Rate,
        };
        self.from = 0;
    }

    pub fn scroll(&mut self, by: isize) {
        let last = self.sources().len().saturating_sub(1);
        self.from = self.from.saturating_add_signed(by).min(last);
    }

    /// Each hop with its pace.
    pub fn hops(&self) -> Vec<(&Hop, Option<Pace>)> {
        let Some(last) = &self.last else { return Vec::new() };
        let pace = |hop: &Hop| {
            let before = self.before.as_ref()?;
            hop.pace(&before.view, last.at - before.at)
        };
        last.view.hops.iter().map(|hop| (hop, pace(hop))).collect()
    }

    /// The condition of the agent.
    pub fn condition(&self) -> Option<&Condition> {
        Some(&self.last.as_ref()?.agent.as_ref()?.condition)
    }

    /// Sources in the order asked for.
    pub fn sources(&self) -> Vec<SourceRow> {
        let Some(Look { at, agent: Some(agent), .. }) = &self.last else { return Vec::new() };
        let before = self.before.as_ref().and_then(|look| Some((look.at, look.agent.as_ref()?)));
        let old: HashMap<&str, _> = before
            .iter()
            .flat_map(|(_, ledger)| &ledger.sources)
            .map(|source| (source.source.as_str(), source.balance.read))
            .collect();
        let seconds = before.map(|(then, _)| (*at - then).as_secs_f64()).filter(|seconds| *seconds > 0.0);
        let per_s = |now: u64, old: Option<u64>| match (old, seconds) {
            #[allow(clippy::cast_precision_loss)] // shown with few digits
            (Some(old), Some(seconds)) => now.saturating_sub(old) as f64 / seconds,
            _ => 0.0,
        };
        let mut rows: Vec<SourceRow> = agent
            .sources
            .iter()
            .map(|source| {
                let (balance, old) = (&source.balance, old.get(source.source.as_str()));
                SourceRow {
                    name: source.filename.clone(),
                    kind: source.kind.clone(),
                    lines_per_s: per_s(balance.read.lines, old.map(|old| old.lines)),
                    bytes_per_s: per_s(balance.read.bytes, old.map(|old| old.bytes)),
                    unread: source.unread(),
                    waiting: balance.waiting.lines,
                    dropped: balance.dropped.values().map(|count| count.lines).sum(),
                    adds_up: source.adds_up(),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            let first = match self.order {
                Order::Rate => b.bytes_per_s.total_cmp(&a.bytes_per_s),
                Order::Behind => b.unread.cmp(&a.unread),
                Order::Dropped => b.dropped.cmp(&a.dropped),
                Order::Name => std::cmp::Ordering::Equal,
            };
            // Sources that are not balanced first.
            a.adds_up.cmp(&b.adds_up).then(first).then_with(|| a.name.cmp(&b.name))
        });
        rows
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use millrace_agent::ledger::{Balance, Count, SourceLedger};

    use super::*;

    fn count(lines: u64) -> Count {
        Count { lines, bytes: lines * 100, records: lines }
    }

    fn source(name: &str, lines: u64, unread: u64) -> SourceLedger {
        let balance = Balance { read: count(lines), sent: count(lines), ..Balance::default() };
        SourceLedger {
            source: format!("id-{name}"),
            kind: "file".to_owned(),
            filename: name.to_owned(),
            partition: 0,
            start: 0,
            read_to: lines * 100,
            acknowledged_to: lines * 100,
            size: lines * 100 + unread,
            finished: false,
            balance,
        }
    }

    /// Two looks at an agent, two seconds apart.
    pub fn model() -> Model {
        let ledger = |fast: u64| {
            let sources = vec![source("/var/log/slow.log", 10, 5000), source("/var/log/fast.log", fast, 0)];
            let mut ledger = Ledger { sources, ..Ledger::default() };
            for source in &ledger.sources {
                ledger.total.read += source.balance.read;
                ledger.total.sent += source.balance.sent;
            }
            ledger.condition = Condition {
                paused: Some("memory".to_owned()),
                waiting_bytes: 12 << 20,
                max_waiting_bytes: 16 << 20,
                reached: true,
                unread: None,
                troubles: [("logs/0".to_owned(), "broker is away".to_owned())].into(),
            };
            LedgerView { hops: vec![crate::ledger::agent_hop(&ledger)], notices: Vec::new() }
        };
        let mut model = Model::new("http://127.0.0.1:3100");
        let now = Instant::now();
        model.take(Ok(Look::at(now, ledger(1000))));
        model.take(Ok(Look::at(now + Duration::from_secs(2), ledger(3000))));
        model
    }

    #[test]
    fn rates_come_from_two_looks() {
        let mut model = model();
        let rows = model.sources();
        let shown: Vec<(&str, f64, f64, u64)> =
            rows.iter().map(|row| (row.name.as_str(), row.lines_per_s, row.bytes_per_s, row.unread)).collect();
        assert_eq!(shown, [("/var/log/fast.log", 1000.0, 100_000.0, 0), ("/var/log/slow.log", 0.0, 0.0, 5000)]);
        model.next_order();
        assert_eq!(model.sources()[0].name, "/var/log/slow.log");
        let (hop, pace) = model.hops()[0];
        assert_eq!((hop.behind, pace.unwrap().out_per_s), (Some(5000), 1000.0));
        model.scroll(5);
        assert_eq!(model.from, 1);
        model.scroll(isize::MIN);
        assert_eq!(model.from, 0);
        model.take(Err("gone".to_owned()));
        assert_eq!((model.error.as_deref(), model.sources().len()), (Some("gone"), 2));
    }
}
