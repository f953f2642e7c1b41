//! DescribeUserScramCredentials (key 50), version 0. Which users have salted passwords, and how (KIP-554).
//!
//! Behaviour: needs Describe on the cluster. Without a list all; a user named twice gets DUPLICATE_RESOURCE, one that
//! has none RESOURCE_NOT_FOUND. Never the passwords themselves.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use kafka_protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::config::listener::Mechanism;
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::wire::text;

/// A mechanism by its number on the wire.
pub(crate) const fn mechanism(number: i8) -> Option<Mechanism> {
    match number {
        1 => Some(Mechanism::Scram256),
        2 => Some(Mechanism::Scram512),
        _ => None,
    }
}

const fn number(mechanism: Mechanism) -> i8 {
    match mechanism {
        Mechanism::Plain => 0,
        Mechanism::Scram256 => 1,
        Mechanism::Scram512 => 2,
    }
}

/// Answers.
pub(crate) fn handle(
    cx: &Context,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let answer = DescribeUserScramCredentialsResponse::default();
    if let Err(code) = cx.allowed(Operation::Describe, Resource::Cluster) {
        return answer.with_error_code(code.code()).with_error_message(Some(text(say(code))));
    }
    let known = cx.core.access.scram_users();
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    match request.users.filter(|users| !users.is_empty()) {
        Some(users) => users.iter().for_each(|user| *asked.entry(user.name.to_string()).or_default() += 1),
        None => asked.extend(known.keys().map(|user| (user.clone(), 1))),
    }
    let results = asked.into_iter().map(|(user, times)| {
        let result = DescribeUserScramCredentialsResult::default().with_user(text(&user));
        let refused =
            |code: Code, why: String| result.clone().with_error_code(code.code()).with_error_message(Some(text(&why)));
        if times > 1 {
            let why = format!("Cannot describe SCRAM credentials for the same user twice in a single request: {user}");
            return refused(Code::DuplicateResource, why);
        }
        let Some(list) = known.get(&user) else {
            let why = format!("Attempt to describe a user credential that does not exist: {user}");
            return refused(Code::ResourceNotFound, why);
        };
        let infos = list.iter().map(|(mechanism, rounds)| {
            CredentialInfo::default()
                .with_mechanism(number(*mechanism))
                .with_iterations(i32::try_from(*rounds).unwrap_or(i32::MAX))
        });
        result.with_error_message(None).with_credential_infos(infos.collect())
    });
    answer.with_error_message(None).with_results(results.collect())
}
