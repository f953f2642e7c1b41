//! DeleteGroups (key 42), versions 0 to 2. Removes groups without members, with their offsets (KIP-229). Versions: 2
//! flexible.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::group_number;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let code = match cx.allowed(Operation::Delete, Resource::Group(&group.0)) {
            Ok(()) => group_number(&cx.core.groups.delete(&group.0).await),
            Err(code) => code.code(),
        };
        results.push(DeletableGroupResult::default().with_group_id(group).with_error_code(code));
    }
    DeleteGroupsResponse::default().with_results(results)
}
