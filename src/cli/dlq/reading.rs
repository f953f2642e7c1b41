//! Which dead letters are meant, and reading them from first to last.
//!
//! In: the topic, filters, a range of time. Out: one [`Letter`] after the other. Touches the network. The topic is read
//! up to the end that it had at the start: letters that a replay makes anew don't come round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use millrace_doors::access::config::AuditConfig;
use millrace_log::admin::{Admin, OffsetAt, TopicInfo};
use millrace_log::client::reader::{Met, TopicReader};
use millrace_log::client::{ClientError, ConnectionConfig};

use super::letter::Letter;
use crate::cli::cluster::failed;
use crate::cli::serve::Signals;
use crate::cli::time::time_ms;
use crate::exit::{Code, Failure};

const POLL: Duration = Duration::from_millis(200);
/// A cluster that gives nothing for so long, although there is more to read, does not answer.
const SILENCE: Duration = Duration::from_secs(60);

/// The topic and the group that go with it.
#[derive(Debug)]
pub struct DeadLetters {
    /// How to reach the cluster.
    pub connection: ConnectionConfig,
    /// Name of the topic.
    pub topic: String,
    /// The group that remembers replays.
    pub group: String,
    /// Where replays are noted.
    pub audit: AuditConfig,
}

/// Which letters.
#[derive(Debug, Clone, Args)]
pub struct FilterFlags {
    /// Only letters that came from this topic, or were meant for it
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topic: Option<String>,
    /// Only letters whose reason contains this text, ignoring case
    #[arg(short, long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only letters refused by this stage: agent, decode, index, route, export-elasticsearch
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only letters refused since this time (RFC 3339, or 2h for 2 hours ago)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only letters refused before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// The same, checked.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    topic: Option<String>,
    reason: Option<String>,
    stage: Option<String>,
    since_ms: Option<i64>,
    until_ms: Option<i64>,
}

impl FilterFlags {
    pub fn check(&self) -> Result<Filter, Failure> {
        let time = |text: &Option<String>| text.as_deref().map(time_ms).transpose();
        let (since_ms, until_ms) = (time(&self.since)?, time(&self.until)?);
        if let (Some(since), Some(until)) = (since_ms, until_ms)
            && since >= until
        {
            return Err(Failure::text(Code::Usage, "--since is not before --until"));
        }
        Ok(Filter {
            topic: self.topic.clone(),
            reason: self.reason.as_ref().map(|text| text.to_lowercase()),
            stage: self.stage.clone(),
            since_ms,
            until_ms,
        })
    }
}

impl Filter {
    /// Whether a letter is meant.
    pub fn takes(&self, letter: &Letter) -> bool {
        self.topic.as_deref().is_none_or(|topic| letter.topic() == topic)
            && self.stage.as_deref().is_none_or(|stage| letter.stage == stage)
            && self.reason.as_deref().is_none_or(|reason| letter.reason.to_lowercase().contains(reason))
            && self.since_ms.is_none_or(|since| letter.time_ms >= since)
            && self.until_ms.is_none_or(|until| letter.time_ms < until)
    }
}

/// The topic as it is now.
#[derive(Debug)]
pub struct Extent {
    /// Its name, id and partitions.
    pub info: TopicInfo,
    /// First offset of each partition.
    pub starts: BTreeMap<i32, i64>,
    /// One past the last one.
    pub ends: BTreeMap<i32, i64>,
}

impl DeadLetters {
    /// Asks the cluster; an absent topic means that there are no letters.
    pub async fn extent(&self, admin: &mut Admin) -> Result<Option<Extent>, Failure> {
        // Asking for a topic by name may make it on some clusters: look through the list.
        let topics = admin.topics().await.map_err(failed)?;
        let Some(info) = topics.into_iter().find(|topic| topic.name == self.topic) else { return Ok(None) };
        let of = |found: BTreeMap<millrace_log::record::TopicPartition, i64>| {
            found.into_iter().map(|(tp, offset)| (tp.partition, offset)).collect::<BTreeMap<i32, i64>>()
        };
        let starts = of(admin.offsets(std::slice::from_ref(&info), OffsetAt::Start).await.map_err(failed)?);
        let ends = of(admin.offsets(std::slice::from_ref(&info), OffsetAt::StableEnd).await.map_err(failed)?);
        Ok(Some(Extent { info, starts, ends }))
    }

