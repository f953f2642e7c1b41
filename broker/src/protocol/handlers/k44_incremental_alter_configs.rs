//! IncrementalAlterConfigs (key 44), versions 0 and 1. Sets, deletes, extends and shortens single settings of topics
//! and groups (KIP-339).
//!
//! Behaviour: all changes of a topic or none; durable when answered, in force from the next append on. The broker's own
//! settings stand in the configuration file and are refused here. Versions: 1 flexible.

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::settings::{GROUP, apply, apply_to_group, topic_of};
use crate::protocol::wire::text;
use crate::storage::{SettingKind, TopicSettings};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Longest value, as in Kafka.
const MAX_VALUE: usize = 32_767;

fn change(cx: &Context, settings: &mut TopicSettings, config: &AlterableConfig) -> Result<(), Refusal> {
    let name: &str = &config.name;
    let invalid = |text: String| (Code::InvalidConfig, text);
    if config.config_operation == DELETE {
        return settings.unset(name).map_err(|e| invalid(e.to_string()));
    }
    let Some(value) = config.value.as_deref() else {
        return Err((Code::InvalidRequest, format!("`{name}` needs a value")));
    };
    if value.len() > MAX_VALUE {
        return Err(invalid(format!("the value of `{name}` is longer than {MAX_VALUE} bytes")));
    }
    let changed = match config.config_operation {
        SET => value.to_owned(),
        APPEND | SUBTRACT => {
            let spec =
                TopicSettings::spec(name).ok_or_else(|| invalid(format!("`{name}` is no setting of a topic")))?;
            if !matches!(spec.kind, SettingKind::List(_)) {
                return Err(invalid(format!("`{name}` is no list: it can be set, not extended or shortened")));
            }
            let now = settings.get(name).map_or_else(|| spec.default(cx.core.storage.config()), str::to_owned);
            let mut words: Vec<&str> = now.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
            for word in value.split(',').map(str::trim) {
                words.retain(|w| *w != word);
                if config.config_operation == APPEND {
                    words.push(word);
                }
            }
            words.join(",")
        }
        other => return Err((Code::InvalidRequest, format!("operation {other} on a setting is unknown"))),
    };
    settings.set(name, &changed).map_err(|e| invalid(e.to_string()))
}

async fn alter_group(cx: &Context, resource: &AlterConfigsResource, is_trial: bool) -> Result<(), Refusal> {
    let mut settings = cx.core.groups.set_settings_of(&resource.resource_name);
    for config in &resource.configs {
        let name: &str = &config.name;
        match (config.config_operation, config.value.as_deref()) {
            (DELETE, _) => drop(settings.remove(name)),
            (SET, Some(value)) => drop(settings.insert(name.to_owned(), value.to_owned())),
            (SET, None) => return Err((Code::InvalidRequest, format!("`{name}` needs a value"))),
            (APPEND | SUBTRACT, _) => {
                let text = format!("`{name}` is no list: it can be set, not extended or shortened");
                return Err((Code::InvalidConfig, text));
            }
            (other, _) => return Err((Code::InvalidRequest, format!("operation {other} on a setting is unknown"))),
        }
    }
    apply_to_group(cx, &resource.resource_name, settings, is_trial).await
}

async fn alter(cx: &Context, resource: &AlterConfigsResource, is_trial: bool) -> Result<(), Refusal> {
    if resource.resource_type == GROUP {
        return alter_group(cx, resource, is_trial).await;
    }
    let topic = topic_of(cx, resource.resource_type, &resource.resource_name)?;
    let mut settings = topic.settings();
    for config in &resource.configs {
        change(cx, &mut settings, config)?;
    }
    apply(cx, &resource.resource_name, settings, is_trial).await
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
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
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}
