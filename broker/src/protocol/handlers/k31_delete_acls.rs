//! DeleteAcls (key 31), versions 1 to 3. Deletes the access rules that filters mean (KIP-140).
//!
//! Behaviour: needs Alter on the cluster; durable and in force when answered. Versions: 1 patterns (KIP-290), 2
//! flexible, 3 users as resources.

use kafka_protocol::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsMatchingAcl};
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};

use crate::protocol::access::Operation;
use crate::protocol::access::acl::{Binding, Filter};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::error::Refusal;
use crate::protocol::handlers::k29_describe_acls::{check, filter};
use crate::protocol::wire::text;

fn matching(rule: &Binding) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_error_message(None)
        .with_resource_type(rule.kind as i8)
        .with_resource_name(text(&rule.name))
        .with_pattern_type(rule.pattern as i8)
        .with_principal(text(&rule.principal))
        .with_host(text(&rule.host))
        .with_operation(rule.operation as i8)
        .with_permission_type(rule.permission as i8)
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let checked = check(cx, Operation::Alter);
    let filters: Vec<Result<Filter, Refusal>> = request
        .filters
        .into_iter()
        .map(|f| {
            checked.clone()?;
            filter((
                f.resource_type_filter,
                f.resource_name_filter,
                f.pattern_type_filter,
                f.principal_filter,
                f.host_filter,
                f.operation,
                f.permission_type,
            ))
        })
        .collect();
    let good: Vec<Filter> = filters.iter().filter_map(|filter| filter.as_ref().ok().cloned()).collect();
    let deleted = if good.is_empty() { Ok(Vec::new()) } else { cx.core.access.delete_rules(&good).await };
    let mut deleted = deleted.map(Vec::into_iter).map_err(|error| {
        tracing::error!(%error, "access rules can't be deleted");
        (Code::KafkaStorageError, "access rules can't be deleted: see the broker's log".to_owned())
    });
    let results = filters.into_iter().map(|filter| {
        let found = match (filter, &mut deleted) {
            (Err(refusal), _) => Err(refusal),
            (Ok(_), Err(refusal)) => Err(refusal.clone()),
            (Ok(_), Ok(deleted)) => Ok(deleted.next().unwrap_or_default()),
        };
        match found {
            Ok(rules) => {
                if !rules.is_empty() {
                    tracing::info!(count = rules.len(), principal = cx.who.name, "access rules deleted");
                }
                let rules = rules.iter().map(matching).collect();
                DeleteAclsFilterResult::default().with_error_message(None).with_matching_acls(rules)
            }
            Err((code, why)) => {
                DeleteAclsFilterResult::default().with_error_code(code.code()).with_error_message(Some(text(&why)))
            }
        }
    });
    DeleteAclsResponse::default().with_filter_results(results.collect())
}