    /// Reads from `from` (else the first letter) to the end on a thread of its own. `each` says whether to go on; what it
    /// made of `state` comes back also when the reading failed or was ended by a signal.
    pub async fn read<S: Send + 'static>(
        &self,
        extent: &Extent,
        from: &BTreeMap<i32, i64>,
        mut state: S,
        each: impl Fn(&mut S, Letter) -> Result<bool, Failure> + Send + 'static,
    ) -> Result<(S, Result<(), Failure>), Failure> {
        let starts: Vec<(i32, i64)> = extent
            .ends
            .iter()
            .map(|(partition, end)| {
                let low = extent.starts.get(partition).copied().unwrap_or(0);
                (*partition, from.get(partition).copied().unwrap_or(low).clamp(low.min(*end), *end))
            })
            .filter(|(partition, start)| extent.ends.get(partition).is_some_and(|end| start < end))
            .collect();
        if starts.is_empty() {
            return Ok((state, Ok(())));
        }
        let mut signals = Signals::listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let (connection, topic, ends) = (self.connection.clone(), self.topic.clone(), extent.ends.clone());
        let mut reading = tokio::task::spawn_blocking(move || {
            let result = read(&connection, &topic, &starts, &ends, &flag, &mut |letter| each(&mut state, letter));
            (state, result)
        });
        tokio::select! {
            ended = &mut reading => return Ok(ended?),
            () = signals.next() => stop.store(true, Ordering::Release),
        }
        tokio::select! {
            ended = &mut reading => {
                let (state, result) = ended?;
                Ok((state, result.and_then(|()| Err(interrupted()))))
            }
            () = signals.next() => Err(interrupted()),
        }
    }
}

fn interrupted() -> Failure {
    Failure::text(Code::Interrupted, "ended by a signal before all letters were read")
}

/// Blocks until the ends are reached, `each` has enough, or `stop` is set.
fn read(
    connection: &ConnectionConfig,
    topic: &str,
    starts: &[(i32, i64)],
    ends: &BTreeMap<i32, i64>,
    stop: &AtomicBool,
    each: &mut dyn FnMut(Letter) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let unavailable = |error| Failure::new(Code::Unavailable, error);
    let reader = TopicReader::new(connection, topic, None, true, true).map_err(unavailable)?;
    reader.assign(starts).map_err(unavailable)?;
    let mut open: BTreeSet<i32> = starts.iter().map(|(partition, _)| *partition).collect();
    let mut last_sign = std::time::Instant::now();
    while !open.is_empty() && !stop.load(Ordering::Acquire) {
        let met = match reader.next(POLL) {
            Err(ClientError::Unreadable { topic_partition, from, to, reason }) => {
                tracing::warn!(partition = %topic_partition, from, to, reason, "dead letters can't be read, they are left out");
                if ends.get(&topic_partition.partition).is_none_or(|end| to >= *end) {
                    open.remove(&topic_partition.partition);
                }
                last_sign = std::time::Instant::now();
                continue;
            }
            met => met.map_err(unavailable)?,
        };
        match met {
            Met::Nothing => {
                if last_sign.elapsed() > SILENCE {
                    let text = format!(
                        "topic `{topic}`: {} returned no records for {} seconds",
                        connection.brokers.join(","),
                        SILENCE.as_secs()
                    );
                    return Err(Failure::text(Code::Unavailable, text));
                }
                continue;
            }
            Met::End(partition) => drop(open.remove(&partition)),
            Met::Record(record) => {
                let end = ends.get(&record.partition).copied().unwrap_or(0);
                if record.offset + 1 >= end {
                    open.remove(&record.partition);
                }
                if record.offset < end && !each(Letter::read(record))? {
                    return Ok(());
                }
            }
        }
        last_sign = std::time::Instant::now();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests_support::letter;
    use super::*;

    #[test]
    fn filters_take_what_is_meant() {
        let one = letter(&[
            ("dlq.reason", "Record Too Large"),
            ("dlq.stage", "agent"),
            ("dlq.time", "2026-02-03T04:05:06Z"),
            ("dlq.from", "logs-0"),
        ]);
        let flags = FilterFlags { topic: None, reason: None, stage: None, since: None, until: None };
        let text = |text: &str| Some(text.to_owned());
        for (flags, want) in [
            (flags.clone(), true),
            (FilterFlags { topic: text("logs"), ..flags.clone() }, true),
            (FilterFlags { topic: text("log"), ..flags.clone() }, false),
            (FilterFlags { reason: text("too large"), ..flags.clone() }, true),
            (FilterFlags { reason: text("too small"), ..flags.clone() }, false),
            (FilterFlags { stage: text("agent"), ..flags.clone() }, true),
            (FilterFlags { stage: text("index"), ..flags.clone() }, false),
            (FilterFlags { since: text("2026-02-03T04:05:06Z"), ..flags.clone() }, true),
            (FilterFlags { since: text("2026-02-03T04:05:07Z"), ..flags.clone() }, false),
            (FilterFlags { until: text("2026-02-03T04:05:06Z"), ..flags.clone() }, false),
            (FilterFlags { until: text("2026-02-03T04:05:07Z"), ..flags.clone() }, true),
        ] {
            assert_eq!(flags.check().unwrap().takes(&one), want, "{flags:?}");
        }
        let none = FilterFlags { since: text("1h"), until: text("2h"), ..flags };
        assert_eq!(none.check().unwrap_err().kind(), Code::Usage);
    }
}
