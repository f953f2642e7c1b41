//! DescribeConfigs (key 32), versions 1 to 4. Settings of topics, groups, client metrics subscriptions and the broker.
//!
//! Behaviour: needs DescribeConfigs on the topic, the group or the cluster. All settings, or the named ones; unknown names
//! are left out. The broker's settings are read only: they are in the configuration file. Versions: 1 synonyms, 3 types and documentation, 4 flexible.

use std::collections::HashSet;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::settings::{self, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, Setting, TOPIC};
use crate::protocol::wire::{once, text};
use millrace_log::record::is_topic_name;

fn settings(cx: &Context, resource: &DescribeConfigsResource) -> Result<Vec<Setting>, Refusal> {
    let name: &str = &resource.resource_name;
    let about = match resource.resource_type {
        TOPIC => Resource::Topic(name),
        GROUP => Resource::Group(name),
        _ => Resource::Cluster,
    };
    cx.allowed(Operation::DescribeConfigs, about).map_err(refused)?;
    match resource.resource_type {
        TOPIC if !is_topic_name(name) => Err((Code::InvalidTopicException, settings::invalid_topic_name(name))),
        TOPIC => match cx.core.storage.topic(name) {
            Some(topic) => Ok(settings::settings_of(cx, &topic.settings())),
            None => Err((Code::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."))),
        },
        // Without a name: what all brokers have in common, which nobody can set here.
        BROKER if name.is_empty() => Ok(Vec::new()),
        BROKER => settings::check_broker(name).map(|()| settings::settings_of_broker(cx)),
        BROKER_LOGGER => settings::check_broker(name).map(|()| settings::settings_of_logger()),
        GROUP if name.is_empty() => Err((Code::InvalidRequest, "Group name must not be empty".to_owned())),
        GROUP => Ok(settings::settings_of_group(cx, name)),
        CLIENT_METRICS if name.is_empty() => {
            Err((Code::InvalidRequest, "Client metrics subscription name must not be empty".to_owned()))
        }
        CLIENT_METRICS => Ok(settings::settings_of_subscription(cx, name)),
        other => Err((Code::InvalidRequest, format!("Unsupported resource type: {other}"))),
    }
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let resources = once(request.resources, |of| (of.resource_type, of.resource_name.clone()));
    let results = resources.into_iter().map(|resource| {
        let found = settings(cx, &resource);
        let base = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_message(None);
        let found = match found {
            Ok(found) => found,
            Err((code, message)) => {
                return base.with_error_code(code.code()).with_error_message(Some(text(&message)));
            }
        };
        let keys: HashSet<&str> = resource.configuration_keys.iter().flatten().map(|key| key.as_str()).collect();
        let is_wanted = |name: &str| keys.is_empty() || keys.contains(name);
        let configs = found.into_iter().filter(|s| is_wanted(s.name)).map(|s| {
            let mut answer = DescribeConfigsResourceResult::default()
                .with_name(text(s.name))
                .with_read_only(s.read_only)
                .with_config_source(s.source)
                .with_value(Some(text(&s.value)));
            if request.include_synonyms {
                let synonyms = s.synonyms.iter().map(|(name, value, source)| {
                    DescribeConfigsSynonym::default()
                        .with_name(text(name))
                        .with_value(Some(text(value)))
                        .with_source(*source)
                });
                answer = answer.with_synonyms(synonyms.collect());
            }
            if cx.version >= 3 {
                let documentation = request.include_documentation.then(|| text(s.doc));
                answer = answer.with_config_type(s.kind).with_documentation(documentation);
            }
            answer
        });
        base.with_configs(configs.collect())
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}
