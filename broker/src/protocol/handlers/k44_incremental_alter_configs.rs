//! IncrementalAlterConfigs (key 44), versions 0 and 1. Sets, deletes, extends and shortens single settings of topics,
//! groups and client metrics subscriptions (KIP-339).
//!
//! Behaviour: all changes of a resource or none; durable when answered, in force from the next append on. DELETE of an
//! unknown name is no error. APPEND and SUBTRACT are for lists of topics. The broker's own settings and log levels are
//! in the configuration and are refused here. Versions: 1 flexible.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::settings::{
    BROKER_LOGGER, CLIENT_METRICS, GROUP, alter_logger, apply, apply_to_group, apply_to_subscription, check_broker,
    may_alter, topic_of,
};
use crate::protocol::wire::text;
use crate::storage::{SettingSpec, TopicSettings};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Longest value, as in Kafka.
const MAX_VALUE: usize = 32_767;

/// What an operation makes of a setting: `None` is its default.
fn changed(now: &str, is_list: bool, config: &AlterableConfig) -> Result<Option<String>, Refusal> {
    let name: &str = &config.name;
    let value = match (config.config_operation, config.value.as_deref()) {
        (DELETE, _) => return Ok(None),
        (SET | APPEND | SUBTRACT, Some(value)) => value,
        (SET | APPEND | SUBTRACT, None) => {
            return Err((Code::InvalidRequest, format!("Null value not supported for : {name}")));
        }
        (other, _) => return Err((Code::InvalidRequest, format!("Unknown operation type {other}"))),
    };
    if value.len() > MAX_VALUE {
        let text = format!(
            "The configuration value cannot be added because it exceeds the maximum value size of {MAX_VALUE} bytes."
        );
        return Err((Code::InvalidConfig, text));
    }
    let is_append = config.config_operation == APPEND;
    if config.config_operation == SET {
        return Ok(Some(value.to_owned()));
    }
    if !is_list {
        let operation = if is_append { "APPEND" } else { "SUBTRACT" };
        let text = format!("Can't {operation} to key {name} because its type is not LIST.");
        return Err((Code::InvalidConfig, text));
    }
    let mut words: Vec<&str> = now.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match is_append {
            true if words.contains(&word) => {}
            true => words.push(word),
            false => words.retain(|known| *known != word),
        }
    }
    Ok(Some(words.join(",")))
}

fn change(cx: &Context, settings: &mut TopicSettings, config: &AlterableConfig) -> Result<(), Refusal> {
    let name: &str = &config.name;
    let spec = TopicSettings::spec(name);
    let default = || spec.map(|spec| spec.default(cx.core.storage.config())).unwrap_or_default();
    let now = settings.get(name).map_or_else(default, str::to_owned);
    match changed(&now, spec.is_some_and(SettingSpec::is_list), config)? {
        Some(value) => settings.set(name, &value).map_err(|e| (Code::InvalidConfig, e.to_string())),
        None => {
            settings.unset(name);
            Ok(())
        }
    }
}

/// Settings of a group or of a client metrics subscription, none of which is a list for Kafka's controller.
fn change_pairs(pairs: &mut BTreeMap<String, String>, configs: &[AlterableConfig]) -> Result<(), Refusal> {
    for config in configs {
        match changed("", false, config)? {
            Some(value) => drop(pairs.insert(config.name.to_string(), value)),
            None => drop(pairs.remove(config.name.as_str())),
        }
    }
    Ok(())
}

async fn alter(cx: &Context, resource: &AlterConfigsResource, is_trial: bool) -> Result<(), Refusal> {
    let name: &str = &resource.resource_name;
    may_alter(cx, resource.resource_type, name)?;
    let mut names = HashSet::new();
    if !resource.configs.iter().all(|config| names.insert(config.name.as_str())) {
        return Err((Code::InvalidRequest, "Error due to duplicate config keys".to_owned()));
    }
    match resource.resource_type {
        GROUP => {
            let mut pairs = cx.core.groups.set_settings_of(name);
            change_pairs(&mut pairs, &resource.configs)?;
            apply_to_group(cx, name, pairs, is_trial).await
        }
        CLIENT_METRICS => {
            let mut pairs = cx.core.client_configs.subscription(name);
            change_pairs(&mut pairs, &resource.configs)?;
            apply_to_subscription(cx, name, pairs, is_trial).await
        }
        BROKER_LOGGER => {
            check_broker(name)?;
            resource.configs.iter().try_for_each(|config| {
                let value = config.value.as_deref();
                match (config.config_operation, value) {
                    (APPEND, _) => Err((
                        Code::InvalidRequest,
                        "APPEND operation is not allowed for the BROKER_LOGGER resource".to_owned(),
                    )),
                    (SUBTRACT, _) => Err((
                        Code::InvalidRequest,
                        "SUBTRACT operation is not allowed for the BROKER_LOGGER resource".to_owned(),
                    )),
                    (SET, None) => {
                        Err((Code::InvalidRequest, format!("Null value not supported for : {}", &*config.name)))
                    }
                    (DELETE, _) => alter_logger(&config.name, None),
                    (_, value) => alter_logger(&config.name, value),
                }
            })
        }
        kind => {
            let topic = topic_of(cx, kind, name)?;
            let mut settings = topic.settings();
            for config in &resource.configs {
                change(cx, &mut settings, config)?;
            }
            apply(cx, name, settings, is_trial).await
        }
    }
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
