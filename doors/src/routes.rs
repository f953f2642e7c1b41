//! Routes of an API, each with what its callers must be allowed to do: none can be added, or served, without.
//!
//! In: handlers with a [`Need`]. Out: [`Routes`] for a listener, which can be replaced while it serves
//! ([`LiveRoutes`]), and the list of them for tests. Touches nothing.
//!
//! The check stands directly in front of each handler, so that no nesting, merging or layer gets around it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, Route as AxumRoute, any, on};
use http::{Method, StatusCode};
use parking_lot::RwLock;
use tower::{Layer, Service, ServiceExt as _};

use crate::browser::Bodies;
use crate::identity::{Identity, Role};
use crate::refusal::Refusal;
use crate::tenant::{SeveralTenants, TENANT_HEADER};

/// What callers of a route must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing, not even a login. Nothing of anybody's may be shown.
    Public,
    /// A login, whatever its roles.
    Login,
    /// The same, also for several tenants at once ([`SeveralTenants`]): the handler looks at no tenant's data.
    LoginJoined,
    /// Role `read`; the handler keeps to the tenant and to the selector.
    Read,
    /// The same, also for several tenants at once ([`SeveralTenants`]): the handler joins what each of them has.
    ReadJoined,
    /// Views of the whole process: role `admin`, or `read` for all tenants and streams.
    Whole,
    /// Role `write`.
    Write(Bodies),
    /// Role `silence`.
    Silence(Bodies),
    /// Role `admin`.
    Admin(Bodies),
}

impl Need {
    /// As tests and refusals name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Login | Self::LoginJoined => "login",
            Self::Read | Self::ReadJoined => "read",
            Self::Whole => "whole",
            Self::Write(_) => "write",
            Self::Silence(_) => "silence",
            Self::Admin(_) => "admin",
        }
    }

    /// Whether somebody has it.
    pub fn is_met(self, who: &Identity) -> bool {
        match self {
            Self::Public | Self::Login | Self::LoginJoined => true,
            Self::Read | Self::ReadJoined => who.rights.has(Role::Read),
            Self::Whole => who.rights.has_whole(Role::Read),
            Self::Write(_) => who.rights.has(Role::Write),
            Self::Silence(_) => who.rights.has(Role::Silence),
            Self::Admin(_) => who.rights.has(Role::Admin),
        }
    }

    /// Whether a route takes requests that name several tenants. Handlers of the others would take them for requests that
    /// name none, and answer for the default tenant.
    pub fn takes_several(self) -> bool {
        matches!(self, Self::ReadJoined | Self::LoginJoined | Self::Public)
    }

    fn check(self, request: &Request) -> Result<(), Refusal> {
        let who = match request.extensions().get::<Identity>() {
            Some(who) => who,
            None if self == Self::Public => return Ok(()),
            None => return Err(Refusal::new(StatusCode::UNAUTHORIZED, "login required")),
        };
        if !self.is_met(who) {
            let wanted = match self {
                Self::Whole => "`admin`, or `read` for all tenants without a selector",
                need => return Err(Refusal::lacking(who, need.name())),
            };
            let text = format!("`{}` may not do this: it needs the role {wanted}", who.name);
            return Err(Refusal::new(StatusCode::FORBIDDEN, text));
        }
        if !self.takes_several() && request.extensions().get::<SeveralTenants>().is_some() {
            // Begins with Loki's text.
            let text =
                format!("multiple org IDs present: this endpoint is for one tenant, name one in {TENANT_HEADER}");
            return Err(Refusal::bad(text));
        }
        match self {
            Self::Write(bodies) | Self::Silence(bodies) | Self::Admin(bodies) => {
                let has_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
                if has_body { bodies.check(request.headers()) } else { Ok(()) }
            }
            Self::Public | Self::Login | Self::LoginJoined | Self::Read | Self::ReadJoined | Self::Whole => Ok(()),
        }
    }
}

/// Methods of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// `GET` and `HEAD`.
    Get,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `GET`, `HEAD` and `POST`: questions, whose parameters may be long.
    GetPost,
    /// `POST` and `PUT`.
    PostPut,
    /// Every one.
    Any,
}

impl Methods {
    /// Their names.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Get => &["GET"],
            Self::Post => &["POST"],
            Self::Put => &["PUT"],
            Self::Delete => &["DELETE"],
            Self::GetPost => &["GET", "POST"],
            Self::PostPut => &["POST", "PUT"],
            Self::Any => &["ANY"],
        }
    }

    fn route<H, T, S>(self, handler: H) -> MethodRouter<S>
    where
        H: Handler<T, S>,
        T: 'static,
        S: Clone + Send + Sync + 'static,
    {
        let filter = match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
            Self::GetPost => MethodFilter::GET.or(MethodFilter::POST),
            Self::PostPut => MethodFilter::POST.or(MethodFilter::PUT),
            Self::Any => return any(handler),
        };
        on(filter, handler)
    }
}

