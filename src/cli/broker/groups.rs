//! `millrace broker groups`: list, describe, reset, delete.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use millrace_log::admin::{Committed, GroupDescription, Member, OffsetAt, TopicInfo};
use millrace_log::record::TopicPartition;
use serde::Serialize;

use super::admin::Administration;
use crate::cli::cluster::failed;
use crate::cli::table::{Table, or_dash};
use crate::cli::terminal::{Output, confirm, print, print_json};
use crate::cli::time::time_ms;
use crate::exit::{Code, Failure};

#[derive(Debug, Subcommand)]
pub enum GroupsVerb {
    /// List groups: state, type, members, total lag
    List,
    /// Describe groups by partition: offset, end, lag, member
    Describe {
        /// Groups
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Set the offsets of a group without members; only prints the changes unless --execute is given
    Reset {
        /// Group; it is created if it does not exist
        group: String,
        /// Topics, or TOPIC:PARTITION[,PARTITION…] [default: all for which the group has offsets]
        #[arg(short, long = "topic", value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<String>,
        #[command(flatten)]
        to: ResetTo,
        /// Apply the changes
        #[arg(long)]
        execute: bool,
    },
    /// Delete groups without members
    Delete {
        /// Groups
        #[arg(required = true)]
        groups: Vec<String>,
        /// Delete only the offsets of this topic
        #[arg(short, long)]
        topic: Option<String>,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct ResetTo {
    /// To the first record
    #[arg(long)]
    to_earliest: bool,
    /// Past the last record
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or the nearest that exists
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record at or after this time (RFC 3339, ms since 1970, or 2h for 2 hours ago)
    #[arg(long, value_name = "TIME")]
    to_time: Option<String>,
    /// By this many records; negative values move back
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    shift: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ListedGroup {
    group: String,
    state: String,
    #[serde(rename = "type")]
    kind: String,
    members: usize,
    topics: usize,
    lag: i64,
}

#[derive(Debug, Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    offset: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    member_id: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
}

#[derive(Debug, Serialize)]
struct DescribedGroup {
    group: String,
    state: String,
    #[serde(rename = "type")]
    kind: String,
    assignor: String,
    coordinator: Option<String>,
    members: usize,
    lag: i64,
    partitions: Vec<Progress>,
}

#[derive(Debug, Serialize)]
struct Move {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
    start: i64,
    end: i64,
}

impl Administration {
    pub(super) async fn groups(&mut self, verb: GroupsVerb) -> Result<(), Failure> {
        match verb {
            GroupsVerb::List => self.list_groups().await,
            GroupsVerb::Describe { groups } => self.describe_groups(&groups).await,
            GroupsVerb::Reset { group, topics, to, execute } => self.reset_group(&group, &topics, &to, execute).await,
            GroupsVerb::Delete { groups, topic, yes } => self.delete_groups(&groups, topic.as_deref(), yes).await,
        }
    }

    async fn list_groups(&mut self) -> Result<(), Failure> {
        let listed = self.admin.groups().await.map_err(failed)?;
        let topics = self.admin.topics().await.map_err(failed)?;
        let mut offsets = BTreeMap::new();
        let mut read = BTreeSet::new();
        for group in listed.iter().filter(|group| group.kind != "share" && group.kind != "streams") {
            let committed = self.admin.committed(&group.group).await.map_err(failed)?;
            read.extend(committed.keys().map(|tp| tp.topic.to_string()));
            offsets.insert(group.group.clone(), committed);
        }
        let topics: Vec<TopicInfo> = topics.into_iter().filter(|topic| read.contains(&topic.name)).collect();
        let ends = self.admin.offsets(&topics, OffsetAt::End).await.map_err(failed)?;
        let mut rows = Vec::with_capacity(listed.len());
        for group in listed {
            let members = match group.state.as_str() {
                "Empty" | "Dead" => 0,
                _ => self.admin.group(&group.group).await.map_or(0, |described| described.members.len()),
            };
            let committed = offsets.remove(&group.group).unwrap_or_default();
            let of: BTreeSet<&str> = committed.keys().map(|tp| &*tp.topic).collect();
            let lag = |(tp, at): (&TopicPartition, &Committed)| Some((ends.get(tp)? - at.offset).max(0));
            rows.push(ListedGroup {
                state: group.state,
                kind: group.kind,
                members,
                topics: of.len(),
                lag: committed.iter().filter_map(lag).sum(),
                group: group.group,
            });
        }
        if self.output == Output::Json {
            return print_json(&rows);
        }
        let mut table = Table::new(&["group", "state", "type", ">members", ">topics", ">lag"]);
        for row in rows {
            table.row([
                row.group,
                row.state,
                row.kind,
                row.members.to_string(),
                row.topics.to_string(),
                row.lag.to_string(),
            ]);
        }
        print(&table.to_string())
    }

    async fn describe_groups(&mut self, names: &[String]) -> Result<(), Failure> {
        let mut described = Vec::with_capacity(names.len());
        for name in names {
            described.push(self.described_group(name).await?);
        }
        if self.output == Output::Json {
            return print_json(&described);
        }
        let mut text = String::new();
        for (i, group) in described.into_iter().enumerate() {
            if i > 0 {
                text.push('\n');
            }
            text.push_str(&format!(
                "group {}: {}, {}, {} member{}, lag {}{}{}\n",
                group.group,
                group.state,
                group.kind,
                group.members,
                if group.members == 1 { "" } else { "s" },
                group.lag,
                if group.assignor.is_empty() { String::new() } else { format!(", assignor {}", group.assignor) },
                group.coordinator.map(|at| format!(", coordinator {at}")).unwrap_or_default(),
            ));
            let mut table = Table::new(&["topic", ">partition", ">offset", ">end", ">lag", "client", "host", "member"]);
            for p in group.partitions {
                table.row([
                    p.topic,
                    p.partition.to_string(),
                    or_dash(p.offset),
                    or_dash(p.end),
                    or_dash(p.lag),
                    or_dash(p.client_id),
                    or_dash(p.host),
                    or_dash(p.member_id),
                ]);
            }
            text.push_str(&table.to_string());
        }
        print(&text)
    }

    async fn described_group(&mut self, name: &str) -> Result<DescribedGroup, Failure> {
        let GroupDescription { state, kind, assignor, coordinator, members, .. } =
            self.admin.group(name).await.map_err(failed)?;
        let committed = self.admin.committed(name).await.map_err(failed)?;
        let mut readers: BTreeMap<TopicPartition, &Member> = BTreeMap::new();
        for member in &members {
            readers.extend(member.assigned.iter().map(|tp| (tp.clone(), member)));
        }
        let all: BTreeSet<TopicPartition> = committed.keys().chain(readers.keys()).cloned().collect();
        let topics = self.known_topics(all.iter().map(|tp| &*tp.topic)).await?;
        let ends = self.admin.offsets(&topics, OffsetAt::End).await.map_err(failed)?;
        let mut partitions: Vec<Progress> = all
            .into_iter()
            .map(|tp| {
                let (offset, end, reader) =
                    (committed.get(&tp).map(|at| at.offset), ends.get(&tp).copied(), readers.get(&tp));
                Progress {
                    topic: tp.topic.to_string(),
                    partition: tp.partition,
                    offset,
                    end,
                    lag: offset.zip(end).map(|(offset, end)| (end - offset).max(0)),
                    member_id: reader.map(|m| m.member_id.clone()),
                    client_id: reader.map(|m| m.client_id.clone()),
                    host: reader.map(|m| m.host.clone()),
                }
            })
            .collect();
        // Members that have nothing to read are part of the picture.
        partitions.extend(members.iter().filter(|m| m.assigned.is_empty()).map(|m| Progress {
            topic: "-".to_owned(),
            partition: -1,
            offset: None,
            end: None,
            lag: None,
            member_id: Some(m.member_id.clone()),
            client_id: Some(m.client_id.clone()),
            host: Some(m.host.clone()),
        }));
        Ok(DescribedGroup {
            group: name.to_owned(),
            state,
            kind,
            assignor,
            coordinator: self.admin.address_of(coordinator).map(str::to_owned),
            members: members.len(),
            lag: partitions.iter().filter_map(|p| p.lag).sum(),
            partitions,
        })
    }

    async fn known_topics<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<Vec<TopicInfo>, Failure> {
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        let mut topics = self.admin.topics().await.map_err(failed)?;
        topics.retain(|topic| names.contains(&topic.name));
        Ok(topics)
    }

    async fn reset_group(
        &mut self,
        group: &str,
        wanted: &[String],
        to: &ResetTo,
        execute: bool,
    ) -> Result<(), Failure> {
        let committed = self.admin.committed(group).await.map_err(failed)?;
        let partitions = self.partitions_to_reset(group, wanted, &committed).await?;
        match self.admin.group(group).await {
            Ok(described) if !described.members.is_empty() => {
                let hosts: BTreeSet<&str> = described.members.iter().map(|m| m.host.as_str()).collect();
                let text = format!(
                    "group `{group}` has {} members ({}): stop its consumers first",
                    described.members.len(),
                    hosts.into_iter().collect::<Vec<_>>().join(", ")
                );
                return Err(Failure::text(Code::Failed, text));
            }
            // 69: the group does not exist yet.
            Err(error) if error.code() != Some(69) => return Err(failed(error)),
            _ => {}
        }
        let starts = self.admin.offsets(&partitions, OffsetAt::Start).await.map_err(failed)?;
        let ends = self.admin.offsets(&partitions, OffsetAt::End).await.map_err(failed)?;
        let by_time = match &to.to_time {
            Some(text) => {
                let ms = time_ms(text)?;
                Some(self.admin.offsets(&partitions, OffsetAt::Time(ms)).await.map_err(failed)?)
            }
            None => None,
        };
        let mut moves = Vec::new();
        for (tp, end) in &ends {
            let start = starts.get(tp).copied().unwrap_or(0);
            let from = committed.get(tp).map(|at| at.offset);
            let target = if to.to_earliest {
                start
            } else if to.to_latest {
                *end
            } else if let Some(found) = &by_time {
                found.get(tp).copied().unwrap_or(*end)
            } else if let Some(offset) = to.to_offset {
                offset
            } else {
                // Where nothing is committed there is nothing to shift.
                let Some(from) = from else { continue };
                from.saturating_add(to.shift.unwrap_or(0))
            };
            let (topic, partition) = (tp.topic.to_string(), tp.partition);
            moves.push(Move { topic, partition, from, to: target.clamp(start, *end), start, end: *end });
        }
        if execute && !moves.is_empty() {
            let offsets = moves.iter().map(|m| (TopicPartition::new(m.topic.as_str(), m.partition), m.to)).collect();
            self.admin.commit(group, &offsets).await.map_err(failed)?;
        }
        if self.output == Output::Json {
            return print_json(&serde_json::json!({ "group": group, "executed": execute, "partitions": moves }));
        }
        let mut table = Table::new(&["topic", ">partition", ">from", ">to", ">new lag"]);
        for m in &moves {
            table.row([
                m.topic.clone(),
                m.partition.to_string(),
                or_dash(m.from),
                m.to.to_string(),
                (m.end - m.to).to_string(),
            ]);
        }
        let end = if execute { "offsets committed" } else { "nothing was changed; add --execute to apply" };
        print(&format!("{table}group {group}: {end}\n"))
    }

    /// The topics, each with the partitions that are meant.
    async fn partitions_to_reset(
        &mut self,
        group: &str,
        wanted: &[String],
        committed: &BTreeMap<TopicPartition, Committed>,
    ) -> Result<Vec<TopicInfo>, Failure> {
        if wanted.is_empty() {
            let mut topics = self.known_topics(committed.keys().map(|tp| &*tp.topic)).await?;
            for topic in &mut topics {
                let name = topic.name.clone();
                topic.partitions.retain(|p| committed.contains_key(&TopicPartition::new(name.as_str(), p.partition)));
            }
            if topics.is_empty() {
                let text = format!("group `{group}` has no offsets: give the topics with --topic TOPIC");
                return Err(Failure::text(Code::Failed, text));
            }
            return Ok(topics);
        }
        let mut topics = Vec::with_capacity(wanted.len());
        for text in wanted {
            let (name, numbers) = match text.split_once(':') {
                None => (text.as_str(), None),
                Some((name, numbers)) => {
                    let parsed: Result<Vec<i32>, _> = numbers.split(',').map(|n| n.trim().parse()).collect();
                    let numbers = parsed.map_err(|_| {
                        Failure::text(Code::Usage, format!("--topic `{text}`: expected TOPIC:PARTITION[,PARTITION…]"))
                    })?;
                    (name, Some(numbers))
                }
            };
            let mut topic = self.admin.topic(name).await.map_err(failed)?;
            if let Some(numbers) = numbers {
                if let Some(missing) = numbers.iter().find(|n| topic.partitions.iter().all(|p| p.partition != **n)) {
                    return Err(Failure::text(Code::Failed, format!("topic `{name}` has no partition {missing}")));
                }
                topic.partitions.retain(|p| numbers.contains(&p.partition));
            }
            topics.push(topic);
        }
        Ok(topics)
    }

    async fn delete_groups(&mut self, groups: &[String], topic: Option<&str>, yes: bool) -> Result<(), Failure> {
        let what = match topic {
            Some(topic) => format!("offsets of topic {topic} of group {}", groups.join(", ")),
            None => format!("group {}", groups.join(", ")),
        };
        confirm(&format!("{what} will be deleted on {}", self.admin.brokers()), yes)?;
        for group in groups {
            match topic {
                None => self.admin.delete_group(group).await.map_err(failed)?,
                Some(topic) => {
                    let committed = self.admin.committed(group).await.map_err(failed)?;
                    let of: Vec<i32> =
                        committed.keys().filter(|tp| &*tp.topic == topic).map(|tp| tp.partition).collect();
                    if of.is_empty() {
                        let text = format!("group `{group}` has no offsets of topic `{topic}`");
                        return Err(Failure::text(Code::Failed, text));
                    }
                    self.admin.delete_offsets(group, topic, &of).await.map_err(failed)?;
                }
            }
        }
        if self.output == Output::Json {
            return print_json(&serde_json::json!({ "deleted": groups, "topic": topic }));
        }
        print(&format!("{what} deleted\n"))
    }
}
