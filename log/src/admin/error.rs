//! Why an order to a Kafka failed, with what to do about it.
//!
//! In: faults of the network, codes of the protocol. Out: [`AdminError`]. Touches nothing.

use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::ApiKey;

use crate::kafka::ConnectionConfig;
use crate::native::error::WireError;

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No address was given.
    #[error("no broker is named: give one with --brokers HOST:PORT")]
    NoBroker,
    /// No connection.
    #[error("broker {address} can't be reached ({cause}): is it running there, and is the address right?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The cause.
        cause: String,
    },
    /// A connection, and no answer.
    #[error("broker {address} does not answer{hint}")]
    Silent {
        /// Host and port.
        address: String,
        /// What it may be.
        hint: &'static str,
    },
    /// The broker is older than the request.
    #[error("broker {address} does not serve {api} at a version known here: it is too old, or too new")]
    Unsupported {
        /// Host and port.
        address: String,
        /// The request.
        api: String,
    },
    /// Bytes that are no answer.
    #[error("broker {address} answered with something that can't be read ({reason}): is it a Kafka?")]
    Garbage {
        /// Host and port.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// TLS or login can't be set up as told.
    #[error("connection can't be set up: {reason}")]
    Setup {
        /// What was wrong.
        reason: String,
    },
    /// The hand-shake failed.
    #[error("TLS failed: {reason}")]
    Tls {
        /// What was wrong.
        reason: String,
    },
    /// The broker refused the login.
    #[error("broker {address} refused the login of `{user}` by {mechanism}: {reason}")]
    Login {
        /// Host and port.
        address: String,
        /// Whose.
        user: String,
        /// How.
        mechanism: String,
        /// What it said.
        reason: String,
    },
    /// The password can't be read.
    #[error(transparent)]
    Secret(#[from] crate::value::ValueError),
    /// A node id that the cluster never told.
    #[error("node {node} is not part of the cluster any more: try again in a moment")]
    UnknownNode {
        /// Its id.
        node: i32,
    },
    /// The cluster refused.
    #[error("{what}: {brokers} says {name}: {message}{cure}")]
    Refused {
        /// The addresses of the cluster.
        brokers: String,
        /// The thing, e.g. "topic `logs`".
        what: String,
        /// Kafka's name of the code.
        name: String,
        /// Kafka's number of the code.
        code: i16,
        /// The broker's text, or the usual one.
        message: String,
        /// What to do, with what joins it to the text.
        cure: String,
    },
}

impl AdminError {
    /// What a connection says, for those who gave the order.
    pub(super) fn of(error: WireError, config: &ConnectionConfig) -> Self {
        let asks =
            if config.tls { "" } else { ": does the listener ask for TLS (--tls) or a login (--sasl-username)?" };
        match error {
            WireError::Connect { address, cause } => Self::Unreachable { address, cause },
            WireError::Tls { address, cause } => Self::Tls { reason: format!("with {address}: {cause}") },
            WireError::Login { address, mechanism, cause } => {
                Self::Login { address, user: config.sasl_username.clone(), mechanism, reason: cause }
            }
            WireError::Lost { address } => Self::Silent { address, hint: asks },
            WireError::Late { address, .. } => Self::Silent { address, hint: " in time" },
            WireError::Answer { address, cause } => Self::Garbage { address, reason: cause },
            WireError::Version { address, api } => {
                let api = ApiKey::try_from(api).map_or_else(|()| format!("api key {api}"), |api| format!("{api:?}"));
                Self::Unsupported { address, api }
            }
            // What a producer finds out; an order is never told so.
            other @ (WireError::Refused { .. } | WireError::NoLeader | WireError::Ended) => {
                Self::Garbage { address: config.brokers.join(","), reason: other.to_string() }
            }
        }
    }

    pub(super) fn refused(brokers: &str, what: String, code: i16, message: Option<&str>) -> Self {
        let error = code.err().unwrap_or(ResponseError::Unknown(code));
        let known = format!("{error:?}");
        let message = match message.filter(|message| !message.is_empty()) {
            Some(message) => message.trim_end_matches('.').to_owned(),
            None => plain(error).map_or_else(|| format!("code {code}"), str::to_owned),
        };
        let cure = cure(error).map_or_else(String::new, |cure| format!(": {cure}"));
        Self::Refused { brokers: brokers.to_owned(), what, name: screaming(&known), code, message, cure }
    }

    /// Whether the log says that there is no such topic.
    pub fn is_topic_missing(&self) -> bool {
        self.code() == Some(ResponseError::UnknownTopicOrPartition.code())
    }

    /// Whether the log says that there is such a topic already.
    pub fn is_topic_there(&self) -> bool {
        self.code() == Some(ResponseError::TopicAlreadyExists.code())
    }

    /// Kafka's number of the code, if the cluster refused.
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether nobody answered, or refused to talk.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Garbage { .. } | Self::Login { .. } | Self::NoBroker
        )
    }
}

/// `UnknownTopicOrPartition` as Kafka's documents write it.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// Whether the same question may be answered in a moment.
pub(super) fn passes(code: i16) -> bool {
    use ResponseError as E;
    matches!(
        code.err(),
        Some(
            E::CoordinatorLoadInProgress
                | E::CoordinatorNotAvailable
                | E::NotCoordinator
                | E::LeaderNotAvailable
                | E::NotLeaderOrFollower
                | E::OffsetNotAvailable
                | E::NotController
        )
    )
}

fn plain(error: ResponseError) -> Option<&'static str> {
    use ResponseError as E;
    Some(match error {
        E::UnknownTopicOrPartition => "there is no such topic or partition",
        E::OffsetOutOfRange => "the offset is outside of what the partition holds",
        E::GroupIdNotFound => "there is no such group",
        E::NonEmptyGroup => "the group has members",
        E::UnknownMemberId => "the group has members",
        E::TopicAuthorizationFailed | E::GroupAuthorizationFailed | E::ClusterAuthorizationFailed => {
            "this user is not authorized"
        }
        E::InvalidConfig => "invalid setting",
        E::PolicyViolation => "a policy of the cluster forbids it",
        E::CoordinatorNotAvailable | E::CoordinatorLoadInProgress => "the group coordinator is not available yet",
        _ => return None,
    })
}

fn cure(error: ResponseError) -> Option<&'static str> {
    use ResponseError as E;
    Some(match error {
        E::UnknownTopicOrPartition => "see `millrace broker topics list`",
        E::TopicAlreadyExists => "change it with `millrace broker topics alter`",
        E::GroupIdNotFound => "see `millrace broker groups list`",
        E::NonEmptyGroup | E::UnknownMemberId | E::RebalanceInProgress => "stop its consumers first",
        E::TopicAuthorizationFailed | E::GroupAuthorizationFailed | E::ClusterAuthorizationFailed => {
            "log in as another user (--sasl-username), or grant this user the permission"
        }
        E::InvalidReplicationFactor => "no more replicas than brokers: leave --replication out",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_thing_code_and_cure() {
        let text = AdminError::refused("k:9092", "topic `nope`".to_owned(), 3, None).to_string();
        assert_eq!(
            text,
            "topic `nope`: k:9092 says UNKNOWN_TOPIC_OR_PARTITION: there is no such topic or partition: see `millrace \
             broker topics list`"
        );
        let text = AdminError::refused("k:9092", "topic `a`".to_owned(), 40, Some("Unknown config x.")).to_string();
        assert_eq!(text, "topic `a`: k:9092 says INVALID_CONFIG: Unknown config x");
    }
}
