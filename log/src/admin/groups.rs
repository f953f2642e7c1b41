//! Consumer groups of any Kafka: who is in them, how far they are; their offsets set and deleted.
//!
//! In: names of groups, offsets. Out: what the coordinators say. Touches the network through [`Admin`].

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerProtocolAssignment, DeleteGroupsRequest, DescribeGroupsRequest, GroupId,
    ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Decodable as _, StrBytes};

use super::error::AdminError;
use super::session::Admin;
use crate::native::offsets::{text, topic_name};
use crate::record::TopicPartition;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: String,
    /// `Stable`, `Empty`, `PreparingRebalance` …
    pub state: String,
    /// `classic`, `consumer`, `share` …
    pub kind: String,
    /// `consumer` for those that read topics.
    pub protocol: String,
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub member_id: String,
    /// Its id of static membership.
    pub instance_id: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it is.
    pub host: String,
    /// What it reads.
    pub assigned: Vec<TopicPartition>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// `Stable`, `Empty`, …
    pub state: String,
    /// `classic` or `consumer`.
    pub kind: String,
    /// How partitions are shared out.
    pub assignor: String,
    /// Node id of its coordinator.
    pub coordinator: i32,
    /// Sorted by client and id.
    pub members: Vec<Member>,
}

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next record to read.
    pub offset: i64,
    /// What the consumer wrote beside it.
    pub metadata: String,
}

