//! What can go wrong between this client and one broker.
//!
//! Out: [`WireError`], each text with its cause. Touches nothing.

use kafka_protocol::ResponseError as Code;

/// Why a request got no useful answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WireError {
    /// No connection.
    #[error("can't connect to {address}: {cause}")]
    Connect {
        /// The broker.
        address: String,
        /// The cause.
        cause: String,
    },
    /// The TLS hand-shake failed.
    #[error("TLS with {address} failed: {cause}")]
    Tls {
        /// The broker.
        address: String,
        /// The cause.
        cause: String,
    },
    /// The broker does not believe who we are.
    #[error("{address} refused the login by {mechanism}: {cause}")]
    Login {
        /// The broker.
        address: String,
        /// The mechanism.
        mechanism: String,
        /// What it said.
        cause: String,
    },
    /// The connection ended before the answer: what was asked may have been done.
    #[error("connection to {address} ended before the answer")]
    Lost {
        /// The broker.
        address: String,
    },
    /// No answer in time: what was asked may have been done.
    #[error("{address} did not answer within {seconds} s")]
    Late {
        /// The broker.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// An answer that can't be read.
    #[error("unreadable answer from {address} ({cause}): is it a Kafka broker?")]
    Answer {
        /// The broker.
        address: String,
        /// The cause.
        cause: String,
    },
    /// The broker does not speak a version that we do.
    #[error("{address} has no version of API {api} that this client speaks: Apache Kafka 2.1 or later is required")]
    Version {
        /// The broker.
        address: String,
        /// The API key.
        api: i16,
    },
    /// A refusal with Kafka's code.
    #[error("{message} ({code:?})")]
    Refused {
        /// Kafka's code.
        code: Code,
        /// In words.
        message: String,
    },
    /// Nobody leads the partition at the moment.
    #[error("partition has no leader at the moment")]
    NoLeader,
    /// The client has ended.
    #[error("client of the log has ended")]
    Ended,
}

impl WireError {
    /// A refusal by its code.
    pub fn refused(code: Code, message: Option<&str>) -> Self {
        let message = message.filter(|text| !text.is_empty()).map_or_else(|| code.to_string(), str::to_owned);
        Self::Refused { code, message }
    }

    /// Kafka's code, if a broker refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether a broker answered, with a refusal.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Login { .. } | Self::Version { .. } | Self::NoLeader => true,
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Lost { .. }
            | Self::Late { .. }
            | Self::Answer { .. }
            | Self::Ended => false,
        }
    }

    /// Whether the same request may succeed in a moment.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Version { .. } | Self::Login { .. } | Self::Ended => false,
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Lost { .. }
            | Self::Late { .. }
            | Self::Answer { .. }
            | Self::NoLeader => true,
        }
    }

    /// Whether the records themselves are refused, not the moment, the right or the connection.
    pub fn blames_records(&self) -> bool {
        matches!(
            self.code(),
            Some(
                Code::MessageTooLarge
                    | Code::RecordListTooLarge
                    | Code::CorruptMessage
                    | Code::InvalidRecord
                    | Code::InvalidTimestamp
                    | Code::PolicyViolation
                    | Code::UnsupportedForMessageFormat
            )
        )
    }

    /// Whether a newer owner of a transactional or instance id has taken over.
    pub fn is_fenced(&self) -> bool {
        matches!(self.code(), Some(Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId))
    }
}
