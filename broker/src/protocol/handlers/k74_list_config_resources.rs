//! ListConfigResources (key 74), versions 0 and 1. What has settings: topics, the broker, groups (KIP-1142).
//!
//! Behaviour: needs DescribeConfigs on the cluster. Groups are those for which something was set. Versions: 0 only asks for settings of client metrics, of
//! which there are none; 1 the types asked for, all if none is named.

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::settings::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::protocol::wire::text;

const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

fn names(cx: &Context, kind: i8) -> Vec<String> {
    match kind {
        TOPIC => cx.core.storage.topics().into_iter().map(|topic| topic.name().to_owned()).collect(),
        BROKER | BROKER_LOGGER => vec![NODE.0.to_string()],
        GROUP => cx.core.groups.groups_with_settings(),
        CLIENT_METRICS => cx.core.client_configs.subscriptions(),
        _ => Vec::new(),
    }
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: &ListConfigResourcesRequest) -> ListConfigResourcesResponse {
    if let Err(code) = cx.allowed(Operation::DescribeConfigs, Resource::Cluster) {
        return ListConfigResourcesResponse::default().with_error_code(code.code());
    }
    let asked: &[i8] = match &request.resource_types {
        _ if cx.version == 0 => &[CLIENT_METRICS],
        types if types.is_empty() => &ALL,
        types => types,
    };
    if asked.iter().any(|kind| !ALL.contains(kind)) {
        return ListConfigResourcesResponse::default().with_error_code(Code::UnsupportedVersion.code());
    }
    let resource = |kind: i8| {
        let named =
            move |name: String| ConfigResource::default().with_resource_name(text(&name)).with_resource_type(kind);
        names(cx, kind).into_iter().map(named)
    };
    let resources = ALL.into_iter().filter(|kind| asked.contains(kind)).flat_map(resource);
    ListConfigResourcesResponse::default().with_config_resources(resources.collect())
}
