//! CreateTopics (key 19), versions 2 to 7. Makes topics; each has its own answer.
//!
//! Behaviour: durable when answered. -1 partitions and replicas mean the defaults (KIP-464); replicas by hand may only
//! name this node. Needs Create on the topic or the cluster; numbers and settings are told to those with
//! DescribeConfigs. Versions: 5 flexible, numbers and settings in the answer (KIP-525), 7 topic ids.

use std::collections::HashMap;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use uuid::Uuid;

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal};
use crate::protocol::wire::text;
use crate::protocol::{settings, topics};
use crate::storage::TopicSettings;

fn partitions(cx: &Context, asked: &CreatableTopic) -> Result<i32, Refusal> {
    if asked.assignments.is_empty() {
        if asked.replication_factor != -1 && asked.replication_factor != 1 {
            let text =
                format!("Unable to replicate the partition {} time(s): there is 1 broker", asked.replication_factor);
            return Err((Code::InvalidReplicationFactor, text));
        }
        return match asked.num_partitions {
            -1 => Ok(cx.core.config.default_partitions),
            number if number > 0 => Ok(number),
            number => Err((Code::InvalidPartitions, format!("Number of partitions was set to {number}: at least 1"))),
        };
    }
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        let text = "replicas by hand leave no room for a number of partitions or replicas: set both to -1".to_owned();
        return Err((Code::InvalidRequest, text));
    }
    let refuse = |text: &str| Err((Code::InvalidReplicaAssignment, text.to_owned()));
    let mut numbers: Vec<i32> = asked.assignments.iter().map(|a| a.partition_index).collect();
    numbers.sort_unstable();
    if !numbers.iter().copied().eq(0..i32::try_from(numbers.len()).unwrap_or(i32::MAX)) {
        return refuse("partitions must be numbered from 0 without gaps");
    }
    if asked.assignments.iter().any(|a| a.broker_ids != [NODE]) {
        return refuse("there is only broker 1 to hold replicas");
    }
    Ok(i32::try_from(numbers.len()).unwrap_or(i32::MAX))
}

fn settings(asked: &CreatableTopic) -> Result<TopicSettings, Refusal> {
    let mut settings = TopicSettings::default();
    for config in &asked.configs {
        let Some(value) = &config.value else {
            return Err((
                Code::InvalidConfig,
                format!("Null value not supported for topic configs: {}", &*config.name),
            ));
        };
        settings.set(&config.name, value).map_err(|e| (Code::InvalidConfig, e.to_string()))?;
    }
    Ok(settings)
}

async fn create(cx: &Context, asked: &CreatableTopic, is_trial: bool) -> Result<(Uuid, i32, TopicSettings), Refusal> {
    cx.may_create(&asked.name.0).map_err(|code| (code, "Authorization failed.".to_owned()))?;
    topics::check_new(cx, &asked.name.0)?;
    let (number, settings) = (partitions(cx, asked)?, settings(asked)?);
    if is_trial {
        return Ok((Uuid::nil(), number, settings));
    }
    let topic = topics::create(cx, &asked.name.0, number, settings.clone()).await?;
    Ok((topic.id(), number, settings))
}

fn answer(cx: &Context, answer: CreatableTopicResult, made: (Uuid, i32, &TopicSettings)) -> CreatableTopicResult {
    let (id, number, settings) = made;
    let mut answer = answer;
    if cx.version >= 7 {
        answer = answer.with_topic_id(id);
    }
    if cx.version < 5 {
        return answer;
    }
    if !cx.sees(Operation::DescribeConfigs, Resource::Topic(&answer.name.0)) {
        return answer
            .with_topic_config_error_code(Code::TopicAuthorizationFailed.code())
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(None);
    }
    let configs = settings::settings_of(cx, settings).into_iter().map(|s| {
        CreatableTopicConfigs::default()
            .with_name(text(s.name))
            .with_value(Some(text(&s.value)))
            .with_config_source(s.source)
    });
    answer.with_num_partitions(number).with_replication_factor(1).with_configs(Some(configs.collect()))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut times: HashMap<String, usize> = HashMap::new();
    for topic in &request.topics {
        *times.entry(topic.name.0.to_string()).or_default() += 1;
    }
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let result = match times.get_mut(asked.name.0.as_str()) {
            Some(0) => continue,
            Some(1) => create(cx, &asked, request.validate_only).await,
            Some(times) => {
                *times = 0;
                Err((Code::InvalidRequest, "the topic is named more than once in the request".to_owned()))
            }
            None => continue,
        };
        let base = CreatableTopicResult::default().with_name(asked.name).with_error_message(None);
        results.push(match result {
            Ok((id, number, settings)) => answer(cx, base, (id, number, &settings)),
            Err((code, message)) => base.with_error_code(code.code()).with_error_message(Some(text(&message))),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}
