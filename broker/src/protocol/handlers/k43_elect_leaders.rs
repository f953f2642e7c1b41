//! ElectLeaders (key 43), versions 0 to 2. There is nobody to elect: ELECTION_NOT_NEEDED for what is there (KIP-460).
//! Versions: 1 kinds of election, 2 flexible.

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::wire::text;

/// Answers.
pub(crate) fn handle(cx: &Context, request: ElectLeadersRequest) -> ElectLeadersResponse {
    if let Err(code) = cx.allowed(Operation::Alter, Resource::Cluster) {
        let answer = ElectLeadersResponse::default();
        return if cx.version >= 1 { answer.with_error_code(code.code()) } else { answer };
    }
    // Without a list only partitions that took part are named: none.
    let topics = request.topic_partitions.unwrap_or_default().into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|number| {
            let code = match cx.partition(&topic.topic.0, *number) {
                Ok(_) => Code::ElectionNotNeeded,
                Err(code) => code,
            };
            PartitionResult::default()
                .with_partition_id(*number)
                .with_error_code(code.code())
                .with_error_message(Some(text(&code.to_string())))
        });
        let partitions = partitions.collect();
        ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(partitions)
    });
    ElectLeadersResponse::default().with_replica_election_results(topics.collect())
}
