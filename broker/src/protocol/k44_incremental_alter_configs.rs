//! IncrementalAlterConfigs (key 44), versions 0 and 1. Sets, deletes, extends and shortens single settings of topics
//! and groups (KIP-339).
//!
//! Behaviour: all changes of a topic or none; durable when answered, in force from the next append on. The broker's own
//! settings stand in the configuration file and are refused here. Versions: 1 flexible.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::access::{Operation, Resource, refused};
use super::context::Context;
use super::error::{Code, group_code, storage_code};
use super::k32_describe_configs::{BROKER, GROUP, TOPIC};
use super::topics::{self, Refusal};
use super::wire::text;
use crate::storage::{SettingKind, Topic, TopicSettings};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// The topic that a resource names.
pub(super) fn topic_of(cx: &Context, kind: i8, name: &str) -> Result<Arc<Topic>, Refusal> {
    let about = match kind {
        TOPIC => Resource::Topic(name),
        GROUP => Resource::Group(name),
        _ => Resource::Cluster,
    };
    cx.allowed(Operation::AlterConfigs, about).map_err(refused)?;
    match kind {
        TOPIC => {
            topics::refuse_internal(name)?;
            let topic = cx.core.storage.topic(name);
            topic.ok_or_else(|| (Code::UnknownTopicOrPartition, format!("there is no topic {name}")))
        }
        BROKER => Err((
            Code::InvalidRequest,
            "the broker's settings stand in the section `broker` of millrace's configuration file".to_owned(),
        )),
        other => Err((Code::InvalidRequest, format!("settings of resource type {other} can't be changed here"))),
    }
}

/// Puts settings in force.
pub(super) async fn apply(cx: &Context, name: &str, settings: TopicSettings, is_trial: bool) -> Result<(), Refusal> {
    if is_trial {
        return Ok(());
    }
    let altered = cx.core.storage.alter_topic(name, settings).await;
    altered.map_err(|e| (storage_code(&e), e.to_string()))
}

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

/// Puts settings of a group in force.
pub(super) async fn apply_to_group(
    cx: &Context,
    group: &str,
    settings: BTreeMap<String, String>,
    is_trial: bool,
) -> Result<(), Refusal> {
    cx.allowed(Operation::AlterConfigs, Resource::Group(group)).map_err(|code| (code, code.to_string()))?;
    if group.is_empty() {
        return Err((Code::InvalidRequest, "Default group resources are not allowed.".to_owned()));
    }
    let set = cx.core.groups.set_settings(group, settings, is_trial).await;
    set.map_err(|e| (group_code(&e), e.to_string()))?.map_err(|reason| (Code::InvalidConfig, reason))
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
pub(super) async fn handle(cx: &Context, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
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