/// A route as tests list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its methods.
    pub methods: Methods,
    /// Its path; `*` for what no other route takes.
    pub path: String,
    /// What callers need.
    pub need: Need,
}

/// Routes of an API with what their callers need.
#[derive(Clone)]
pub struct Routes<S = ()> {
    router: Router<S>,
    list: Vec<Listed>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet.
    pub fn new() -> Self {
        Self { router: Router::new(), list: Vec::new() }
    }

    /// Adds a route. A path can be given several times, for different methods.
    #[must_use]
    pub fn on<H, T>(mut self, need: Need, methods: Methods, path: &str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let check = from_fn(move |request, next| guarded(need, request, next));
        let route = methods.route(handler);
        // What takes every method is a fallback, which a layer of routes would leave out.
        let route = if methods == Methods::Any { route.layer(check) } else { route.route_layer(check) };
        self.router = self.router.route(path, route);
        self.list.push(Listed { methods, path: path.to_owned(), need });
        self
    }

    /// What answers requests that no route takes.
    #[must_use]
    pub fn fallback<H, T>(mut self, need: Need, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let route: MethodRouter<S> = any(handler).layer(from_fn(move |request, next| guarded(need, request, next)));
        self.router = self.router.fallback(route);
        self.list.push(Listed { methods: Methods::Any, path: "*".to_owned(), need });
        self
    }

    /// What answers requests of a known path whose method no route takes. It sees nothing of anybody's.
    #[must_use]
    pub fn method_not_allowed<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.router = self.router.method_not_allowed_fallback(handler);
        self
    }

    /// Puts all routes of another API below a path.
    #[must_use]
    pub fn nest(mut self, path: &str, routes: Self) -> Self {
        self.list.extend(routes.list.into_iter().map(|route| {
            let below = if route.path == "*" { "/*" } else { &route.path };
            Listed { path: format!("{path}{below}"), ..route }
        }));
        self.router = self.router.nest(path, routes.router);
        self
    }

    /// Adds all routes of another API.
    #[must_use]
    pub fn merge(mut self, routes: Self) -> Self {
        self.router = self.router.merge(routes.router);
        self.list.extend(routes.list);
        self
    }

    /// Puts a layer around all routes; what they need is checked inside of it.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<AxumRoute> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router = self.router.layer(layer);
        self
    }

    /// Gives the handlers their state.
    #[must_use]
    pub fn with_state<S2>(self, state: S) -> Routes<S2> {
        Routes { router: self.router.with_state(state), list: self.list }
    }

    /// All routes.
    pub fn list(&self) -> &[Listed] {
        &self.list
    }
}

impl Routes {
    /// The router as somebody sees it who may do everything, unless the request says who asks: for tests of handlers,
    /// without a listener.
    pub fn open_for_tests(self) -> Router {
        self.router.layer(from_fn(async |mut request: Request, next: Next| {
            if request.extensions().get::<Identity>().is_none() {
                request.extensions_mut().insert(Identity::unlimited(Identity::ANONYMOUS));
            }
            next.run(request).await
        }))
    }
}

async fn guarded(need: Need, request: Request, next: Next) -> Response {
    match need.check(&request) {
        Ok(()) => {
            let mut answer = next.run(request).await;
            if matches!(need, Need::Silence(_) | Need::Admin(_)) {
                // For the audit events of the guard.
                answer.extensions_mut().insert(need);
            }
            answer
        }
        Err(refusal) => refusal.marked(),
    }
}

/// Routes that can be replaced while a listener serves them. Cheap to clone.
#[derive(Clone, Default)]
pub struct LiveRoutes(Arc<RwLock<Routes>>);

impl From<Routes> for LiveRoutes {
    fn from(routes: Routes) -> Self {
        Self(Arc::new(RwLock::new(routes)))
    }
}

impl LiveRoutes {
    /// From now on requests meet these routes; those on their way keep theirs.
    pub fn set(&self, routes: Routes) {
        *self.0.write() = routes;
    }

    /// All routes that there are now.
    pub fn list(&self) -> Vec<Listed> {
        self.0.read().list.clone()
    }

    /// Whether a request needs no login.
    pub(crate) fn is_public(&self, method: &Method, path: &str) -> bool {
        let is_get = matches!(*method, Method::GET | Method::HEAD);
        is_get && self.0.read().list.iter().any(|route| route.need == Need::Public && route.path == path)
    }
}

impl Service<Request> for LiveRoutes {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let router = self.0.read().router.clone();
        Box::pin(router.oneshot(request))
    }
}

#[cfg(test)]
mod tests;
