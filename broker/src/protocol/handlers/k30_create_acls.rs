//! CreateAcls (key 30), versions 1 to 3. Adds access rules (KIP-140).
//!
//! Behaviour: needs Alter on the cluster; durable and in force when answered. A rule that makes no sense is refused
//! alone, the others are made. Versions: 1 patterns (KIP-290), 2 flexible, 3 users as resources.

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};

use crate::protocol::access::Operation;
use crate::protocol::access::acl::{Binding, CLUSTER_NAME, Kind, Pattern, Permission};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::error::Refusal;
use crate::protocol::handlers::k29_describe_acls::check;
use crate::protocol::wire::text;

/// Longest name of a resource, principal or host.
const MAX_NAME: usize = 1024;

fn binding(asked: &AclCreation) -> Result<Binding, Refusal> {
    let refuse = |why: String| (Code::InvalidRequest, why);
    let kind = Kind::of(asked.resource_type);
    let kind = kind.ok_or_else(|| refuse(format!("Invalid resourceType {}", asked.resource_type)))?;
    let pattern = Pattern::of(asked.resource_pattern_type);
    let pattern = pattern.ok_or_else(|| refuse(format!("Invalid patternType {}", asked.resource_pattern_type)))?;
    let operation = Operation::of(asked.operation);
    let operation = operation.ok_or_else(|| refuse(format!("Invalid operation {}", asked.operation)))?;
    let permission = Permission::of(asked.permission_type);
    let permission = permission.ok_or_else(|| refuse(format!("Invalid permissionType {}", asked.permission_type)))?;
    if kind == Kind::Cluster && asked.resource_name.as_str() != CLUSTER_NAME {
        return Err(refuse(format!("The only valid name for the CLUSTER resource is {CLUSTER_NAME}")));
    }
    if asked.resource_name.is_empty() {
        return Err(refuse("Invalid empty resource name".to_owned()));
    }
    let principal = &asked.principal;
    if principal.split_once(':').is_none_or(|(kind, _)| kind.is_empty()) {
        let why = format!(
            "Could not parse principal from `{principal}` (no colon is present separating the principal type from the principal name)"
        );
        return Err(refuse(why));
    }
    if asked.host.is_empty() {
        return Err(refuse("Invalid empty host".to_owned()));
    }
    if [&asked.resource_name, principal, &asked.host].iter().any(|word| word.len() > MAX_NAME) {
        return Err(refuse(format!("a name is longer than {MAX_NAME} bytes")));
    }
    Ok(Binding {
        kind,
        name: asked.resource_name.to_string(),
        pattern,
        principal: principal.to_string(),
        host: asked.host.to_string(),
        operation,
        permission,
    })
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: CreateAclsRequest) -> CreateAclsResponse {
    let checked = check(cx, Operation::Alter);
    let bindings: Vec<Result<Binding, Refusal>> =
        request.creations.iter().map(|asked| checked.clone().and_then(|()| binding(asked))).collect();
    let good: Vec<Binding> = bindings.iter().filter_map(|binding| binding.as_ref().ok().cloned()).collect();
    let count = good.len();
    let made = if good.is_empty() { Ok(true) } else { cx.core.access.add_rules(good).await };
    let made: Result<(), Refusal> = match made {
        Ok(true) => Ok(()),
        Ok(false) => Err((Code::InvalidRequest, "there are too many access rules: delete some".to_owned())),
        Err(error) => {
            tracing::error!(%error, "access rules can't be saved");
            Err((Code::KafkaStorageError, "access rules can't be saved: see the broker's log".to_owned()))
        }
    };
    if count > 0 && made.is_ok() {
        tracing::info!(count, principal = cx.who.name, "access rules added");
    }
    let results = bindings.into_iter().map(|binding| match binding.map(|_| ()).and_then(|()| made.clone()) {
        Ok(()) => AclCreationResult::default().with_error_message(None),
        Err((code, why)) => {
            AclCreationResult::default().with_error_code(code.code()).with_error_message(Some(text(&why)))
        }
    });
    CreateAclsResponse::default().with_results(results.collect())
}
