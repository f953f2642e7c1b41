//! FindCoordinator (key 10), versions 0 to 6. Where a group or a transactional id is coordinated: here.
//!
//! Behaviour: share groups are not served; they get a code that ends the client's attempt and a text that says why.
//! Versions: 1 kinds of key, 3 flexible, 4 many keys (KIP-699), 5 and 6 new kinds.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::wire::text;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Why a coordinator is not told.
fn refusal(cx: &Context, kind: i8, key: &str) -> Option<(Code, &'static str)> {
    let about = match kind {
        GROUP => Resource::Group(key),
        TRANSACTION => Resource::TransactionalId(key),
        _ => {
            return Some((Code::InvalidRequest, "this kind of coordinator is not served by the embedded log"));
        }
    };
    cx.allowed(Operation::Describe, about).err().map(|code| (code, say(code)))
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (host, port) = cx.advertised();
    let host = text(&host);
    let nowhere = || (BrokerId(-1), text(""), -1);
    if cx.version < 4 {
        let refused = refusal(cx, request.key_type, &request.key);
        let (node, host, port) = if refused.is_none() { (NODE, host, port) } else { nowhere() };
        let answer = FindCoordinatorResponse::default()
            .with_error_code(refused.map_or(0, |(code, _)| code.code()))
            .with_node_id(node)
            .with_host(host)
            .with_port(port);
        return if cx.version >= 1 { answer.with_error_message(refused.map(|(_, why)| text(why))) } else { answer };
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        let refused = refusal(cx, request.key_type, &key);
        let (node, host, port) = if refused.is_none() { (NODE, host.clone(), port) } else { nowhere() };
        Coordinator::default()
            .with_key(key)
            .with_error_code(refused.map_or(0, |(code, _)| code.code()))
            .with_error_message(refused.map(|(_, why)| text(why)))
            .with_node_id(node)
            .with_host(host)
            .with_port(port)
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}
