//! Why a connection ends: reasons for the log line and the metric `millrace_log_connections_ended`.
//!
//! In: faults of frames, requests, TLS and logins. Out: [`Disconnect`]. Touches nothing.

use kafka_protocol::messages::ApiKey;

use crate::protocol::access::login::LoginFault;
use crate::protocol::wire::RequestFault;
use crate::protocol::wire::frame::FrameError;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Disconnect {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] RequestFault),
    #[error("client did not read its response in time")]
    Stalled,
    #[error("writing failed: {0}")]
    Write(std::io::Error),
    #[error("records could not be read: {0}")]
    Records(std::io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(std::io::Error),
    #[error("login timed out")]
    LoginTimeout,
    #[error("login failed: {0}")]
    Login(LoginFault),
    #[error("mechanism `{0}` is not enabled on this listener")]
    Mechanism(String),
    #[error("{0:?} before the login")]
    Unauthenticated(ApiKey),
    #[error("session expired: the client did not log in again in time")]
    Expired,
    #[error("idle while other clients of its address need the connection (limits.max_connections_per_address)")]
    Shed,
    #[error("broker is stopping")]
    Stop,
}

/// All causes that [`Disconnect::cause`] gives.
pub(crate) const CAUSES: [&str; 15] = [
    "client",
    "garbage",
    "idle",
    "stalled",
    "unsupported",
    "unacknowledged",
    "malformed",
    "disk",
    "tls",
    "login_timeout",
    "login",
    "unauthenticated",
    "expired",
    "stop",
    "shed",
];

impl Disconnect {
    /// For the metric.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Frame(FrameError::Closed | FrameError::Io(_)) | Self::Write(_) => "client",
            Self::Frame(FrameError::Size { .. }) => "garbage",
            Self::Frame(FrameError::Idle) => "idle",
            Self::Frame(FrameError::Stalled) | Self::Stalled => "stalled",
            Self::Request(RequestFault::UnservedVersion { .. } | RequestFault::UnknownKey(_)) => "unsupported",
            Self::Request(RequestFault::Unacknowledged(_)) => "unacknowledged",
            Self::Request(_) => "malformed",
            Self::Records(_) => "disk",
            Self::Tls(_) => "tls",
            Self::LoginTimeout => "login_timeout",
            Self::Login(_) | Self::Mechanism(_) => "login",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Expired => "expired",
            Self::Shed => "shed",
            Self::Stop => "stop",
        }
    }
}
