//! AlterClientQuotas (key 49), versions 0 and 1. Sets and removes quotas (KIP-546).
//!
//! Behaviour: needs AlterConfigs on the cluster. All changes of an entity or none; durable when answered. Quotas are kept,
//! not enforced: see `limits` of a listener. Versions: 1 flexible.

use kafka_protocol::messages::alter_client_quotas_request::EntryData as Change;
use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::client_configs::{Entity, check_entity, check_quota};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::wire::text;

async fn alter(cx: &Context, change: &Change, is_trial: bool) -> Result<(), Refusal> {
    cx.allowed(Operation::AlterConfigs, Resource::Cluster).map_err(refused)?;
    let mut entity = Entity::new();
    for part in &change.entity {
        let name = part.entity_name.as_ref().map(ToString::to_string);
        if entity.insert(part.entity_type.to_string(), name).is_some() {
            let text = format!("Duplicate entity type: {}", &*part.entity_type);
            return Err((Code::InvalidRequest, text));
        }
    }
    check_entity(&entity)?;
    let mut values = Vec::with_capacity(change.ops.len());
    for op in &change.ops {
        let value = (!op.remove).then_some(op.value);
        check_quota(&entity, &op.key, value)?;
        values.push((op.key.to_string(), value));
    }
    if is_trial {
        return Ok(());
    }
    let set = cx.core.client_configs.set_quotas(entity, values).await;
    set.map_err(|e| (Code::KafkaStorageError, e.to_string()))?
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: AlterClientQuotasRequest) -> AlterClientQuotasResponse {
    let mut entries = Vec::with_capacity(request.entries.len());
    for change in request.entries {
        let result = alter(cx, &change, request.validate_only).await;
        let entity = change.entity.into_iter();
        let entity =
            entity.map(|e| EntityData::default().with_entity_type(e.entity_type).with_entity_name(e.entity_name));
        let entry = EntryData::default().with_entity(entity.collect());
        entries.push(match result {
            Ok(()) => entry.with_error_message(None),
            Err((code, why)) => entry.with_error_code(code.code()).with_error_message(Some(text(&why))),
        });
    }
    AlterClientQuotasResponse::default().with_entries(entries)
}
