//! LeaveGroup (key 13), versions 0 to 5. Members go; their partitions are shared out again.
//!
//! Behaviour: [`crate::group::classic`]. Versions: 3 many members, also by static id (KIP-345), 4 flexible, 5 a reason.

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{group_code, group_number};

/// Answers.
pub(crate) fn handle(cx: &Context, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let group = &request.group_id.0;
    if let Err(code) = cx.allowed(Operation::Read, Resource::Group(group)) {
        return LeaveGroupResponse::default().with_error_code(code.code());
    }
    if cx.version < 3 {
        let left = cx.core.groups.leave(group, &[(request.member_id.to_string(), None)]);
        let code = match &left {
            Ok(answers) => answers.first().map_or(0, group_number),
            Err(error) => group_code(error).code(),
        };
        return LeaveGroupResponse::default().with_error_code(code);
    }
    let members: Vec<_> = request
        .members
        .iter()
        .map(|m| (m.member_id.to_string(), m.group_instance_id.as_ref().map(ToString::to_string)))
        .collect();
    match cx.core.groups.leave(group, &members) {
        Ok(answers) => {
            let members = request.members.into_iter().zip(answers).map(|(member, answer)| {
                MemberResponse::default()
                    .with_member_id(member.member_id)
                    .with_group_instance_id(member.group_instance_id)
                    .with_error_code(group_number(&answer))
            });
            LeaveGroupResponse::default().with_members(members.collect())
        }
        Err(error) => LeaveGroupResponse::default().with_error_code(group_code(&error).code()),
    }
}
