//! AlterUserScramCredentials (key 51), version 0. Sets and deletes salted passwords (KIP-554).
//!
//! Behaviour: needs Alter on the cluster; durable and in force when answered. The client salts, so that the password
//! itself never comes here. A user that one request names twice for a mechanism gets DUPLICATE_RESOURCE; a failure of
//! one of a user's changes is that of all of them, as in Kafka. Users of the configuration file are changed there.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use kafka_protocol::messages::{AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse};

use crate::protocol::access::scram::{Credential, ITERATION_RANGE};
use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::config::listener::Mechanism;
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::error::Refusal;
use crate::protocol::handlers::k50_describe_user_scram_credentials::mechanism;
use crate::protocol::wire::text;

/// Longest name of a user.
const MAX_NAME: usize = 256;

type Change = (String, Mechanism, Option<Credential>);

fn changes(cx: &Context, request: &AlterUserScramCredentialsRequest) -> Vec<(String, Result<Change, Refusal>)> {
    let common = |name: &str, number: i8| -> Result<Mechanism, Refusal> {
        cx.allowed(Operation::Alter, Resource::Cluster).map_err(refused)?;
        if name.is_empty() {
            return Err((Code::UnacceptableCredential, "Username must not be empty".to_owned()));
        }
        if name.len() > MAX_NAME {
            return Err((Code::UnacceptableCredential, format!("Username is longer than {MAX_NAME} bytes")));
        }
        if cx.core.access.is_configured(name) {
            let why =
                format!("user `{name}` stands in millrace's configuration file (`broker.users`): change it there");
            return Err((Code::UnacceptableCredential, why));
        }
        mechanism(number).ok_or_else(|| (Code::UnsupportedSaslMechanism, "Unknown SCRAM mechanism".to_owned()))
    };
    let deletions = request.deletions.iter().map(|asked| {
        let change = common(&asked.name, asked.mechanism).and_then(|mechanism| {
            if cx.core.access.has_scram(&asked.name, mechanism) {
                return Ok((asked.name.to_string(), mechanism, None));
            }
            let why = "Attempt to delete a user credential that does not exist".to_owned();
            Err((Code::ResourceNotFound, why))
        });
        (asked.name.to_string(), change)
    });
    let upsertions = request.upsertions.iter().map(|asked| {
        let change = common(&asked.name, asked.mechanism).and_then(|mechanism| {
            let unacceptable = |why: &str| (Code::UnacceptableCredential, why.to_owned());
            if asked.iterations < *ITERATION_RANGE.start() {
                return Err(unacceptable("Too few iterations"));
            }
            if asked.iterations > *ITERATION_RANGE.end() {
                return Err(unacceptable("Too many iterations"));
            }
            let rounds = u32::try_from(asked.iterations).map_err(|_| unacceptable("Too few iterations"))?;
            let made = Credential::from_salted(mechanism, &asked.salt, &asked.salted_password, rounds);
            let made = made.ok_or_else(|| unacceptable("salt or salted password has a wrong length"))?;
            Ok((asked.name.to_string(), mechanism, Some(made)))
        });
        (asked.name.to_string(), change)
    });
    deletions.chain(upsertions).collect()
}

/// Answers.
pub(crate) async fn handle(
    cx: &Context,
    request: AlterUserScramCredentialsRequest,
) -> AlterUserScramCredentialsResponse {
    let mut seen: BTreeSet<(String, i8)> = BTreeSet::new();
    let mut users: BTreeMap<String, Result<Vec<Change>, Refusal>> = BTreeMap::new();
    let named = request.deletions.iter().map(|d| (d.name.to_string(), d.mechanism));
    let named = named.chain(request.upsertions.iter().map(|u| (u.name.to_string(), u.mechanism)));
    let twice: BTreeSet<String> = named.filter(|pair| !seen.insert(pair.clone())).map(|(user, _)| user).collect();
    for (user, change) in changes(cx, &request) {
        let change = if twice.contains(&user) {
            let why = "A user credential cannot be altered twice in the same request".to_owned();
            Err((Code::DuplicateResource, why))
        } else {
            change
        };
        let all = users.entry(user).or_insert_with(|| Ok(Vec::new()));
        match (all.as_mut(), change) {
            (Ok(list), Ok(change)) => list.push(change),
            (Ok(_), Err(refusal)) => *all = Err(refusal),
            (Err(_), _) => {}
        }
    }
    let good: Vec<Change> = users.values().flatten().flatten().cloned().collect();
    let kept: Result<(), Refusal> = match cx.core.access.alter_scram(good).await {
        Ok(true) => Ok(()),
        Ok(false) => Err((Code::UnacceptableCredential, "there are too many users: delete some".to_owned())),
        Err(error) => {
            tracing::error!(%error, "passwords can't be saved");
            Err((Code::KafkaStorageError, "passwords can't be saved: see the broker's log".to_owned()))
        }
    };
    let results = users.into_iter().map(|(user, all)| {
        let result = AlterUserScramCredentialsResult::default().with_user(text(&user));
        match all.and(kept.clone()) {
            Ok(()) => {
                tracing::info!(user, principal = cx.who.name, "salted password changed");
                result.with_error_message(None)
            }
            Err((code, why)) => result.with_error_code(code.code()).with_error_message(Some(text(&why))),
        }
    });
    AlterUserScramCredentialsResponse::default().with_results(results.collect())
}
