//! DescribeCluster (key 60), versions 0 to 2. Id of the cluster and its one node (KIP-700).
//!
//! Versions: 1 kind of endpoint (controllers are no endpoint here), 2 fenced brokers: none.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::wire::text;

const BROKERS: i8 = 1;

/// Answers.
pub(crate) fn handle(cx: &Context, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let mut answer = DescribeClusterResponse::default();
    if cx.version >= 1 {
        answer = answer.with_endpoint_type(request.endpoint_type);
        if request.endpoint_type != BROKERS {
            let why = text("this is the endpoint of brokers");
            return answer.with_error_code(Code::MismatchedEndpointType.code()).with_error_message(Some(why));
        }
    }
    if request.include_cluster_authorized_operations {
        answer = answer.with_cluster_authorized_operations(cx.cluster_operations());
    }
    let (host, port) = cx.advertised();
    let node = DescribeClusterBroker::default().with_broker_id(NODE).with_host(text(&host)).with_port(port);
    answer.with_cluster_id(text(cx.core.identity.cluster_id())).with_controller_id(NODE).with_brokers(vec![node])
}
