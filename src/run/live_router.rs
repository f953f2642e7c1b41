//! A router that can be replaced while its listener serves: parts come and go behind a connection that stays.
//!
//! In: the routes of the parts that run now. Out: a [`Router`] for a listener. Touches nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use parking_lot::RwLock;
use tower::{Service, ServiceExt as _};

/// The routes of a listener. Cheap to clone.
#[derive(Clone, Default)]
pub struct LiveRouter(Arc<RwLock<Router>>);

impl LiveRouter {
    /// From now on requests meet these routes; those on their way keep theirs.
    pub fn set(&self, router: Router) {
        *self.0.write() = router;
    }

    /// For the listener.
    pub fn router(&self) -> Router {
        Router::new().fallback_service(self.clone())
    }
}

impl Service<Request> for LiveRouter {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let router = self.0.read().clone();
        Box::pin(router.oneshot(request))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn routes_are_replaced_behind_a_router_that_stays() {
        let live = LiveRouter::default();
        let served = live.router();
        let ask = |path: &'static str| {
            let served = served.clone();
            async move { served.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap().status().as_u16() }
        };
        assert_eq!(ask("/a").await, 404);
        live.set(Router::new().route("/a", get(|| async { "a" })));
        assert_eq!(ask("/a").await, 200);
        live.set(Router::new().route("/b", get(|| async { "b" })));
        assert_eq!((ask("/a").await, ask("/b").await), (404, 200));
    }
}
