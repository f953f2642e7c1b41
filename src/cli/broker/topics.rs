//! `millrace broker topics`: list, describe, create, delete, alter, trim.

use std::collections::BTreeMap;

use clap::Subcommand;
use millrace_log::admin::{NewTopic, OffsetAt, TopicInfo, TopicSetting};
use millrace_log::record::TopicPartition;
use serde::Serialize;

use super::admin::Administration;
use crate::cli::cluster::{failed, pair};
use crate::cli::table::{Table, or_dash};
use crate::cli::terminal::{Output, confirm, print, print_json};
use crate::cli::time::time_ms;
use crate::exit::{Code, Failure};
use crate::human::{bytes, span_ms};

#[derive(Debug, Subcommand)]
pub enum TopicsVerb {
    /// List topics: partitions, records, size, policy, retention
    List {
        /// Include internal topics
        #[arg(long)]
        internal: bool,
    },
    /// Describe the partitions and settings of topics
    Describe {
        /// Topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// Include settings with default values
        #[arg(long)]
        all: bool,
    },
    /// Create a topic
    Create {
        /// Topic
        topic: String,
        /// Number of partitions [default: that of the cluster]
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Number of replicas [default: that of the cluster]
        #[arg(short, long, value_parser = clap::value_parser!(i16).range(1..))]
        replication: Option<i16>,
        /// Topic setting, e.g. retention.ms=86400000
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        /// Succeed if the topic exists
        #[arg(long)]
        if_missing: bool,
        /// Validate the request without creating the topic
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete topics and all their records
    Delete {
        /// Topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Change settings, add partitions
    Alter {
        /// Topic
        topic: String,
        /// Topic setting; an empty value resets it to the default
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        /// New number of partitions; it can only grow
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
    },
    /// Delete the oldest records of a topic
    Trim {
        /// Topic
        topic: String,
        /// Partitions [default: all]
        #[arg(short, long, value_delimiter = ',')]
        partitions: Vec<i32>,
        /// Delete records before this offset [default: all records]
        #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
        before: Option<i64>,
        /// Delete records older than this time (RFC 3339, ms since 1970, or 2h for 2 hours ago)
        #[arg(long, value_name = "TIME", conflicts_with = "before")]
        before_time: Option<String>,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
}

/// One line of the list.
#[derive(Debug, Serialize)]
struct ListedTopic {
    topic: String,
    partitions: usize,
    replication: usize,
    /// Offsets between start and end: with compaction or transactions there are fewer records.
    records: i64,
    size_bytes: Option<u64>,
    cleanup_policy: String,
    retention_ms: i64,
    retention_bytes: i64,
    internal: bool,
}

#[derive(Debug, Serialize)]
struct DescribedPartition {
    partition: i32,
    leader: i32,
    leader_address: Option<String>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    start: Option<i64>,
    end: Option<i64>,
    last_stable: Option<i64>,
    size_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct DescribedTopic {
    topic: String,
    id: String,
    internal: bool,
    settings: BTreeMap<String, String>,
    partitions: Vec<DescribedPartition>,
}

#[derive(Debug, Serialize)]
struct Trimmed {
    topic: String,
    partition: i32,
    deleted: i64,
    start: i64,
}

const LISTED: [&str; 3] = ["cleanup.policy", "retention.ms", "retention.bytes"];

impl Administration {
    pub(super) async fn topics(&mut self, verb: TopicsVerb) -> Result<(), Failure> {
        match verb {
            TopicsVerb::List { internal } => self.list_topics(internal).await,
            TopicsVerb::Describe { topics, all } => self.describe_topics(&topics, all).await,
            TopicsVerb::Create { topic, partitions, replication, settings, if_missing, dry_run } => {
                let new = NewTopic {
                    name: topic,
                    partitions: partitions.unwrap_or(-1),
                    replication: replication.unwrap_or(-1),
                    settings,
                };
                self.create_topic(&new, if_missing, dry_run).await
            }
            TopicsVerb::Delete { topics, yes } => self.delete_topics(&topics, yes).await,
            TopicsVerb::Alter { topic, settings, partitions } => self.alter_topic(&topic, settings, partitions).await,
            TopicsVerb::Trim { topic, partitions, before, before_time, yes } => {
                self.trim_topic(&topic, &partitions, before, before_time.as_deref(), yes).await
            }
        }
    }

    async fn list_topics(&mut self, internal: bool) -> Result<(), Failure> {
        let mut topics = self.admin.topics().await.map_err(failed)?;
        topics.retain(|topic| internal || !topic.internal);
        let starts = self.admin.offsets(&topics, OffsetAt::Start).await.map_err(failed)?;
        let ends = self.admin.offsets(&topics, OffsetAt::End).await.map_err(failed)?;
        let sizes = self.admin.sizes(&topics).await.map_err(failed)?;
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let settings = if names.is_empty() {
            BTreeMap::new()
        } else {
            self.admin.settings(&names, Some(&LISTED)).await.map_err(failed)?
        };
        let rows: Vec<ListedTopic> =
            topics.iter().map(|topic| listed(topic, &starts, &ends, &sizes, settings.get(&topic.name))).collect();
        if self.output == Output::Json {
            return print_json(&rows);
        }
        let mut table = Table::new(&["topic", ">partitions", ">records", ">size", "policy", "retention"]);
        for row in rows {
            let mut retention = span_ms(row.retention_ms);
            if let Ok(limit) = u64::try_from(row.retention_bytes) {
                retention.push_str(&format!(", {} per partition", bytes(limit)));
            }
            table.row([
                row.topic,
                row.partitions.to_string(),
                row.records.to_string(),
                or_dash(row.size_bytes.map(bytes)),
                row.cleanup_policy,
                retention,
            ]);
        }
        print(&table.to_string())
    }

    async fn describe_topics(&mut self, names: &[String], all: bool) -> Result<(), Failure> {
        let mut topics = Vec::with_capacity(names.len());
        for name in names {
            topics.push(self.admin.topic(name).await.map_err(failed)?);
        }
        let starts = self.admin.offsets(&topics, OffsetAt::Start).await.map_err(failed)?;
        let ends = self.admin.offsets(&topics, OffsetAt::End).await.map_err(failed)?;
        let stable = self.admin.offsets(&topics, OffsetAt::StableEnd).await.map_err(failed)?;
        let sizes = self.admin.sizes(&topics).await.map_err(failed)?;
        let named: Vec<&str> = names.iter().map(String::as_str).collect();
        let settings = self.admin.settings(&named, None).await.map_err(failed)?;
        let described: Vec<DescribedTopic> = topics
            .into_iter()
            .map(|topic| {
                let of = settings.get(&topic.name).map(Vec::as_slice).unwrap_or_default();
                let shown = of.iter().filter(|setting| all || setting.is_set);
                let partitions = topic.partitions.into_iter().map(|p| {
                    let tp = TopicPartition::new(topic.name.as_str(), p.partition);
                    DescribedPartition {
                        partition: p.partition,
                        leader: p.leader,
                        leader_address: self.admin.address_of(p.leader).map(str::to_owned),
                        replicas: p.replicas,
                        in_sync: p.in_sync,
                        start: starts.get(&tp).copied(),
                        end: ends.get(&tp).copied(),
                        last_stable: stable.get(&tp).copied(),
                        size_bytes: sizes.get(&tp).copied(),
                    }
                });
                DescribedTopic {
                    partitions: partitions.collect(),
                    id: topic.id.to_string(),
                    internal: topic.internal,
                    settings: shown.map(|s| (s.name.clone(), s.value.clone())).collect(),
                    topic: topic.name,
                }
            })
            .collect();
        if self.output == Output::Json {
            return print_json(&described);
        }
        let mut text = String::new();
        for (i, topic) in described.into_iter().enumerate() {
            if i > 0 {
                text.push('\n');
            }
            text.push_str(&format!("topic {}, id {}\n", topic.topic, topic.id));
            for (name, value) in &topic.settings {
                text.push_str(&format!("  {name} = {value}\n"));
            }
            let mut table =
                Table::new(&[">partition", "leader", "replicas", ">start", ">end", ">last stable", ">size"]);
            for p in topic.partitions {
                let leader = match p.leader_address {
                    Some(address) => format!("{} ({address})", p.leader),
                    None => "none".to_owned(),
                };
                let numbers: Vec<String> = p.replicas.iter().map(ToString::to_string).collect();
                let mut replicas = numbers.join(",");
                if p.in_sync.len() < p.replicas.len() {
                    replicas.push_str(&format!(" ({} in sync)", p.in_sync.len()));
                }
                table.row([
                    p.partition.to_string(),
                    leader,
                    replicas,
                    or_dash(p.start),
                    or_dash(p.end),
                    or_dash(p.last_stable),
                    or_dash(p.size_bytes.map(bytes)),
                ]);
            }
            text.push_str(&table.to_string());
        }
        print(&text)
    }

    async fn create_topic(&mut self, new: &NewTopic, if_missing: bool, dry_run: bool) -> Result<(), Failure> {
        let (partitions, made) = match self.admin.create_topic(new, dry_run).await {
            Ok(partitions) => (partitions, true),
            Err(error) if if_missing && error.is_topic_there() => {
                let there = self.admin.topic(&new.name).await.map_err(failed)?;
                (i32::try_from(there.partitions.len()).unwrap_or(i32::MAX), false)
            }
            Err(error) => return Err(failed(error)),
        };
        if self.output == Output::Json {
            return print_json(&serde_json::json!({
                "topic": new.name, "partitions": partitions, "created": made && !dry_run, "dry_run": dry_run,
            }));
        }
        let verb = match (made, dry_run) {
            (false, _) => "already exists",
            (true, true) => "can be created",
            (true, false) => "created",
        };
        print(&format!("topic {} {verb}, {partitions} partitions\n", new.name))
    }

    async fn delete_topics(&mut self, names: &[String], yes: bool) -> Result<(), Failure> {
        let mut lost = Vec::new();
        for name in names {
            let topic = self.admin.topic(name).await.map_err(failed)?;
            let records = self.records_in(&topic).await?;
            lost.push(format!("topic {name} with {records} records"));
        }
        confirm(&format!("{} will be deleted on {}", lost.join(", "), self.admin.brokers()), yes)?;
        for name in names {
            self.admin.delete_topic(name).await.map_err(failed)?;
        }
        if self.output == Output::Json {
            return print_json(&serde_json::json!({ "deleted": names }));
        }
        print(&names.iter().map(|name| format!("topic {name} deleted\n")).collect::<String>())
    }

    async fn alter_topic(
        &mut self,
        name: &str,
        settings: Vec<(String, String)>,
        partitions: Option<i32>,
    ) -> Result<(), Failure> {
        if settings.is_empty() && partitions.is_none() {
            return Err(Failure::text(Code::Usage, "nothing to change: give --set KEY=VALUE or --partitions N"));
        }
        let topic = self.admin.topic(name).await.map_err(failed)?;
        let now = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if let Some(wanted) = partitions.filter(|wanted| *wanted < now) {
            let text = format!(
                "topic `{name}` has {now} partitions and cannot be reduced to {wanted}: create a new topic and copy the records"
            );
            return Err(Failure::text(Code::Failed, text));
        }
        let (reset, set): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(_, value)| value.is_empty());
        let reset: Vec<String> = reset.into_iter().map(|(key, _)| key).collect();
        if !set.is_empty() || !reset.is_empty() {
            self.admin.alter_topic(name, &set, &reset).await.map_err(failed)?;
        }
        if let Some(wanted) = partitions.filter(|wanted| *wanted > now) {
            self.admin.grow_topic(name, wanted).await.map_err(failed)?;
        }
        if self.output == Output::Json {
            return print_json(&serde_json::json!({
                "topic": name,
                "set": set.iter().cloned().collect::<BTreeMap<_, _>>(),
                "reset": reset,
                "partitions": partitions.unwrap_or(now),
            }));
        }
        let mut text = String::new();
        for (key, value) in &set {
            text.push_str(&format!("topic {name}: {key} = {value}\n"));
        }
        for key in &reset {
            text.push_str(&format!("topic {name}: {key} reset to its default\n"));
        }
        match partitions {
            Some(wanted) if wanted > now => {
                text.push_str(&format!("topic {name}: partitions increased from {now} to {wanted}\n"))
            }
            Some(_) => text.push_str(&format!("topic {name}: {now} partitions, unchanged\n")),
            None => {}
        }
        print(&text)
    }

    async fn trim_topic(
        &mut self,
        name: &str,
        only: &[i32],
        before: Option<i64>,
        before_time: Option<&str>,
        yes: bool,
    ) -> Result<(), Failure> {
        let mut topic = self.admin.topic(name).await.map_err(failed)?;
        if let Some(missing) = only.iter().find(|number| topic.partitions.iter().all(|p| p.partition != **number)) {
            return Err(Failure::text(Code::Failed, format!("topic `{name}` has no partition {missing}")));
        }
        topic.partitions.retain(|p| only.is_empty() || only.contains(&p.partition));
        let here = std::slice::from_ref(&topic);
        let starts = self.admin.offsets(here, OffsetAt::Start).await.map_err(failed)?;
        let ends = self.admin.offsets(here, OffsetAt::End).await.map_err(failed)?;
        let by_time = match before_time {
            Some(text) => {
                let ms = time_ms(text)?;
                Some(self.admin.offsets(here, OffsetAt::Time(ms)).await.map_err(failed)?)
            }
            None => None,
        };
        let mut wanted = BTreeMap::new();
        for (tp, end) in &ends {
            let start = starts.get(tp).copied().unwrap_or(0);
            let to = match (&by_time, before) {
                // No record of that time or later: all are older.
                (Some(found), _) => found.get(tp).copied().unwrap_or(*end),
                (None, Some(offset)) => offset.min(*end),
                (None, None) => *end,
            };
            if to > start {
                wanted.insert(tp.partition, to);
            }
        }
        let count: i64 =
            wanted.iter().map(|(number, to)| to - starts.get(&tp(name, *number)).copied().unwrap_or(0)).sum();
        let what = format!("{count} records of topic {name} will be deleted on {}", self.admin.brokers());
        if count > 0 {
            confirm(&what, yes)?;
        }
        let now = self.admin.trim(&topic, &wanted).await.map_err(failed)?;
        let rows: Vec<Trimmed> = now
            .into_iter()
            .map(|(partition, start)| Trimmed {
                topic: name.to_owned(),
                partition,
                deleted: start - starts.get(&tp(name, partition)).copied().unwrap_or(start),
                start,
            })
            .collect();
        if self.output == Output::Json {
            return print_json(&rows);
        }
        if rows.is_empty() {
            return print(&format!("topic {name}: nothing to trim\n"));
        }
        let mut table = Table::new(&["topic", ">partition", ">deleted", ">start"]);
        for row in rows {
            table.row([row.topic, row.partition.to_string(), row.deleted.to_string(), row.start.to_string()]);
        }
        print(&table.to_string())
    }

    async fn records_in(&mut self, topic: &TopicInfo) -> Result<i64, Failure> {
        let here = std::slice::from_ref(topic);
        let starts = self.admin.offsets(here, OffsetAt::Start).await.map_err(failed)?;
        let ends = self.admin.offsets(here, OffsetAt::End).await.map_err(failed)?;
        Ok(ends.iter().map(|(tp, end)| end - starts.get(tp).unwrap_or(end)).sum())
    }
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn listed(
    topic: &TopicInfo,
    starts: &BTreeMap<TopicPartition, i64>,
    ends: &BTreeMap<TopicPartition, i64>,
    sizes: &BTreeMap<TopicPartition, u64>,
    settings: Option<&Vec<TopicSetting>>,
) -> ListedTopic {
    let of: Vec<TopicPartition> = topic.partitions.iter().map(|p| tp(&topic.name, p.partition)).collect();
    let records = of.iter().filter_map(|p| Some(ends.get(p)? - starts.get(p)?)).sum();
    let known: Vec<u64> = of.iter().filter_map(|p| sizes.get(p).copied()).collect();
    let setting = |name: &str| {
        let found = settings.and_then(|all| all.iter().find(|setting| setting.name == name));
        found.map(|setting| setting.value.clone()).unwrap_or_default()
    };
    ListedTopic {
        topic: topic.name.clone(),
        partitions: of.len(),
        replication: topic.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0),
        records,
        size_bytes: (known.len() == of.len()).then(|| known.iter().sum()),
        cleanup_policy: setting("cleanup.policy"),
        retention_ms: setting("retention.ms").parse().unwrap_or(-1),
        retention_bytes: setting("retention.bytes").parse().unwrap_or(-1),
        internal: topic.internal,
    }
}
