//! FindCoordinator (key 10), versions 0 to 6. Where a group or a transactional id is coordinated: here.
//!
//! Behaviour: share groups are not served; they get a code that ends the client's attempt and a text that says why.
//! Versions: 1 kinds of key, 3 flexible, 4 many keys (KIP-699), 5 and 6 new kinds.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::context::{Context, NODE};
use super::error::Code;
use super::wire::text;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

fn refusal(kind: i8) -> Option<(Code, &'static str)> {
    match kind {
        GROUP | TRANSACTION => None,
        _ => Some((Code::InvalidRequest, "this kind of coordinator is not served by the embedded log")),
    }
}

/// Answers.
pub(super) fn handle(cx: &Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (host, port) = cx.advertised();
    let refused = refusal(request.key_type);
    let (code, message) = refused.map_or((0, None), |(code, why)| (code.code(), Some(text(why))));
    let (node, host, port) = if code == 0 { (NODE, text(&host), port) } else { (BrokerId(-1), text(""), -1) };
    if cx.version < 4 {
        let answer =
            FindCoordinatorResponse::default().with_error_code(code).with_node_id(node).with_host(host).with_port(port);
        return if cx.version >= 1 { answer.with_error_message(message) } else { answer };
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        Coordinator::default()
            .with_key(key)
            .with_error_code(code)
            .with_error_message(message.clone())
            .with_node_id(node)
            .with_host(host.clone())
            .with_port(port)
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}
