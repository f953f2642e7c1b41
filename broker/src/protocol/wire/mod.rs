//! Kafka's wire format: frames, shapes and versions of requests, encoding of responses.
//!
//! In: bytes of a socket. Out: [`Request`]s whose shape was checked, framed responses. Touches the socket only through
//! [`frame`]. What a request means is left to the handlers.

/// Shape of a request: checked before a decoder may allocate memory for it.
pub(crate) mod shape;
/// Table of served API keys with their versions and shapes.
pub(crate) mod apis;
/// Frames: four bytes of length, then a request.
pub(crate) mod frame;
/// Header and body of a request; framed responses.
mod request;
/// Responses, with record batches that are still on disk.
pub(crate) mod reply;

pub(crate) use request::{Request, RequestFault, count_records, framed, once, text};
