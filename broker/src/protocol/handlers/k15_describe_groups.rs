//! DescribeGroups (key 15), versions 0 to 6. State, members and assignments of groups.
//!
//! Behaviour: a group that does not exist, or is none of the classic protocol, is `Dead`, from version 6 on with
//! GROUP_ID_NOT_FOUND (KIP-1043). Metadata and
//! assignments come while the group is stable. Versions: 3 allowed operations, 4 static members, 5 flexible.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::group_code;
use crate::protocol::wire::{once, text};

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let with_operations = cx.version >= 3 && request.include_authorized_operations;
    let groups = once(request.groups, GroupId::clone).into_iter().map(|id| {
        let mut answer = DescribedGroup::default();
        if let Err(code) = cx.allowed(Operation::Describe, Resource::Group(&id.0)) {
            return answer.with_error_code(code.code()).with_group_id(id);
        }
        if with_operations {
            answer = answer.with_authorized_operations(cx.operations(Resource::Group(&id.0)));
        }
        let found = match cx.core.groups.describe(&id.0) {
            Ok(found) => found,
            Err(error) => {
                if cx.version >= 6 {
                    let message = Some(text(&error.to_string()));
                    answer = answer.with_error_code(group_code(&error).code()).with_error_message(message);
                }
                return answer.with_group_id(id).with_group_state(text("Dead"));
            }
        };
        let members = found.members.into_iter().map(|m| {
            let member = DescribedGroupMember::default()
                .with_member_id(text(&m.id))
                .with_client_id(text(&m.client_id))
                .with_client_host(text(&m.client_host))
                .with_member_metadata(m.subscription)
                .with_member_assignment(m.assignment);
            if cx.version >= 4 { member.with_group_instance_id(m.instance_id.as_deref().map(text)) } else { member }
        });
        answer
            .with_group_id(id)
            .with_group_state(text(found.state))
            .with_protocol_type(text(&found.protocol_type))
            .with_protocol_data(text(&found.protocol))
            .with_members(members.collect())
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}
