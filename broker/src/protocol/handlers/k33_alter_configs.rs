//! AlterConfigs (key 33), versions 0 to 2. Replaces all settings of topics; what is not named goes back to its default.
//!
//! Behaviour: as [`crate::protocol::handlers::k44_incremental_alter_configs`], which clients should use. Versions: 2 flexible.

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::settings::{GROUP, apply, apply_to_group, topic_of};
use crate::protocol::wire::text;
use crate::storage::TopicSettings;

async fn alter(cx: &Context, resource: &AlterConfigsResource, is_trial: bool) -> Result<(), Refusal> {
    if resource.resource_type == GROUP {
        let pairs = resource.configs.iter().filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())));
        return apply_to_group(cx, &resource.resource_name, pairs.collect(), is_trial).await;
    }
    topic_of(cx, resource.resource_type, &resource.resource_name)?;
    let mut settings = TopicSettings::default();
    for config in &resource.configs {
        if let Some(value) = &config.value {
            settings.set(&config.name, value).map_err(|e| (Code::InvalidConfig, e.to_string()))?;
        }
    }
    apply(cx, &resource.resource_name, settings, is_trial).await
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
