//! DescribeClientQuotas (key 48), versions 0 and 1. Quotas that clients set (KIP-546).
//!
//! Behaviour: needs DescribeConfigs on the cluster. Quotas are kept, not enforced: see `limits` of a listener. Versions: 1
//! flexible.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::client_configs::EntityMatch;
use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal};
use crate::protocol::wire::text;

const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

fn filter(components: &[ComponentData]) -> Result<BTreeMap<String, EntityMatch>, Refusal> {
    let mut filter = BTreeMap::new();
    for component in components {
        let kind = component.entity_type.to_string();
        if kind.is_empty() {
            return Err((Code::InvalidRequest, "Invalid empty entity type.".to_owned()));
        }
        if filter.contains_key(&kind) {
            let text = format!("Entity type {kind} cannot appear more than once in the filter.");
            return Err((Code::InvalidRequest, text));
        }
        if !matches!(kind.as_str(), "user" | "client-id" | "ip") {
            return Err((Code::UnsupportedVersion, format!("Unsupported entity type {kind}")));
        }
        let wanted = match (component.match_type, &component._match) {
            (EXACT, Some(name)) => EntityMatch::Named(name.to_string()),
            (EXACT, None) => {
                return Err((
                    Code::InvalidRequest,
                    "Request specified MATCH_TYPE_EXACT, but set match string to null.".to_owned(),
                ));
            }
            (DEFAULT, None) => EntityMatch::Default,
            (SPECIFIED, None) => EntityMatch::Any,
            (DEFAULT | SPECIFIED, Some(_)) => {
                return Err((Code::InvalidRequest, "The match string must be null for this match type.".to_owned()));
            }
            (other, _) => return Err((Code::InvalidRequest, format!("Unknown match type {other}"))),
        };
        filter.insert(kind, wanted);
    }
    if filter.contains_key("ip") && filter.len() > 1 {
        let text = "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component.";
        return Err((Code::InvalidRequest, text.to_owned()));
    }
    Ok(filter)
}

fn entries(cx: &Context, request: &DescribeClientQuotasRequest) -> Result<Vec<EntryData>, Refusal> {
    cx.allowed(Operation::DescribeConfigs, Resource::Cluster).map_err(refused)?;
    let found = cx.core.client_configs.quotas(&filter(&request.components)?, request.strict);
    let entry = |(entity, values): (BTreeMap<String, Option<String>>, BTreeMap<String, f64>)| {
        let entity = entity.iter().map(|(kind, name)| {
            EntityData::default().with_entity_type(text(kind)).with_entity_name(name.as_deref().map(text))
        });
        let values = values.iter().map(|(key, value)| ValueData::default().with_key(text(key)).with_value(*value));
        EntryData::default().with_entity(entity.collect()).with_values(values.collect())
    };
    Ok(found.into_iter().map(entry).collect())
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    let answer = DescribeClientQuotasResponse::default();
    match entries(cx, request) {
        Ok(entries) => answer.with_error_message(None).with_entries(Some(entries)),
        Err((code, why)) => answer.with_error_code(code.code()).with_error_message(Some(text(&why))).with_entries(None),
    }
}
