//! Every endpoint of a process × everybody who may ask: nobody, somebody unknown, somebody of another tenant, each role.
//!
//! The endpoints are those that the listeners of a running process list, so that a new one fails here until it has its
//! line below.

/// Audit events of a whole process.
mod audited;
/// Whose the alerts of rules are, and what is said of late groups.
mod rules;

use std::net::SocketAddr;

use futures::StreamExt as _;
use millrace_doors::access::config::{AccessConfig, TokenConfig};
use millrace_doors::access::hash::TokenHash;
use millrace_doors::identity::Role;
use millrace_doors::routes::{Listed, Methods, Need};
use millrace_log::value::Secret;

use super::Process;
use super::listeners::Api;
use super::part::{Part, Scope};
use crate::config::Config;

const LOKI: &str = "\
POST /loki/api/v1/push write
GET|POST /loki/api/v1/query read a|b
GET|POST /loki/api/v1/query_range read a|b
GET|POST /loki/api/v1/labels read a|b
GET|POST /loki/api/v1/label read a|b
GET|POST /loki/api/v1/label/{name}/values read a|b
GET|POST /loki/api/v1/series read a|b
GET|POST /loki/api/v1/index/stats read a|b
GET|POST /loki/api/v1/index/volume read a|b
GET|POST /loki/api/v1/index/volume_range read a|b
GET|POST /loki/api/v1/detected_labels read a|b
GET|POST /loki/api/v1/detected_fields read a|b
GET|POST /loki/api/v1/detected_field/{name}/values read a|b
GET|POST /loki/api/v1/format_query login a|b
GET /loki/api/v1/tail read
GET /loki/api/v1/status/buildinfo login a|b
ANY /loki/api/v1/* login a|b
GET|POST /flush login a|b
GET /services login a|b
GET / read
GET /alerts read
GET /logql login
GET /static/page.css public
GET /static/page.js public
GET /loki/api/v1/rules read
GET /api/prom/rules read
GET /prometheus/api/v1/rules read
GET /prometheus/api/v1/alerts read
GET /ready public
GET /-/healthy public
GET /metrics whole
GET /api/v1/ledger whole
GET /api/v1/tap read
";

const ELASTICSEARCH: &str = "\
GET / login
GET /_cluster/health login
GET /_cluster/health/{index} login
GET /_cat/indices read
GET /_cat/indices/{index} read
POST|PUT /_bulk write
POST|PUT /{index}/_bulk write
POST /{index}/_doc write
POST|PUT /{index}/_doc/{id} write
GET /{index}/_doc/{id} read
POST|PUT /{index}/_create/{id} write
GET|POST /_search read
GET|POST /{index}/_search read
GET|POST /_msearch read
GET|POST /{index}/_msearch read
GET|POST /_count read
GET|POST /{index}/_count read
GET|POST /_field_caps read
GET|POST /{index}/_field_caps read
GET /_mapping read
GET /{index}/_mapping read
GET|POST /_refresh login
GET|POST /{index}/_refresh login
GET /_index_template login
POST|PUT /_index_template/{name} write
GET /_index_template/{name} login
DELETE /_index_template/{name} admin
GET /{index} read
DELETE /{index} admin
ANY /_data_stream/{name} login
GET /{index}/_source/{id} read
ANY * login
";

const ALERTMANAGER: &str = "\
GET /api/v2/alerts read
POST /api/v2/alerts write
GET /api/v2/alerts/groups read
GET /api/v2/silences read
POST /api/v2/silences silence
GET /api/v2/silence/{id} read
DELETE /api/v2/silence/{id} silence
GET /api/v2/status read
GET /api/v2/receivers login
GET /-/healthy public
GET /-/ready public
";

/// Of `agent.http` and of `broker.http`.
const STATUS: &str = "\
GET /ready public
GET /-/healthy public
GET /metrics whole
GET /api/v1/ledger whole
GET /api/v1/tap read
";

/// Somebody who asks: token, and whether a need is met.
struct Asker {
    name: &'static str,
    token: Option<&'static str>,
    refused: Option<u16>,
    roles: &'static [Role],
    is_whole: bool,
}

/// The tenant of most who ask.
const ONE: &str = "default";
/// Two tenants at once.
const BOTH: &str = "default|other";

const ASKERS: [Asker; 10] = [
    Asker { name: "nobody", token: None, refused: Some(401), roles: &[], is_whole: false },
    Asker { name: "a wrong token", token: Some("mlr_wrong"), refused: Some(401), roles: &[], is_whole: false },
    Asker { name: "another tenant", token: Some("mlr_other"), refused: Some(403), roles: &[], is_whole: false },
    Asker { name: "read", token: Some("mlr_read"), refused: None, roles: &[Role::Read], is_whole: false },
    Asker { name: "write", token: Some("mlr_write"), refused: None, roles: &[Role::Write], is_whole: false },
    Asker { name: "silence", token: Some("mlr_silence"), refused: None, roles: &[Role::Silence], is_whole: false },
    Asker { name: "admin", token: Some("mlr_admin"), refused: None, roles: &Role::ALL, is_whole: true },
    Asker { name: "read of all", token: Some("mlr_all"), refused: None, roles: &[Role::Read], is_whole: true },
    Asker { name: "read of pay", token: Some("mlr_pay"), refused: None, roles: &[Role::Read], is_whole: false },
    Asker { name: "admin of both", token: Some("mlr_both"), refused: None, roles: &Role::ALL, is_whole: true },
];

/// Those who may ask for both tenants at once.
const OF_BOTH: [&str; 2] = ["read of all", "admin of both"];

impl Asker {
    /// Whether the answer is 401 or 403, and which.
    fn refused_by(&self, need: Need) -> Option<u16> {
        let has = |role| self.roles.contains(&role);
        let is_met = match need {
            Need::Public => return None,
            Need::Login | Need::LoginJoined => true,
            Need::Read | Need::ReadJoined => has(Role::Read),
            Need::Whole => self.is_whole,
            Need::Write(_) => has(Role::Write),
            Need::Silence(_) => has(Role::Silence),
            Need::Admin(_) => has(Role::Admin),
        };
        self.refused.or((!is_met).then_some(403))
    }

    /// The same where both tenants are asked at once; 400 where the endpoint is for one.
    fn refused_both_by(&self, need: Need) -> Option<u16> {
        match self.refused_by(need) {
            None if need == Need::Public => None,
            Some(401) => Some(401),
            // Who may not read one of them is told so before anything else is looked at.
            _ if !OF_BOTH.contains(&self.name) => Some(403),
            None if !need.takes_several() => Some(400),
            refused => refused,
        }
    }
}

fn access() -> AccessConfig {
    let token = |token: &str, roles: &[Role], tenants: &str, selector: &str| TokenConfig {
        name: token.to_owned(),
        hash: Secret::new(TokenHash::of(token).to_string()),
        roles: roles.to_vec(),
        tenants: tenants.split('|').map(str::to_owned).collect(),
        selector: selector.to_owned(),
        expires: String::new(),
    };
    let tokens = vec![
        token("mlr_other", &[Role::Admin], "other", ""),
        token("mlr_read", &[Role::Read], "default", ""),
        token("mlr_write", &[Role::Write], "default", ""),
        token("mlr_silence", &[Role::Silence], "default", ""),
        token("mlr_admin", &[Role::Admin], "default", ""),
        token("mlr_all", &[Role::Read], "*", ""),
        token("mlr_pay", &[Role::Read], "default", r#"{team="pay"}"#),
        token("mlr_both", &[Role::Admin], BOTH, ""),
    ];
    AccessConfig { tokens, ..AccessConfig::default() }
}

#[test]
fn parts_whose_links_have_another_scheme_start_anew() {
    let settings = |tls: bool| {
        let tls = if tls { ", tls: {cert_file: c, key_file: k}" } else { "" };
        let text = format!(
            "data_dir: x\nbroker: {{}}\naggregator: {{http: {{listen: \"127.0.0.1:3100\"{tls}}}}}\nrules: {{}}\n\
             notify: {{listen: \"127.0.0.1:9093\"{tls}}}\n"
        );
        let config =
            crate::config::parse("millrace.yaml", &text, &crate::config::environment::Variables::new()).unwrap();
        crate::config::Settings::try_from(config).unwrap()
    };
    let (before, after) = (settings(false), settings(true));
    let changed: Vec<_> = Part::IN_ORDER
        .into_iter()
        .filter(|part| part.values(&before, Scope::Sections) != part.values(&after, Scope::Sections))
        .collect();
    assert_eq!(changed, [Part::Notifier, Part::Rules]);
}

fn lines(list: &[Listed]) -> String {
    list.iter()
        .map(|route| {
            let several = if route.need != Need::Public && route.need.takes_several() { " a|b" } else { "" };
            format!("{} {} {}{several}\n", route.methods.names().join("|"), route.path, route.need.name())
        })
        .collect()
}

/// A path that the route takes.
fn path(route: &Listed) -> String {
    let mut path = String::new();
    for part in route.path.split_inclusive('/') {
        if part.starts_with('{') {
            path.push('x');
            path.push_str(if part.ends_with('/') { "/" } else { "" });
        } else {
            path.push_str(&part.replace('*', "no-such-path"));
        }
    }
    if path.starts_with('/') { path } else { format!("/{path}/at/all") }
}

/// Status and text of an answer. What lasts has no text here.
async fn ask(
    client: &reqwest::Client,
    address: SocketAddr,
    (route, method): (&Listed, &str),
    token: Option<&str>,
    tenants: &str,
) -> (u16, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.request(method, format!("http://{address}{}", path(route)));
    request = request.header("content-type", "application/json").header("x-scope-orgid", tenants);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.body("{}").send().await.unwrap();
    let status = answer.status().as_u16();
    (status, if status < 400 { String::new() } else { answer.text().await.unwrap() })
}

/// Everything but an agent, on free ports.
fn config(folder: &std::path::Path, access: AccessConfig) -> Config {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut config = Config { data_dir: folder.to_owned(), access, ..Config::embedded() };
    let free = || "127.0.0.1:0".to_owned();
    config.agent = None;
    if let Some(broker) = &mut config.broker {
        broker.server.listen = free();
    }
    if let Some(aggregator) = &mut config.aggregator {
        aggregator.http.listen = free();
        aggregator.elasticsearch.listen = free();
    }
    if let Some(notify) = &mut config.notify {
        notify.listen = free();
    }
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_are_taken_over_by_a_reload_for_every_listener() {
    let folder = tempfile::tempdir().unwrap();
    let only = |name: &str| {
        let mut access = access();
        access.tokens.retain(|token| token.name == name);
        config(folder.path(), access)
    };
    let mut process = Process::start_config(only("mlr_admin")).await.unwrap();
    let addresses = process.addresses().clone();
    let client = reqwest::Client::new();
    let statuses = async |token: &str| {
        let mut found = Vec::new();
        for (address, path) in
            [(addresses.http, "/metrics"), (addresses.elasticsearch, "/"), (addresses.alertmanager, "/api/v2/status")]
        {
            let request = client.get(format!("http://{}{path}", address.unwrap())).bearer_auth(token);
            found.push(request.send().await.unwrap().status().as_u16());
        }
        found
    };
    assert_eq!((statuses("mlr_admin").await, statuses("mlr_all").await), (vec![200; 3], vec![401; 3]));
    let outcome = process.reload(only("mlr_all").try_into().unwrap()).await.unwrap();
    assert!(outcome.refused.is_empty() && outcome.changed.contains(&"logins".to_owned()), "{outcome:?}");
    assert_eq!((statuses("mlr_admin").await, statuses("mlr_all").await), (vec![401; 3], vec![200; 3]));
    process.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_at_an_endpoint_without_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start_config(config(folder.path(), access())).await.unwrap();
    let addresses = process.addresses();
    let apis = [
        (Api::Loki, addresses.http, LOKI),
        (Api::Elasticsearch, addresses.elasticsearch, ELASTICSEARCH),
        (Api::Alertmanager, addresses.alertmanager, ALERTMANAGER),
    ];
    check_endpoints(&process, apis).await;
    process.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_at_the_status_of_an_agent_or_a_broker_without_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let all = config(folder.path(), access());
    let only = |agent: bool| {
        let mut one = Config { data_dir: all.data_dir.clone(), access: all.access.clone(), ..Config::default() };
        let free = Some("127.0.0.1:0".to_owned());
        if agent {
            one.agent = Some(millrace_agent::AgentConfig { http: free, ..Default::default() });
        } else {
            one.broker.clone_from(&all.broker);
            one.broker.as_mut().unwrap().server.http = free;
        }
        one
    };
    for config in [only(true), only(false)] {
        let process = Process::start_config(config).await.unwrap();
        check_endpoints(&process, [(Api::Status, process.addresses().status, STATUS)]).await;
        process.stop().await.unwrap();
    }
}

/// Asks for each endpoint as everybody.
async fn check_endpoints<const N: usize>(process: &Process, apis: [(Api, Option<SocketAddr>, &str); N]) {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut faults = Vec::new();
    for (api, address, want) in apis {
        let list = process.parts.routes_of(api);
        assert_eq!(lines(&list), want, "endpoints of the {}: add a line for a new one", api.name());
        let asked = list.iter().flat_map(|route| {
            let methods = if route.methods == Methods::Any { &["GET"] } else { route.methods.names() };
            let asked = methods.iter().flat_map(move |method| ASKERS.iter().map(move |asker| (route, *method, asker)));
            asked.flat_map(|(route, method, asker)| [ONE, BOTH].map(|tenants| (route, method, asker, tenants)))
        });
        let client = &client;
        // Together: some wait for the index.
        let answers = futures::stream::iter(asked).map(|(route, method, asker, tenants)| async move {
            let answer = ask(client, address.unwrap(), (route, method), asker.token, tenants).await;
            (route, method, asker, tenants, answer)
        });
        // Clients of the notifier can't choose a tenant.
        let has_header = api != Api::Alertmanager;
        for (route, method, asker, tenants, answer) in answers.buffer_unordered(64).collect::<Vec<_>>().await {
            let (status, text) = answer;
            let is_several = text.contains("multiple org IDs present");
            let refused = (matches!(status, 401 | 403) || (status == 400 && is_several)).then_some(status);
            let want = if tenants == BOTH && has_header {
                asker.refused_both_by(route.need)
            } else {
                asker.refused_by(route.need)
            };
            let names_other = status != 403
                || tenants == ONE
                || !has_header
                || text.contains("`other` is not one of yours")
                || OF_BOTH.contains(&asker.name)
                || asker.name == "another tenant";
            if refused != want || !names_other {
                let name = api.name();
                faults
                    .push(format!("{name}: {method} {} as {} for {tenants}: {status} {text}", route.path, asker.name));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
