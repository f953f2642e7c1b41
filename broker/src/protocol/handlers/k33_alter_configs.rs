//! AlterConfigs (key 33), versions 0 to 2. Replaces all settings of topics; what is not named goes back to its default.
//!
//! Behaviour: as [`crate::protocol::handlers::k44_incremental_alter_configs`], which clients should use. Versions: 2 flexible.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::settings::{
    BROKER_LOGGER, CLIENT_METRICS, GROUP, apply, apply_to_group, apply_to_subscription, may_alter, topic_of,
};
use crate::protocol::wire::text;
use crate::storage::TopicSettings;

async fn alter(cx: &Context, resource: &AlterConfigsResource, is_trial: bool) -> Result<(), Refusal> {
    let name: &str = &resource.resource_name;
    may_alter(cx, resource.resource_type, name)?;
    if resource.resource_type == BROKER_LOGGER {
        let text = "Unsupported resource type: BROKER_LOGGER: use IncrementalAlterConfigs".to_owned();
        return Err((Code::InvalidRequest, text));
    }
    let mut pairs = BTreeMap::new();
    for config in &resource.configs {
        let Some(value) = &config.value else {
            return Err((Code::InvalidRequest, format!("Null value not supported for : {}", &*config.name)));
        };
        if pairs.insert(config.name.to_string(), value.to_string()).is_some() {
            return Err((Code::InvalidRequest, "Error due to duplicate config keys".to_owned()));
        }
    }
    match resource.resource_type {
        GROUP => apply_to_group(cx, name, pairs, is_trial).await,
        CLIENT_METRICS => apply_to_subscription(cx, name, pairs, is_trial).await,
        kind => {
            topic_of(cx, kind, name)?;
            let settings = TopicSettings::from_pairs(pairs).map_err(|e| (Code::InvalidConfig, e.to_string()))?;
            apply(cx, name, settings, is_trial).await
        }
    }
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let result = alter(cx, &resource, request.validate_only).await;
        let answer = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        responses.push(match result {
            Ok(()) => answer.with_error_message(None),
            Err((code, message)) => answer.with_error_code(code.code()).with_error_message(Some(text(&message))),
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}
