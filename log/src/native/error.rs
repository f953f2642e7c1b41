//! What can go wrong between this client and one broker, and how it looks to the callers of
//! [`crate::client::BatchProducer`].
//!
//! Out: [`WireError`], each text with its cause. Touches nothing.

use kafka_protocol::ResponseError as Code;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// Why a request got no useful answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WireError {
    /// No connection.
    #[error("{address} can't be reached: {cause}")]
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
    #[error("{address} answered what can't be read ({cause}): is it a Kafka broker?")]
    Answer {
        /// The broker.
        address: String,
        /// The cause.
        cause: String,
    },
    /// The broker does not speak a version that we do.
    #[error("{address} has no version of API {api} that this client speaks: it must be Apache Kafka 2.1 or later")]
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
}

impl WireError {
    /// A refusal by its code.
    pub fn refused(code: Code, message: Option<&str>) -> Self {
        let message = message.filter(|text| !text.is_empty()).map_or_else(|| code.to_string(), str::to_owned);
        Self::Refused { code, message }
    }

    /// The nearest that the other client of the log has, so that callers need one kind only.
    pub fn to_kafka(&self) -> KafkaError {
        let code = match self {
            Self::Refused { code, .. } => rdkafka::bindings::rd_kafka_resp_err_t::try_from(i32::from(code.code()))
                .map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from),
            Self::Login { .. } => RDKafkaErrorCode::Authentication,
            Self::Tls { .. } => RDKafkaErrorCode::SSL,
            Self::Late { .. } => RDKafkaErrorCode::MessageTimedOut,
            Self::Version { .. } => RDKafkaErrorCode::UnsupportedFeature,
            Self::NoLeader => RDKafkaErrorCode::LeaderNotAvailable,
            Self::Connect { .. } | Self::Lost { .. } | Self::Answer { .. } => RDKafkaErrorCode::BrokerTransportFailure,
        };
        KafkaError::MessageProduction(code)
    }
}
