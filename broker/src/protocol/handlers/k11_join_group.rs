//! JoinGroup (key 11), versions 0 to 9. A member joins its group; the answer comes when all have joined.
//!
//! Behaviour: [`crate::group::state`]. Versions: 1 rebalance time-out, 4 a first join only gets an id (KIP-394), 5
//! static members (KIP-345), 6 flexible, 7 protocol type in the answer, 8 a reason (for people, only logged), 9 a
//! returning static leader may skip the assignment (KIP-814).

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use crate::group::GroupError;
use crate::group::classic::Join;
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::group_code;
use crate::protocol::wire::text;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: JoinGroupRequest) -> JoinGroupResponse {
    let nullable = |value: Option<String>| match value {
        Some(value) => Some(text(&value)),
        None if cx.version >= 7 => None,
        None => Some(text("")),
    };
    if let Err(code) = cx.allowed(Operation::Read, Resource::Group(&request.group_id.0)) {
        return JoinGroupResponse::default()
            .with_error_code(code.code())
            .with_generation_id(-1)
            .with_protocol_name(nullable(None))
            .with_member_id(request.member_id);
    }
    let group = request.group_id.0.to_string();
    if let Some(reason) = request.reason.as_ref().filter(|reason| !reason.is_empty()) {
        tracing::debug!(group, member = %request.member_id, %reason, "member joins");
    }
    let instance_id = request.group_instance_id.as_ref().map(ToString::to_string);
    let join = Join {
        member_id: request.member_id.to_string(),
        require_known_id: cx.version >= 4 && instance_id.is_none(),
        instance_id,
        client_id: cx.client_id.clone(),
        client_host: format!("/{}", cx.peer.from.ip()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if cx.version >= 1 { request.rebalance_timeout_ms } else { request.session_timeout_ms },
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.into_iter().map(|p| (p.name.to_string(), p.metadata)).collect(),
        can_skip_assignment: cx.version >= 9,
        fresh_id: String::new(),
    };
    match cx.core.groups.join(&group, join).await {
        Ok(joined) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                let member = JoinGroupResponseMember::default().with_member_id(text(&id)).with_metadata(metadata);
                if cx.version >= 5 { member.with_group_instance_id(instance.as_deref().map(text)) } else { member }
            });
            let answer = JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_name(nullable(joined.protocol))
                .with_leader(text(&joined.leader))
                .with_member_id(text(&joined.member_id))
                .with_skip_assignment(joined.skip_assignment)
                .with_members(members.collect());
            if cx.version >= 7 { answer.with_protocol_type(joined.protocol_type.as_deref().map(text)) } else { answer }
        }
        Err(error) => {
            let member_id = match &error {
                GroupError::MemberIdRequired(id) => text(id),
                _ => request.member_id,
            };
            JoinGroupResponse::default()
                .with_error_code(group_code(&error).code())
                .with_generation_id(-1)
                .with_protocol_name(nullable(None))
                .with_member_id(member_id)
        }
    }
}
