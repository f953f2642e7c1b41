//! DescribeQuorum (key 55), versions 0 to 2. The quorum of controllers (KIP-595): this node alone.
//!
//! Behaviour: needs Describe on the cluster. Only partition 0 of `__cluster_metadata` is known; there is no such log, so its
//! offsets are 0 and its times -1. Versions: 1 times of the voters, 2 their directories and endpoints (KIP-853).

use kafka_protocol::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::wire::text;

const METADATA_TOPIC: &str = "__cluster_metadata";

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let mut answer = DescribeQuorumResponse::default();
    if cx.version >= 2 {
        answer = answer.with_error_message(None);
    }
    if let Err(code) = cx.allowed(Operation::Describe, Resource::Cluster) {
        let answer = answer.with_error_code(code.code());
        return if cx.version >= 2 { answer.with_error_message(Some(text(say(code)))) } else { answer };
    }
    let mut is_found = false;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = PartitionData::default().with_partition_index(asked.partition_index);
            if &*topic.topic_name.0 != METADATA_TOPIC || asked.partition_index != 0 {
                let answer = answer.with_error_code(Code::UnknownTopicOrPartition.code());
                return if cx.version >= 2 { answer.with_error_message(None) } else { answer };
            }
            is_found = true;
            let mut voter = ReplicaState::default().with_replica_id(NODE).with_log_end_offset(0);
            if cx.version >= 1 {
                voter = voter.with_last_fetch_timestamp(-1).with_last_caught_up_timestamp(-1);
            }
            let answer = answer.with_leader_id(NODE).with_leader_epoch(1).with_current_voters(vec![voter]);
            if cx.version >= 2 { answer.with_error_message(None) } else { answer }
        });
        let partitions = partitions.collect();
        TopicData::default().with_topic_name(topic.topic_name).with_partitions(partitions)
    });
    answer = answer.with_topics(topics.collect());
    if cx.version >= 2 && is_found {
        let (host, port) = cx.advertised();
        let listener = Listener::default()
            .with_name(text(cx.listener.protocol()))
            .with_host(text(&host))
            .with_port(u16::try_from(port).unwrap_or(0));
        answer = answer.with_nodes(vec![Node::default().with_node_id(NODE).with_listeners(vec![listener])]);
    }
    answer
}
