//! What each record becomes: copies for the routes that take it, dead letters for those that a target refuses for good.
//!
//! In: records, verdicts of selectors. Out: [`Output`]s. Touches nothing.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::client::group::SourceRecord;
use millrace_log::client::{Output, TIME_REFUSED};
use millrace_log::dead_letter::{HEADER_FROM, HEADER_REASON, HEADER_STAGE, HEADER_TIME, HEADER_TIMESTAMP};
use millrace_log::record::HEADER_LABELS;

use super::selector::{Selector, Verdict, judge};
use super::targets::Targets;

/// Sets of labels whose verdicts are remembered; then it starts anew.
const MEMORY: usize = 16 * 1024;
/// Name of this stage in dead letters.
const STAGE: &str = "route";

/// One route, ready to run.
#[derive(Debug)]
pub(super) struct Route {
    pub name: String,
    pub to: Arc<str>,
    pub selector: Selector,
    pub drop_labels: Vec<String>,
}

/// Why an output is a dead letter now.
#[derive(Debug)]
pub(super) struct Dead {
    pub reason: String,
    pub without_value: bool,
    /// With the time of the letter: nobody takes the record's own.
    pub retimed: bool,
}

impl Dead {
    /// A letter of the record as it is, but for a time that would be refused again.
    pub fn new(reason: String) -> Self {
        let retimed = reason == TIME_REFUSED;
        Self { reason, without_value: false, retimed }
    }

    /// The letter was refused too: changes what may be the cause. False if nothing is left that could be changed.
    pub fn change(&mut self, refusal: &str) -> bool {
        let change = if (refusal == TIME_REFUSED || self.without_value) && !self.retimed {
            &mut self.retimed
        } else {
            &mut self.without_value
        };
        !std::mem::replace(change, true)
    }
}

/// Where records go, and for each output the number of its route.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pub outputs: Vec<Output>,
    pub of_route: Vec<usize>,
}

impl Copies {
    /// Asks every route about every record.
    pub fn decide(routes: &[Route], records: &[SourceRecord], targets: &Targets, verdicts: &mut Verdicts) -> Self {
        let mut copies =
            Self { outputs: Vec::with_capacity(records.len()), of_route: Vec::with_capacity(records.len()) };
        for (at, record) in records.iter().enumerate() {
            if record.unreadable.is_some() {
                // Nobody knows which routes would take it: it is a dead letter of the first.
                copies.outputs.push(Output { record: at, partition: record.partition.partition, ..Output::default() });
                copies.of_route.push(0);
                continue;
            }
            let verdicts = verdicts.of(routes, record.header(HEADER_LABELS));
            for (number, (route, verdict)) in routes.iter().zip(verdicts.iter()).enumerate() {
                let replace = match verdict {
                    Verdict::No => continue,
                    Verdict::AsIs => None,
                    Verdict::Relabelled(labels) => Some((HEADER_LABELS, Arc::clone(labels))),
                };
                // Records of one partition stay together and in order.
                let count = targets.partitions_of(&route.to);
                copies.outputs.push(Output {
                    record: at,
                    topic: Arc::clone(&route.to),
                    partition: record.partition.partition % count,
                    replace,
                    add: Vec::new(),
                    without_value: false,
                    timestamp_ms: None,
                });
                copies.of_route.push(number);
            }
        }
        copies
    }

    /// Leaves out all other outputs.
    pub fn keep(&mut self, is_kept: impl Fn(&Output) -> bool) {
        let kept: Vec<bool> = self.outputs.iter().map(is_kept).collect();
        let mut each = kept.iter();
        self.outputs.retain(|_| each.next().is_some_and(|kept| *kept));
        let mut each = kept.iter();
        self.of_route.retain(|_| each.next().is_some_and(|kept| *kept));
    }

    /// The route of an output.
    pub fn route<'r>(&self, routes: &'r [Route], output: usize) -> Option<&'r Route> {
        routes.get(*self.of_route.get(output)?)
    }
}

/// The same record for the dead letters.
pub(super) fn dead_letter(
    record: &SourceRecord,
    output: &Output,
    route: &str,
    dead: &Dead,
    topic: &Arc<str>,
    targets: &Targets,
    now_ms: i64,
) -> Output {
    let time = chrono::DateTime::from_timestamp_millis(now_ms)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    let left_out = if dead.without_value {
        format!(", its value of {} bytes is left out", record.value_len())
    } else {
        String::new()
    };
    // None for a record that can't be read: nobody knows where it would go.
    let to = if output.topic.is_empty() { String::new() } else { format!(" to {}", output.topic) };
    let mut add = vec![
        (HEADER_REASON, format!("route {route}{to}: {}{left_out}", dead.reason)),
        (HEADER_STAGE, STAGE.to_owned()),
        (HEADER_TIME, time),
        (HEADER_FROM, format!("{}@{}", record.partition, record.offset)),
    ];
    if dead.retimed {
        add.push((HEADER_TIMESTAMP, record.timestamp_ms().to_string()));
    }
    Output {
        record: output.record,
        partition: record.partition.partition % targets.partitions_of(topic),
        topic: Arc::clone(topic),
        replace: None,
        add,
        without_value: dead.without_value,
        timestamp_ms: dead.retimed.then_some(now_ms),
    }
}

/// What the routes do, by the bytes of the header: all lines of a stream carry the same.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    by_header: HashMap<Vec<u8>, Arc<[Verdict]>>,
    without: Option<Arc<[Verdict]>>,
}

impl Verdicts {
    fn of(&mut self, routes: &[Route], header: Option<&[u8]>) -> Arc<[Verdict]> {
        let all = || routes.iter().map(|route| judge(&route.selector, &route.drop_labels, header)).collect();
        let Some(bytes) = header else { return Arc::clone(self.without.get_or_insert_with(all)) };
        if let Some(known) = self.by_header.get(bytes) {
            return Arc::clone(known);
        }
        if self.by_header.len() >= MEMORY {
            self.by_header.clear();
        }
        let made: Arc<[Verdict]> = all();
        self.by_header.insert(bytes.to_vec(), Arc::clone(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_refused_changes_until_nothing_is_left_to_change() {
        for (refusals, want) in [
            // (refusals, first of the record itself), ((without value, retimed) after each, whether it is worth a try)
            (
                vec!["too large", "too large", "too large", "too large"],
                vec![(false, false, true), (true, false, true), (true, true, true), (true, true, false)],
            ),
            (
                vec![TIME_REFUSED, "too large", TIME_REFUSED],
                vec![(false, true, true), (true, true, true), (true, true, false)],
            ),
            (
                vec!["too large", TIME_REFUSED, "too large", "too large"],
                vec![(false, false, true), (false, true, true), (true, true, true), (true, true, false)],
            ),
        ] {
            let mut dead: Option<Dead> = None;
            let mut got = Vec::new();
            for refusal in &refusals {
                let is_new = match &mut dead {
                    Some(dead) => dead.change(refusal),
                    None => {
                        dead = Some(Dead::new((*refusal).to_owned()));
                        true
                    }
                };
                let Some(Dead { without_value, retimed, .. }) = &dead else { continue };
                got.push((*without_value, *retimed, is_new));
            }
            assert_eq!(got, want, "{refusals:?}");
        }
    }
}
