//! Kafka requests and responses: header and body of a request, encoding of a response into a frame.
//!
//! In: the bytes of one frame. Out: [`Request`]s whose shape was checked; framed responses. Touches nothing. What a request
//! means is left to the handlers.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

use crate::protocol::wire::apis;
use crate::protocol::wire::shape::ShapeError;

/// A request whose header was read and whose body has the right shape.
#[derive(Debug)]
pub(crate) struct Request {
    pub key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: String,
    pub body: Bytes,
    /// Of all arrays in it.
    pub elements: usize,
}

/// Why a request ends its connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestFault {
    #[error("frame of {0} bytes is too short for a request")]
    Short(usize),
    #[error("api key {0} is unknown")]
    UnknownKey(i16),
    #[error("{key:?} is not served at version {version}")]
    UnservedVersion { key: ApiKey, version: i16, correlation_id: i32 },
    #[error("{key:?} version {version}: {source}")]
    Shape {
        key: ApiKey,
        version: i16,
        #[source]
        source: ShapeError,
    },
    #[error("{key:?} version {version} can't be decoded: {reason}")]
    Decode { key: ApiKey, version: i16, reason: String },
    #[error("answer to {key:?} version {version} can't be encoded: {reason}")]
    Encode { key: ApiKey, version: i16, reason: String },
    #[error("produce with acks=0 failed, so the connection is closed: {0}")]
    Unacknowledged(String),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Request {
    /// Reads the header of a frame and checks the body's shape.
    pub fn read(frame: Bytes) -> Result<Self, RequestFault> {
        let short = || RequestFault::Short(frame.len());
        let key = i16::from_be_bytes(number(&frame, 0).ok_or_else(short)?);
        let version = i16::from_be_bytes(number(&frame, 2).ok_or_else(short)?);
        let correlation_id = i32::from_be_bytes(number(&frame, 4).ok_or_else(short)?);
        let key = ApiKey::try_from(key).map_err(|()| RequestFault::UnknownKey(key))?;
        let api = apis::find(key).ok_or(RequestFault::UnknownKey(key as i16))?;
        if !(api.min..=api.max).contains(&version) {
            return Err(RequestFault::UnservedVersion { key, version, correlation_id });
        }
        let header_version = key.request_header_version(version);
        let fault = |e: anyhow_free::Text| RequestFault::Decode { key, version, reason: e.0 };
        let mut body = frame;
        let header = RequestHeader::decode(&mut body, header_version).map_err(|e| fault(anyhow_free::Text::of(&e)))?;
        let checked = api.shape.check(&body, version, header_version >= 2);
        let elements = checked.map_err(|source| RequestFault::Shape { key, version, source })?;
        let client_id = header.client_id.as_ref().map(ToString::to_string).unwrap_or_default();
        Ok(Self { key, version, correlation_id, client_id, body, elements })
    }

    /// Decodes the body.
    pub fn decode<T: Decodable>(&self) -> Result<T, RequestFault> {
        T::decode(&mut self.body.clone(), self.version).map_err(|e| RequestFault::Decode {
            key: self.key,
            version: self.version,
            reason: anyhow_free::Text::of(&e).0,
        })
    }

    /// Frames the answer.
    pub fn answer<T: Encodable + HeaderVersion>(&self, answer: &T) -> Result<Bytes, RequestFault> {
        framed(self.correlation_id, self.version, answer).map_err(|reason| RequestFault::Encode {
            key: self.key,
            version: self.version,
            reason,
        })
    }
}

/// Length, header and body of an answer.
pub(crate) fn framed<T: Encodable + HeaderVersion>(
    correlation_id: i32,
    version: i16,
    answer: &T,
) -> Result<Bytes, String> {
    let text = |e| anyhow_free::Text::of(&e).0;
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let header_version = T::header_version(version);
    let size = answer.compute_size(version).map_err(text)? + header.compute_size(header_version).map_err(text)?;
    let mut out = BytesMut::with_capacity(size + 4);
    out.extend_from_slice(&i32::try_from(size).map_err(|_| "over 2 GiB".to_owned())?.to_be_bytes());
    header.encode(&mut out, header_version).map_err(text)?;
    answer.encode(&mut out, version).map_err(text)?;
    if out.len() != size + 4 {
        return Err(format!("encoded to {} bytes instead of {}", out.len() - 4, size));
    }
    Ok(out.freeze())
}

/// The codec reports errors by a type of a crate that only the binary may use: they pass through here as text.
mod anyhow_free {
    pub(crate) struct Text(pub String);

    impl Text {
        pub(crate) fn of(error: &impl std::fmt::Display) -> Self {
            Self(error.to_string())
        }
    }
}

/// Leaves out what a list names again: a request of a few bytes each must not ask for a large answer many times over.
pub(crate) fn once<T, K: std::hash::Hash + Eq>(list: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    list.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// A string as the codec has it.
pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// Sum of the record counts in the headers of whole batches, for metrics.
pub(crate) fn count_records(batches: &[u8]) -> u64 {
    let mut rest = batches;
    let mut records = 0;
    while let (Some(length), Some(count)) = (number(rest, 8), number(rest, 57)) {
        records += u64::try_from(i32::from_be_bytes(count)).unwrap_or(0);
        let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else { break };
        rest = rest.get(12 + length..).unwrap_or_default();
    }
    records
}
