//! `millrace dlq list`: counts by reason, stage and topic, and the newest letters.
//!
//! In: filters. Out: two tables, or one JSON document. Touches the network, reading only. Groups are bounded.

use std::collections::BTreeMap;

use clap::Args;
use millrace_log::admin::Admin;
use serde::Serialize;

use super::letter::Letter;
use super::memory::Memory;
use super::reading::{DeadLetters, FilterFlags};
use crate::cli::cluster::failed;
use crate::cli::table::{Table, or_dash};
use crate::cli::terminal::{Output, print, print_json};
use crate::exit::Failure;
use crate::human::{shortened, time};

/// Groups that are counted separately; further ones are counted under one name.
const MAX_GROUPS: usize = 1000;
const OTHERS: &str = "(further reasons)";

#[derive(Debug, Args)]
pub struct ListFlags {
    #[command(flatten)]
    filter: FilterFlags,
    /// Number of newest letters to list
    #[arg(short = 'n', long, alias = "newest", value_name = "LETTERS", default_value_t = 10)]
    limit: usize,
    /// Only letters that were not replayed yet
    #[arg(long)]
    waiting: bool,
}

/// Key of a group: kind of reason, stage, topic.
type Key = (String, String, String);

#[derive(Debug, Serialize)]
struct Group {
    reason: String,
    stage: String,
    topic: String,
    count: u64,
    replayed: u64,
    first: String,
    last: String,
    #[serde(skip)]
    span: (i64, i64),
}

#[derive(Debug, Serialize)]
struct Listed {
    letter: String,
    time: String,
    stage: String,
    from: Option<String>,
    replayed: bool,
    reason: String,
    bytes: usize,
    value: String,
}

#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    letters: u64,
    replayed: u64,
    groups: Vec<Group>,
    newest: Vec<Listed>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    groups: BTreeMap<Key, Group>,
    /// By time, then by place: the newest are last.
    newest: BTreeMap<(i64, i32, i64), Listed>,
}

impl Seen {
    fn add(&mut self, letter: &Letter, replayed: bool, newest: usize) {
        let mut key = (letter.kind(), letter.stage.clone(), letter.topic().to_owned());
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            key.0 = OTHERS.to_owned();
        }
        let (reason, stage, topic) = key.clone();
        let at = letter.time_ms;
        let group = self.groups.entry(key).or_insert_with(|| Group {
            reason,
            stage,
            topic,
            count: 0,
            replayed: 0,
            first: String::new(),
            last: String::new(),
            span: (at, at),
        });
        group.count += 1;
        group.replayed += u64::from(replayed);
        group.span = (group.span.0.min(at), group.span.1.max(at));
        if newest == 0 {
            return;
        }
        let place = (at, letter.record.partition, letter.record.offset);
        if self.newest.len() >= newest && self.newest.first_key_value().is_some_and(|(oldest, _)| *oldest >= place) {
            return;
        }
        self.newest.insert(
            place,
            Listed {
                letter: letter.id(),
                time: or_dash(time(at)),
                stage: letter.stage.clone(),
                from: letter.from.as_ref().map(ToString::to_string),
                replayed,
                reason: letter.reason.clone(),
                bytes: letter.record.value.as_ref().map_or(0, |value| value.len()),
                value: shortened(&String::from_utf8_lossy(letter.record.value.as_deref().unwrap_or_default()), 200),
            },
        );
        if self.newest.len() > newest {
            self.newest.pop_first();
        }
    }

    fn report(self, topic: &str) -> Report {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        for group in &mut groups {
            (group.first, group.last) = (or_dash(time(group.span.0)), or_dash(time(group.span.1)));
        }
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| b.span.1.cmp(&a.span.1)));
        Report {
            topic: topic.to_owned(),
            letters: groups.iter().map(|group| group.count).sum(),
            replayed: groups.iter().map(|group| group.replayed).sum(),
            groups,
            newest: self.newest.into_values().rev().collect(),
        }
    }
}

/// Reads all letters and prints the report.
pub async fn list(place: &DeadLetters, flags: &ListFlags, output: Output) -> Result<(), Failure> {
    let filter = flags.filter.check()?;
    let mut admin = Admin::connect(&place.connection).await.map_err(failed)?;
    let mut seen = Seen::default();
    if let Some(extent) = place.extent(&mut admin).await? {
        let memory = Memory::load(&mut admin, &place.group, &extent.info).await?;
        let (newest, waiting) = (flags.limit, flags.waiting);
        let each = move |seen: &mut Seen, letter: Letter| {
            let replayed = memory.has(letter.record.partition, letter.record.offset);
            if filter.takes(&letter) && !(waiting && replayed) {
                seen.add(&letter, replayed, newest);
            }
            Ok(true)
        };
        let (all, result) = place.read(&extent, &BTreeMap::new(), seen, each).await?;
        result?;
        seen = all;
    }
    let report = seen.report(&place.topic);
    match output {
        Output::Json => print_json(&report),
        Output::Table => print(&as_text(&report)),
    }
}

fn as_text(report: &Report) -> String {
    if report.letters == 0 {
        return format!("{}: no dead letters\n", report.topic);
    }
    let mut text = format!("{}: {} dead letters, {} replayed\n\n", report.topic, report.letters, report.replayed);
    let mut table = Table::new(&[">count", ">replayed", "topic", "stage", "last", "reason"]);
    for group in &report.groups {
        table.row([
            group.count.to_string(),
            group.replayed.to_string(),
            group.topic.clone(),
            group.stage.clone(),
            group.last.clone(),
            shortened(&group.reason, 100),
        ]);
    }
    text.push_str(&table.to_string());
    if !report.newest.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["letter", "time", "from", "replayed", ">bytes", "reason", "value"]);
        for one in &report.newest {
            table.row([
                one.letter.clone(),
                one.time.clone(),
                one.from.clone().unwrap_or_else(|| "-".to_owned()),
                if one.replayed { "yes" } else { "no" }.to_owned(),
                one.bytes.to_string(),
                shortened(&one.reason, 60),
                shortened(&one.value, 60),
            ]);
        }
        text.push_str(&table.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests_support::letter;
    use super::*;

    #[test]
    fn groups_and_newest_are_bounded() {
        let mut seen = Seen::default();
        for n in 0..20 {
            let mut one = letter(&[("dlq.reason", &format!("line of {n} bytes")), ("dlq.from", "logs-0")]);
            one.record.offset = n;
            one.time_ms = if n == 3 { 1_000 } else { n };
            seen.add(&one, n < 5, 2);
        }
        for n in 0..MAX_GROUPS + 5 {
            let name = char::from_u32(0x4e00 + u32::try_from(n).unwrap()).unwrap();
            seen.add(&letter(&[("dlq.reason", &format!("kind {name}"))]), false, 2);
        }
        assert!(seen.groups.len() <= MAX_GROUPS + 1);
        let report = seen.report("dlq");
        assert_eq!((report.letters, report.replayed), (20 + MAX_GROUPS as u64 + 5, 5));
        let first = &report.groups[0];
        assert_eq!((first.reason.as_str(), first.count, first.replayed), ("line of # bytes", 20, 5));
        assert_eq!(first.last, "1970-01-01T00:00:01.000Z");
        assert_eq!(report.newest.iter().map(|one| one.letter.as_str()).collect::<Vec<_>>(), ["0@3", "0@19"]);
        let text = as_text(&report);
        assert!(text.starts_with("dlq: 1025 dead letters, 5 replayed\n\nCOUNT  REPLAYED  TOPIC"), "{text}");
    }
}
