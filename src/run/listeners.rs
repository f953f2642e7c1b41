//! HTTP listeners of the process: bound before anything else, so that a port in use stops the start before a folder is
//! touched; kept over reloads that don't concern them.
//!
//! In: settings. Out: listeners with who may come in; the routes behind them can be replaced. Touches the network.

use std::net::SocketAddr;
use std::time::Duration;

use millrace_doors::access::Access;
use millrace_doors::config::TlsConfig;
use millrace_doors::routes::{LiveRoutes, Routes};
use millrace_doors::serve::{HttpListener, HttpSettings, OpenError, Privacy};
use millrace_doors::tenant::TenantRule;
use millrace_log::record::Tenant;
use serde_json::Value as Json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::part::{Part, Scope};
use crate::config::Settings;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// How long a listener that replaces another at the same address waits for that one to close.
const HANDOVER: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Loki API, page, `/metrics`, `/ready`.
    Loki,
    /// Elasticsearch API.
    Elasticsearch,
    /// Alertmanager API.
    Alertmanager,
    /// `/metrics`, `/ready` and the ledger of a process without an aggregator.
    Status,
}

impl Api {
    /// As logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loki => "Loki API",
            Self::Elasticsearch => "Elasticsearch API",
            Self::Alertmanager => "Alertmanager API",
            Self::Status => "status",
        }
    }
}

/// A listener as the configuration wants it.
#[derive(Clone)]
struct Wanted {
    api: Api,
    settings: HttpSettings,
    /// What is equal here is the same listener.
    values: Json,
}

/// A listener that is bound.
struct Bound {
    wanted: Wanted,
    address: SocketAddr,
    privacy: Privacy,
    routes: LiveRoutes,
    /// Bound and not yet served.
    waiting: Option<HttpListener>,
    /// Ends its stage.
    stop: CancellationToken,
}

/// What became of the listeners.
#[derive(Default)]
pub struct TakenOver {
    /// Those that are new, closed or otherwise than before, with the names of the keys that differ.
    pub changed: Vec<String>,
    /// Those that go on as they were, and why.
    pub failures: Vec<(Api, Failure)>,
}

/// All listeners.
#[derive(Default)]
pub struct Listeners(Vec<Bound>);

impl Listeners {
    /// Binds what the settings want and is not there yet, and gives up what they no longer want. Where an address can't
    /// be bound, the listener before it goes on.
    pub async fn take_over(&mut self, settings: &Settings, scope: Scope, access: &Access) -> TakenOver {
        let wanted = wanted(settings, scope, access);
        let mut taken_over = TakenOver::default();
        self.0.retain(|bound| {
            let stays = wanted.iter().any(|wanted| wanted.api == bound.wanted.api);
            if !stays {
                bound.stop.cancel();
                taken_over.changed.push(format!("listener of the {} (closed)", bound.wanted.api.name()));
            }
            stays
        });
        for wanted in wanted {
            let api = wanted.api;
            let old = self.0.iter().position(|bound| bound.wanted.api == api);
            if old.is_some_and(|at| self.0[at].wanted.values == wanted.values) {
                continue;
            }
            let what = match old {
                Some(at) => differing(&self.0[at].wanted.values, &wanted.values).join(", "),
                None => "opened".to_owned(),
            };
            match self.replace(old, wanted).await {
                Ok(()) => taken_over.changed.push(format!("listener of the {} ({what})", api.name())),
                Err(failure) => taken_over.failures.push((api, failure)),
            }
        }
        taken_over
    }

    async fn replace(&mut self, old: Option<usize>, wanted: Wanted) -> Result<(), Failure> {
        let Some(at) = old else {
            self.0.push(bind(wanted).await?);
            return Ok(());
        };
        if self.0[at].wanted.settings.listen != wanted.settings.listen {
            let new = bind(wanted).await?;
            self.0[at].stop.cancel();
            self.0[at] = new;
            return Ok(());
        }
        // Who may come in has changed at the same address: the old listener closes first. What is wrong with the new
        // settings was found when they were checked; should they fail all the same, the old ones are bound again.
        self.0[at].stop.cancel();
        let before = self.0[at].wanted.clone();
        match bind_once_free(wanted).await {
            Ok(new) => {
                self.0[at] = new;
                Ok(())
            }
            Err(failure) => {
                match bind_once_free(before).await {
                    Ok(old) => self.0[at] = old,
                    // Bound again at the next reload, as one that is not there.
                    Err(_) => drop(self.0.remove(at)),
                }
                Err(failure)
            }
        }
    }

    /// The APIs that have a listener.
    pub fn apis(&self) -> impl Iterator<Item = Api> + use<'_> {
        self.0.iter().map(|bound| bound.wanted.api)
    }

    /// Whether a listener may show records: to this host only, or to those who log in.
    pub fn is_private(&self, api: Api) -> bool {
        self.0.iter().any(|bound| bound.wanted.api == api && bound.privacy.is_private())
    }

    /// The routes behind a listener.
    #[cfg(test)]
    pub fn routes_of(&self, api: Api) -> Vec<millrace_doors::routes::Listed> {
        self.0.iter().filter(|bound| bound.wanted.api == api).flat_map(|bound| bound.routes.list()).collect()
    }

    /// Puts routes behind a listener.
    pub fn route(&self, api: Api, routes: Routes) {
        if let Some(bound) = self.0.iter().find(|bound| bound.wanted.api == api) {
            bound.routes.set(routes);
        }
    }

    /// Serves what is bound and not yet served.
    pub fn serve(&mut self, stages: &mut Stages<Part>) {
        for bound in &mut self.0 {
            let Some(listener) = bound.waiting.take() else { continue };
            let (routes, stop) = (bound.routes.clone(), bound.stop.clone());
            stages.start(Part::Apis, bound.wanted.api.name(), STOP_LIMIT, |token| async move {
                let ending = token.child_token();
                let serving = listener.serve(routes, ending.clone());
                tokio::pin!(serving);
                tokio::select! {
                    ended = &mut serving => return Ok(ended?),
                    () = stop.cancelled() => ending.cancel(),
                }
                serving.await?;
                // Given up by a reload: a stage that ends would end the process.
                token.cancelled().await;
                Ok(())
            });
        }
    }

    /// Where they are.
    pub fn fill(&self, addresses: &mut Addresses) {
        let of = |api: Api| self.0.iter().find(|bound| bound.wanted.api == api).map(|bound| bound.address);
        addresses.http = of(Api::Loki);
        addresses.elasticsearch = of(Api::Elasticsearch);
        addresses.alertmanager = of(Api::Alertmanager);
        addresses.status = of(Api::Status);
    }
}

