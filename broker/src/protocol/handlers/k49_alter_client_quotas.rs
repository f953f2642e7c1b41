//! AlterClientQuotas (key 49), versions 0 and 1. Refused: quotas are not kept (KIP-546).
//!
//! Behaviour: needs AlterConfigs on the cluster; each entry gets INVALID_REQUEST and a text that names the setting to
//! use. Versions: 1 flexible.

use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::wire::text;

/// Answers.
pub(crate) fn handle(cx: &Context, request: AlterClientQuotasRequest) -> AlterClientQuotasResponse {
    let (code, why) = match cx.allowed(Operation::AlterConfigs, Resource::Cluster) {
        Ok(()) => (
            Code::InvalidRequest,
            "quotas are not kept by this broker: set `limits.max_requests_per_second` of a listener in millrace's configuration file".to_owned(),
        ),
        Err(code) => refused(code),
    };
    let entries = request.entries.into_iter().map(|entry| {
        let entity = entry.entity.into_iter();
        let entity =
            entity.map(|e| EntityData::default().with_entity_type(e.entity_type).with_entity_name(e.entity_name));
        EntryData::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(&why)))
            .with_entity(entity.collect())
    });
    AlterClientQuotasResponse::default().with_entries(entries.collect())
}
