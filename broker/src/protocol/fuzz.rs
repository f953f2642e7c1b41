//! Fuzz target `frame`: any bytes as a request.
//!
//! In: the bytes of one frame. Out: a panic if a promise is broken: reading a request never panics, a body whose shape is
//! right is decoded or refused, and what was decoded has the right shape when it is encoded again. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, RequestKind};
use kafka_protocol::protocol::{Encodable as _, StrBytes};

use crate::fuzz_input::Choices;
use crate::protocol::wire::apis::{self, APIS};
use crate::protocol::wire::{Request, count_records};

/// Feeds the bytes to the way in.
pub(crate) fn frame(bytes: &[u8]) {
    let Ok(request) = Request::read(Bytes::copy_from_slice(bytes)) else { return };
    let version = request.version;
    let Ok(decoded) = RequestKind::decode(request.key, &mut request.body.clone(), version) else { return };
    if let RequestKind::Produce(produce) = &decoded {
        for part in produce.topic_data.iter().flat_map(|topic| &topic.partition_data) {
            let _any = count_records(part.records.as_deref().unwrap_or_default());
        }
    }
    let mut again = BytesMut::new();
    if decoded.encode(&mut again, version).is_err() {
        return;
    }
    let api = apis::find(request.key).unwrap();
    let flexible = request.key.request_header_version(version) >= 2;
    let checked = api.shape.check(&again, version, flexible);
    assert!(checked.is_ok(), "{checked:?}: shape of {decoded:?} at version {version} does not fit");
}

/// Requests of every API at every version with arrays of different lengths.
pub(crate) fn frame_seeds(number: u64) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut state = number;
    for api in APIS.iter() {
        for version in api.min..=api.max {
            for _ in 0..2 {
                let drawn: Vec<u8> = std::iter::repeat_with(|| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .take(200)
                .collect();
                let header_version = api.key.request_header_version(version);
                let header = RequestHeader::default()
                    .with_request_api_key(api.key as i16)
                    .with_request_api_version(version)
                    .with_client_id(Some(StrBytes::from_static_str("fuzz")));
                let mut frame = BytesMut::new();
                header.encode(&mut frame, header_version).unwrap();
                let body = api.shape.sample(version, header_version >= 2, &mut Choices(&drawn));
                assert!(api.shape.check(&body, version, header_version >= 2).is_ok(), "{:?} {version}", api.key);
                frame.extend_from_slice(&body);
                seeds.push(frame.to_vec());
            }
        }
    }
    seeds
}
