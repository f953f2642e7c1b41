//! ConsumerGroupHeartbeat (key 68), versions 0 and 1. A member of a consumer group joins, lives and leaves (KIP-848).
//!
//! Behaviour: [`crate::group::consumer`]; a pattern only stands for topics that its member may describe. Versions: 1 topics by pattern, and member ids made by clients (KIP-1082).

use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use crate::group::Sight;
use crate::group::consumer::Beat;
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code};
use crate::protocol::wire::text;

/// Needs Read on the group and Describe on the topics that are named.
fn may(cx: &Context, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Code> {
    cx.allowed(Operation::Read, Resource::Group(&request.group_id.0))?;
    let mut topics = request.subscribed_topic_names.iter().flatten();
    topics.try_for_each(|name| cx.allowed(Operation::Describe, Resource::Topic(&name.0)))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
    if let Err(code) = may(cx, &request) {
        return ConsumerGroupHeartbeatResponse::default().with_error_code(code.code());
    }
    let owned = |list: Vec<kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions>| {
        list.into_iter().map(|t| (t.topic_id, t.partitions.into_iter().collect())).collect()
    };
    let string = |s: Option<kafka_protocol::protocol::StrBytes>| s.as_ref().map(ToString::to_string);
    let beat = Beat {
        member_id: request.member_id.to_string(),
        epoch: request.member_epoch,
        instance_id: string(request.instance_id),
        rack_id: string(request.rack_id),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|ms| *ms != -1),
        client_id: cx.client_id.clone(),
        client_host: format!("/{}", cx.peer.from.ip()),
        topics: request.subscribed_topic_names.map(|list| list.iter().map(|name| name.0.to_string()).collect()),
        regex: string(request.subscribed_topic_regex),
        assignor: string(request.server_assignor),
        owned: request.topic_partitions.map(owned),
        fresh_id: String::new(),
    };
    let sees = |name: &str| cx.sees(Operation::Describe, Resource::Topic(name));
    let sight = Sight { version: cx.core.access.version(), sees: &sees };
    match cx.core.groups.beat(&request.group_id.0, beat, cx.version >= 1, sight).await {
        Ok(beaten) => {
            let assignment = beaten.assigned.map(|assigned| {
                let topics = assigned.into_iter().map(|(topic, partitions)| {
                    TopicPartitions::default().with_topic_id(topic).with_partitions(partitions.into_iter().collect())
                });
                Assignment::default().with_topic_partitions(topics.collect())
            });
            ConsumerGroupHeartbeatResponse::default()
                .with_member_id(Some(text(&beaten.member_id)))
                .with_member_epoch(beaten.epoch)
                .with_heartbeat_interval_ms(beaten.heartbeat_ms)
                .with_assignment(assignment)
        }
        Err(error) => ConsumerGroupHeartbeatResponse::default()
            .with_error_code(group_code(&error).code())
            .with_error_message(Some(text(&error.to_string()))),
    }
}