impl Admin {
    /// All groups of all coordinators, sorted by name.
    pub async fn groups(&mut self) -> Result<Vec<GroupListing>, AdminError> {
        // Learns of all nodes.
        self.metadata(Some(&[])).await?;
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        let mut all = Vec::new();
        for node in nodes {
            let answer = self.ask_node(node, &ListGroupsRequest::default(), 5).await?;
            self.accept(|| format!("groups of node {node}"), answer.error_code, None)?;
            all.extend(answer.groups.into_iter().map(|g| GroupListing {
                group: g.group_id.to_string(),
                state: g.group_state.to_string(),
                kind: if g.group_type.is_empty() { "classic".to_owned() } else { g.group_type.to_lowercase() },
                protocol: g.protocol_type.to_string(),
            }));
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(all)
    }

    /// One group with its members.
    pub async fn group(&mut self, group: &str) -> Result<GroupDescription, AdminError> {
        let node = self.coordinator(group).await?;
        // Groups of the new protocol (KIP-848) are told by the new question only; an old broker knows neither.
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text(group))]);
        match self.ask_node(node, &request, 1).await {
            Ok(answer) => {
                if let Some(of) = answer.groups.into_iter().next()
                    && of.error_code == 0
                {
                    let assigned = |member: &kafka_protocol::messages::consumer_group_describe_response::Member| {
                        let topics = member.assignment.topic_partitions.iter();
                        topics
                            .flat_map(|t| t.partitions.iter().map(|p| TopicPartition::new(t.topic_name.as_str(), *p)))
                            .collect()
                    };
                    let members = of.members.iter().map(|m| Member {
                        member_id: m.member_id.to_string(),
                        instance_id: m.instance_id.as_ref().map(ToString::to_string),
                        client_id: m.client_id.to_string(),
                        host: host(&m.client_host),
                        assigned: assigned(m),
                    });
                    return Ok(GroupDescription {
                        group: group.to_owned(),
                        state: of.group_state.to_string(),
                        kind: "consumer".to_owned(),
                        assignor: of.assignor_name.to_string(),
                        coordinator: node,
                        members: sorted(members.collect()),
                    });
                }
            }
            Err(AdminError::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let answer = self.ask_node(node, &request, 5).await?;
        let what = || format!("group `{group}`");
        let of = answer.groups.into_iter().next().ok_or_else(|| self.refused(what(), 69, None))?;
        self.accept(what, of.error_code, None)?;
        if of.group_state.as_str() == "Dead" {
            return Err(self.refused(what(), 69, None));
        }
        let is_consumer = of.protocol_type.as_str() == "consumer";
        let members = of.members.iter().map(|m| Member {
            member_id: m.member_id.to_string(),
            instance_id: m.group_instance_id.as_ref().map(ToString::to_string),
            client_id: m.client_id.to_string(),
            host: host(&m.client_host),
            assigned: if is_consumer { assignment(&m.member_assignment) } else { Vec::new() },
        });
        Ok(GroupDescription {
            group: group.to_owned(),
            state: of.group_state.to_string(),
            kind: "classic".to_owned(),
            assignor: of.protocol_data.to_string(),
            coordinator: node,
            members: sorted(members.collect()),
        })
    }

    /// Everything that a group committed.
    pub async fn committed(&mut self, group: &str) -> Result<BTreeMap<TopicPartition, Committed>, AdminError> {
        let node = self.coordinator(group).await?;
        // From version 8 on by group; 10 would ask by topic id.
        let request = |version: i16| match version {
            ..=7 => OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(None),
            _ => {
                let of = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group)));
                let of = if version >= 9 { of.with_member_epoch(-1) } else { of };
                OffsetFetchRequest::default().with_groups(vec![of.with_topics(None)])
            }
        };
        let answer = self.ask_node_as(node, &request, 9).await?;
        let what = || format!("offsets of group `{group}`");
        let mut found = BTreeMap::new();
        let mut keep = |topic: &str, number: i32, offset: i64, metadata: Option<&StrBytes>| {
            if offset >= 0 {
                let metadata = metadata.map(ToString::to_string).unwrap_or_default();
                found.insert(TopicPartition::new(topic, number), Committed { offset, metadata });
            }
        };
        for of in &answer.groups {
            self.accept(what, of.error_code, None)?;
            for topic in &of.topics {
                for p in &topic.partitions {
                    self.accept(what, p.error_code, None)?;
                    keep(topic.name.as_str(), p.partition_index, p.committed_offset, p.metadata.as_ref());
                }
            }
        }
        self.accept(what, answer.error_code, None)?;
        for topic in &answer.topics {
            for p in &topic.partitions {
                self.accept(what, p.error_code, None)?;
                keep(topic.name.as_str(), p.partition_index, p.committed_offset, p.metadata.as_ref());
            }
        }
        Ok(found)
    }

    /// Sets offsets of a group without members.
    pub async fn commit(&mut self, group: &str, offsets: &BTreeMap<TopicPartition, i64>) -> Result<(), AdminError> {
        let plain = |(tp, offset): (&TopicPartition, &i64)| {
            (tp.clone(), Committed { offset: *offset, metadata: String::new() })
        };
        self.commit_with(group, &offsets.iter().map(plain).collect()).await
    }

    /// The same with metadata, 4096 bytes for each partition at most unless the cluster allows more.
    pub async fn commit_with(
        &mut self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, Committed>,
    ) -> Result<(), AdminError> {
        let node = self.coordinator(group).await?;
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (tp, at) in offsets {
            let of = OffsetCommitRequestPartition::default()
                .with_partition_index(tp.partition)
                .with_committed_offset(at.offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text(&at.metadata)));
            topics.entry(&tp.topic).or_default().push(of);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(-1)
            .with_retention_time_ms(-1)
            .with_topics(topics.collect());
        let answer = self.ask_node(node, &request, 9).await?;
        for topic in &answer.topics {
            for p in &topic.partitions {
                let what = || format!("group `{group}`, {}-{}", topic.name.as_str(), p.partition_index);
                self.accept(what, p.error_code, None)?;
            }
        }
        Ok(())
    }

    /// Deletes a group without members.
    pub async fn delete_group(&mut self, group: &str) -> Result<(), AdminError> {
        let node = self.coordinator(group).await?;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
        let answer = self.ask_node(node, &request, 2).await?;
        for gone in &answer.results {
            self.accept(|| format!("group `{group}`"), gone.error_code, None)?;
        }
        Ok(())
    }

    /// Deletes what a group committed for a topic.
    pub async fn delete_offsets(&mut self, group: &str, topic: &str, partitions: &[i32]) -> Result<(), AdminError> {
        let node = self.coordinator(group).await?;
        let of = partitions.iter().map(|p| OffsetDeleteRequestPartition::default().with_partition_index(*p));
        let topics =
            vec![OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(of.collect())];
        let request = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics);
        let answer = self.ask_node(node, &request, 0).await?;
        self.accept(|| format!("group `{group}`"), answer.error_code, None)?;
        for p in answer.topics.iter().flat_map(|t| &t.partitions) {
            self.accept(|| format!("group `{group}`, {topic}-{}", p.partition_index), p.error_code, None)?;
        }
        Ok(())
    }
}

fn host(written: &StrBytes) -> String {
    written.trim_start_matches('/').to_owned()
}

fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| (&a.client_id, &a.member_id).cmp(&(&b.client_id, &b.member_id)));
    members
}

/// Partitions of a member of the classic protocol; none if it writes something else.
fn assignment(bytes: &Bytes) -> Vec<TopicPartition> {
    let mut bytes = bytes.clone();
    if bytes.remaining() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16().clamp(0, 3);
    match ConsumerProtocolAssignment::decode(&mut bytes, version) {
        Ok(assignment) => assignment
            .assigned_partitions
            .iter()
            .flat_map(|t| t.partitions.iter().map(|p| TopicPartition::new(t.topic.as_str(), *p)))
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "assignment of a member can't be read");
            Vec::new()
        }
    }
}