/// Keys by which two listeners differ: never their values, among which are secrets.
fn differing(before: &Json, now: &Json) -> Vec<String> {
    let keys =
        |values: &Json| values.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = [keys(before), keys(now)].concat();
    all.sort();
    all.dedup();
    all.retain(|key| before.get(key) != now.get(key));
    all
}

async fn bind(wanted: Wanted) -> Result<Bound, Failure> {
    let listener = HttpListener::open_async(wanted.settings.clone()).await.map_err(failure)?;
    Ok(bound(wanted, listener))
}

fn failure(error: OpenError) -> Failure {
    let code = match &error {
        OpenError::InUse { .. } | OpenError::Bind { .. } => Code::Unavailable,
        OpenError::Tls { .. } | OpenError::Login { .. } | OpenError::Exposed { .. } => Code::Config,
    };
    Failure::new(code, error)
}

fn bound(wanted: Wanted, listener: HttpListener) -> Bound {
    let (address, privacy) = (listener.address(), listener.privacy());
    let (routes, stop) = (LiveRoutes::default(), CancellationToken::new());
    Bound { wanted, address, privacy, routes, waiting: Some(listener), stop }
}

/// Binds where a listener of this process is closing.
async fn bind_once_free(wanted: Wanted) -> Result<Bound, Failure> {
    let until = Instant::now() + HANDOVER;
    loop {
        match HttpListener::open_async(wanted.settings.clone()).await {
            Ok(listener) => return Ok(bound(wanted, listener)),
            Err(OpenError::InUse { .. }) if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => return Err(failure(error)),
        }
    }
}

fn wanted(settings: &Settings, scope: Scope, access: &Access) -> Vec<Wanted> {
    let config = &settings.config;
    let value = |path: &[&str]| settings.value(path).clone();
    let values = |paths: &[&[&str]]| -> Json { paths.iter().map(|path| (path.join("."), value(path))).collect() };
    let http = |name: &str, key: &'static str, listen: &str, tls: &Option<TlsConfig>| {
        let mut http = HttpSettings::new(name, key, listen);
        http.access = Some(access.clone());
        http.tls.clone_from(tls);
        http
    };
    let mut all = Vec::new();
    if let Some(broker) = &config.broker
        && let Some(listen) = &broker.server.http
    {
        let settings = http("broker's status", "broker.http", listen, &broker.server.http_tls);
        all.push(Wanted {
            api: Api::Status,
            settings,
            values: values(&[&["broker", "http"], &["broker", "http_tls"]]),
        });
    }
    if scope == Scope::Routes {
        return all;
    }
    if let Some(agent) = &config.agent
        && let Some(listen) = &agent.http
        && all.is_empty()
        && config.aggregator.is_none()
    {
        let mut settings = http("agent's status", "agent.http", listen, &agent.http_tls);
        settings.login = agent.http_auth.clone();
        let values = values(&[&["agent", "http"], &["agent", "http_auth"], &["agent", "http_tls"]]);
        all.push(Wanted { api: Api::Status, settings, values });
    }
    if let Some(aggregator) = &config.aggregator {
        let part = &aggregator.http;
        let mut settings = http(Api::Loki.name(), "aggregator.http.listen", &part.listen, &part.tls);
        settings.login = part.auth.clone();
        settings.has_page = true;
        settings.requests.max_body = part.max_body.0;
        settings.requests.max_body_key = "aggregator.http.max_body";
        settings.requests.max_concurrent = part.max_requests;
        all.push(Wanted { api: Api::Loki, settings, values: value(&["aggregator", "http"]) });
        let part = &aggregator.elasticsearch;
        let key = "aggregator.elasticsearch.listen";
        let mut settings = http(Api::Elasticsearch.name(), key, &part.listen, &part.tls);
        settings.login = part.auth.clone();
        settings.requests.max_body = part.max_body.0;
        settings.requests.max_body_key = "aggregator.elasticsearch.max_body";
        settings.render = millrace_aggregator::elastic::refused;
        settings.requests.max_concurrent = part.max_requests;
        all.push(Wanted { api: Api::Elasticsearch, settings, values: value(&["aggregator", "elasticsearch"]) });
    }
    if let Some(notify) = &config.notify {
        let mut settings = http(Api::Alertmanager.name(), "notify.listen", &notify.listen, &notify.tls);
        // Alerts are those of one tenant: that of the rules.
        let name = config.rules.as_ref().map_or(Tenant::DEFAULT, |rules| rules.tenant.as_str());
        let tenant = Tenant::new(name).unwrap_or_default();
        settings.tenants = TenantRule { header: None, default: Some(tenant.clone()), implied: tenant };
        let values = values(&[&["notify", "listen"], &["notify", "tls"], &["rules", "tenant"]]);
        all.push(Wanted { api: Api::Alertmanager, settings, values });
    }
    all
}
