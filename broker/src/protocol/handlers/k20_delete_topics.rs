//! DeleteTopics (key 20), versions 1 to 6. Deletes topics with their data and with what groups committed for them.
//!
//! Needs Delete on the topic. Versions: 4 flexible, 5 texts with errors, 6 by id (KIP-516).

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal, storage_code};
use crate::protocol::topics;
use crate::protocol::wire::text;

async fn delete(cx: &Context, name: &str) -> Result<(), Refusal> {
    for operation in [Operation::Describe, Operation::Delete] {
        cx.allowed(operation, Resource::Topic(name)).map_err(refused)?;
    }
    topics::refuse_internal(name)?;
    let deleted = cx.core.storage.delete_topic(name).await;
    deleted.map_err(|e| (storage_code(&e), e.to_string()))?;
    tracing::info!(topic = name, client = cx.client_id, "topic deleted");
    cx.core.groups.forget_topic(name).await;
    Ok(())
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let asked: Vec<_> = by_name
        .chain(request.topics.into_iter().map(|t| (t.name.filter(|_| t.topic_id.is_nil()), t.topic_id)))
        .collect();
    let mut responses = Vec::with_capacity(asked.len());
    for (name, id) in asked {
        let (name, id, result) = match name {
            Some(name) => {
                let is_seen = cx.sees(Operation::Describe, Resource::Topic(&name.0));
                let found = cx.core.storage.topic(&name.0).filter(|_| is_seen);
                let id = found.map_or(Uuid::nil(), |t| t.id());
                let result = delete(cx, &name.0).await;
                (Some(name), id, result)
            }
            None => match cx.core.storage.topic_by_id(id) {
                Some(topic) => {
                    // Ids are no secret, names are.
                    let is_seen = cx.sees(Operation::Describe, Resource::Topic(topic.name()));
                    let name = is_seen.then(|| TopicName(text(topic.name())));
                    (name, id, delete(cx, topic.name()).await)
                }
                None => (None, id, Err((Code::UnknownTopicId, "there is no topic of this id".to_owned()))),
            },
        };
        let mut answer = DeletableTopicResult::default().with_name(name);
        if cx.version >= 6 {
            answer = answer.with_topic_id(id);
        }
        if let Err((code, message)) = result {
            answer = answer.with_error_code(code.code());
            if cx.version >= 5 {
                answer = answer.with_error_message(Some(text(&message)));
            }
        }
        responses.push(answer);
    }
    DeleteTopicsResponse::default().with_responses(responses)
}
