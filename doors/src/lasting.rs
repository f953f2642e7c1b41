//! Answers that last, such as live tails: they end when whoever asked may no longer ask.
//!
//! In: the gate of a listener, the request, who sent it. Out: the end of a login that was revoked, changed, has expired or logged
//! out. Touches the clock. Looks at each reload and every half minute, without counting what it finds as failed logins.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::body::HttpBody as _;
use axum::response::Response;
use futures::{FutureExt as _, StreamExt as _};
use http::request::Parts;
use http::{HeaderName, header};
use http_body_util::{BodyStream, StreamBody};

use crate::access::book::Book;
use crate::identity::Identity;
use crate::login::Gate;
use crate::stream::Peer;

/// Between two looks, for what ends by the clock.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Whether the login that a request came by is still one. Handlers of WebSockets take it from the request's extensions; bodies
/// without a known length are ended by the [`crate::guard::Guard`].
#[derive(Clone)]
pub struct LoginWatch(Arc<Asked>);

struct Asked {
    gate: Arc<Gate>,
    head: Parts,
    peer: Peer,
    who: Identity,
}

impl LoginWatch {
    /// Watches over the login of a request. Keeps what the gate looks at, not the request.
    pub(crate) fn new(gate: &Arc<Gate>, book: &Book, head: &Parts, peer: &Peer, who: &Identity) -> Self {
        let (mut own, ()) = http::Request::new(()).into_parts();
        let fixed = [header::AUTHORIZATION, header::COOKIE, HeaderName::from_static("x-forwarded-for")];
        for name in fixed.iter().chain(book.proxy_header()) {
            for value in head.headers.get_all(name) {
                own.headers.append(name, value.clone());
            }
        }
        Self(Arc::new(Asked { gate: Arc::clone(gate), head: own, peer: peer.clone(), who: who.clone() }))
    }

    /// Ends when the login has ended.
    pub async fn ended(self) {
        let Asked { gate, head, peer, who } = &*self.0;
        let Some(mut reloads) = gate.access.as_ref().map(|access| access.reloads()) else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                reload = reloads.changed() => if reload.is_err() {
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !gate.knows(head, peer, who).await {
                return;
            }
        }
    }

    /// Ends the body of an answer with the login, if nobody knows how long it is.
    pub(crate) fn over(self, answer: Response) -> Response {
        if answer.body().size_hint().upper().is_some() {
            return answer;
        }
        // Frames, not bytes: answers over gRPC end with trailers.
        answer.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(self.ended().boxed()))))
    }
}
