//! SyncGroup (key 14), versions 0 to 5. The leader brings all assignments, every member takes its own.
//!
//! Behaviour: [`crate::group::state`]. Versions: 3 static members, 4 flexible, 5 protocol type and name, which are held
//! against those of the group.

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use crate::group::classic::Sync;
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::group_code;
use crate::protocol::wire::text;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: SyncGroupRequest) -> SyncGroupResponse {
    if let Err(code) = cx.allowed(Operation::Read, Resource::Group(&request.group_id.0)) {
        return SyncGroupResponse::default().with_error_code(code.code());
    }
    let sync = Sync {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
        generation: request.generation_id,
        protocol_type: request.protocol_type.as_ref().map(ToString::to_string),
        protocol: request.protocol_name.as_ref().map(ToString::to_string),
        assignments: request.assignments.into_iter().map(|a| (a.member_id.to_string(), a.assignment)).collect(),
    };
    match cx.core.groups.sync(&request.group_id.0, sync).await {
        Ok(synced) => {
            let answer = SyncGroupResponse::default().with_assignment(synced.assignment);
            if cx.version < 5 {
                return answer;
            }
            answer
                .with_protocol_type(synced.protocol_type.as_deref().map(text))
                .with_protocol_name(synced.protocol.as_deref().map(text))
        }
        Err(error) => SyncGroupResponse::default().with_error_code(group_code(&error).code()),
    }
}
