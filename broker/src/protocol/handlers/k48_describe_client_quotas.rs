//! DescribeClientQuotas (key 48), versions 0 and 1. There are none (KIP-546).
//!
//! Behaviour: needs DescribeConfigs on the cluster. What clients may take stands in the configuration file
//! (`limits` of a listener). Versions: 1 flexible.

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::context::Context;
use crate::protocol::wire::text;

/// Answers.
pub(crate) fn handle(cx: &Context, _: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    let answer = DescribeClientQuotasResponse::default();
    match cx.allowed(Operation::DescribeConfigs, Resource::Cluster) {
        Ok(()) => answer.with_error_message(None).with_entries(Some(Vec::new())),
        Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(say(code)))).with_entries(None),
    }
}
