//! DescribeAcls (key 29), versions 1 to 3. Access rules that a filter means (KIP-140).
//!
//! Behaviour: needs Describe on the cluster; SECURITY_DISABLED while rules are not enforced. Versions: 1 patterns
//! (KIP-290), 2 flexible, 3 users as resources.

use kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::protocol::access::acl::{Filter, Kind, PatternFilter, Permission};
use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::error::Refusal;
use crate::protocol::wire::text;

/// The number that means all of a kind.
const ANY: i8 = 1;

/// What a filter is on the wire: kind, name, pattern, principal, host, operation, permission.
pub(crate) type WireFilter = (i8, Option<StrBytes>, i8, Option<StrBytes>, Option<StrBytes>, i8, i8);

/// A filter of the wire.
pub(crate) fn filter(parts: WireFilter) -> Result<Filter, Refusal> {
    fn part<T>(number: i8, of: fn(i8) -> Option<T>) -> Result<Option<T>, Refusal> {
        if number == ANY {
            return Ok(None);
        }
        let refused = || (Code::InvalidRequest, "The filter contains UNKNOWN elements.".to_owned());
        of(number).map(Some).ok_or_else(refused)
    }
    let (kind, name, pattern, principal, host, operation, permission) = parts;
    let word = |word: Option<StrBytes>| word.map(|word| word.to_string());
    let no_pattern = || (Code::InvalidRequest, "The filter contains UNKNOWN elements.".to_owned());
    Ok(Filter {
        kind: part(kind, Kind::of)?,
        name: word(name),
        pattern: PatternFilter::of(pattern).ok_or_else(no_pattern)?,
        principal: word(principal),
        host: word(host),
        operation: part(operation, Operation::of)?,
        permission: part(permission, Permission::of)?,
    })
}

/// What all three APIs of access rules need: that rules are enforced, and a right on the cluster.
pub(crate) fn check(cx: &Context, operation: Operation) -> Result<(), Refusal> {
    cx.allowed(operation, Resource::Cluster).map_err(refused)?;
    if !cx.core.access.is_enforced() {
        let why = "No Authorizer is configured: set `broker.authorization.enabled` in millrace's configuration file";
        return Err((Code::SecurityDisabled, why.to_owned()));
    }
    Ok(())
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeAclsRequest) -> DescribeAclsResponse {
    let asked = check(cx, Operation::Describe).and_then(|()| {
        filter((
            request.resource_type_filter,
            request.resource_name_filter,
            request.pattern_type_filter,
            request.principal_filter,
            request.host_filter,
            request.operation,
            request.permission_type,
        ))
    });
    let answer = DescribeAclsResponse::default();
    let filter = match asked {
        Ok(filter) => filter,
        Err((code, why)) => return answer.with_error_code(code.code()).with_error_message(Some(text(&why))),
    };
    // Rules are sorted by resource, so those of one stand together.
    let mut resources: Vec<DescribeAclsResource> = Vec::new();
    for rule in cx.core.access.rules(&filter) {
        let acl = AclDescription::default()
            .with_principal(text(&rule.principal))
            .with_host(text(&rule.host))
            .with_operation(rule.operation as i8)
            .with_permission_type(rule.permission as i8);
        let (kind, pattern) = (rule.kind as i8, rule.pattern as i8);
        match resources.last_mut() {
            Some(last)
                if last.resource_type == kind && *last.resource_name == *rule.name && last.pattern_type == pattern =>
            {
                last.acls.push(acl);
            }
            _ => resources.push(
                DescribeAclsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(&rule.name))
                    .with_pattern_type(pattern)
                    .with_acls(vec![acl]),
            ),
        }
    }
    answer.with_error_message(None).with_resources(resources)
}
