//! Heartbeat (key 12), versions 0 to 4. A member's sign of life; the answer says when to join again.
//!
//! Behaviour: [`crate::group::classic`]. Versions: 3 static members, 4 flexible.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::group_number;

/// Answers.
pub(crate) fn handle(cx: &Context, request: &HeartbeatRequest) -> HeartbeatResponse {
    if let Err(code) = cx.allowed(Operation::Read, Resource::Group(&request.group_id.0)) {
        return HeartbeatResponse::default().with_error_code(code.code());
    }
    let instance = request.group_instance_id.as_deref();
    let result = cx.core.groups.heartbeat(&request.group_id.0, &request.member_id, instance, request.generation_id);
    HeartbeatResponse::default().with_error_code(group_number(&result))
}
