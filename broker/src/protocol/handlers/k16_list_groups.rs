//! ListGroups (key 16), versions 0 to 5. All groups.
//!
//! Behaviour: filters go by name of state and type, whatever the case. Versions: 3 flexible, 4 states (KIP-518), 5
//! types (KIP-848): `classic` and `consumer`.

use std::collections::HashSet;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::group::Listed;
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::wire::text;

/// Answers.
pub(crate) fn handle(cx: &Context, request: &ListGroupsRequest) -> ListGroupsResponse {
    // Held against the few names there are, and not against every group.
    let wanted = |filter: &[StrBytes]| filter.iter().map(|word| word.to_ascii_lowercase()).collect::<HashSet<String>>();
    let (states, kinds) = (wanted(&request.states_filter), wanted(&request.types_filter));
    let passes = |wanted: &HashSet<String>, value: &str| {
        wanted.is_empty() || wanted.contains(value.to_ascii_lowercase().as_str())
    };
    let sees_all = cx.sees(Operation::Describe, Resource::Cluster);
    let groups = cx
        .core
        .groups
        .list()
        .into_iter()
        .filter(|g| passes(&states, g.state) && passes(&kinds, g.kind))
        .filter(|g| sees_all || cx.sees(Operation::Describe, Resource::Group(&g.id)))
        .map(|Listed { id, state, protocol_type, kind }| {
            let mut group =
                ListedGroup::default().with_group_id(GroupId(text(&id))).with_protocol_type(text(&protocol_type));
            if cx.version >= 4 {
                group = group.with_group_state(text(state));
            }
            if cx.version >= 5 {
                group = group.with_group_type(text(kind));
            }
            group
        });
    ListGroupsResponse::default().with_groups(groups.collect())
}
