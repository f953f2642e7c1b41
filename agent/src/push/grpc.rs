//! One method of gRPC whose messages are decoded by its handler, so that their memory can be reserved before.
//!
//! In: a request of HTTP/2. Out: its message as bytes to a handler, the handler's answer. Touches nothing. Frames,
//! compression and status are tonic's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf as _, BufMut as _, Bytes};
use futures::StreamExt as _;
use http::{Request, StatusCode};
use millrace_doors::refusal::Refusal;
use millrace_log::push::{DecodeBudget, Reserved};
use parking_lot::Mutex;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EnabledCompressionEncodings, EncodeBuf, Encoder};
use tonic::{Code, Status};
use tower_service::Service;

/// Messages as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;

/// A handler as tonic calls it.
struct Unary<H> {
    handler: Option<H>,
    memory: Arc<Mutex<Reserved>>,
    budget: DecodeBudget,
}

impl<H, F> Service<tonic::Request<Bytes>> for Unary<H>
where
    H: FnOnce(Bytes, http::Extensions, Reserved) -> F,
    F: Future<Output = Result<Bytes, Status>> + Send + 'static,
{
    type Response = tonic::Response<Bytes>;
    type Error = Status;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Answer {
        let Some(handler) = self.handler.take() else {
            return Box::pin(async { Err(Status::internal("called twice")) });
        };
        let memory = std::mem::replace(&mut *self.memory.lock(), self.budget.begin());
        let (_, extensions, message) = request.into_parts();
        let answer = handler(message, extensions, memory);
        Box::pin(async move { answer.await.map(tonic::Response::new) })
    }
}

/// What clients may repeat is `UNAVAILABLE`: `RESOURCE_EXHAUSTED` says that only with a `RetryInfo`.
pub(super) fn code_of(refusal: &Refusal) -> Code {
    match refusal.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

/// A refusal as gRPC says it.
pub(super) fn status(refusal: &Refusal) -> Status {
    Status::new(code_of(refusal), refusal.text.clone())
}

/// Answers by `handler`, which gets the message, decompressed to `max` bytes at most, with the memory that is reserved for
/// what came.
pub(super) async fn unary<H, F>(request: Request<Body>, max: usize, budget: &DecodeBudget, handler: H) -> Response
where
    H: FnOnce(Bytes, http::Extensions, Reserved) -> F + Send,
    F: Future<Output = Result<Bytes, Status>> + Send + 'static,
{
    let memory = Arc::new(Mutex::new(budget.begin()));
    let counted = Arc::clone(&memory);
    let request = request.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |data| {
            let data = data.map_err(|error| Status::unavailable(format!("message can't be read: {error}")))?;
            let reserved = counted.lock().grow(data.len() as u64);
            reserved.map_err(|why| status(&Refusal::from(why)))?;
            Ok::<_, Status>(data)
        }))
    });
    let mut accepted = EnabledCompressionEncodings::default();
    accepted.enable(CompressionEncoding::Gzip);
    accepted.enable(CompressionEncoding::Zstd);
    let mut server = tonic::server::Grpc::new(Raw)
        .apply_compression_config(accepted, EnabledCompressionEncodings::default())
        .apply_max_message_size_config(Some(max), None);
    let service = Unary { handler: Some(handler), memory, budget: budget.clone() };
    server.unary(service, request).await.map(Body::new)
}

#[cfg(test)]
mod tests {
    use millrace_log::push::PushError;

    use super::*;

    #[test]
    fn what_can_never_be_taken_is_not_to_be_repeated() {
        let code = |why: PushError| status(&Refusal::from(why)).code();
        assert_eq!(code(PushError::Costly { found: 2, allowed: 1 }), Code::ResourceExhausted);
        assert_eq!(code(PushError::Busy { allowed: 1 }), Code::Unavailable);
    }
}
