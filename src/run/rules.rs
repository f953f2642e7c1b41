//! Starts the rules: queries evaluated in turn, alerts handed to the notifier; and shows their alerts to the page.
//!
//! In: the section `rules`, the query engine, the notifier. Out: running rules. Touches the folder of the rules and their
//! files.

use std::net::SocketAddr;
use std::sync::Arc;

use millrace_aggregator::web::{AlertList, AlertRow};
use millrace_log::record::Tenant;
use millrace_log::store::StoreError;
use millrace_logql::Engine;
use millrace_notify::{Inbox, Notifier};
use millrace_rules::{Allowance, QueryEvaluator, Rules, RulesConfig, RulesError};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;

use super::failure::rules_failure;
use super::part::Part;
use super::site::Site;
use crate::config::Config;
use crate::exit::Failure;
use crate::stages::{STOP_LIMIT, Stages};

/// Opens the rules and runs them. `page` is where people reach the page.
pub async fn start(
    config: &Config,
    engine: &Engine,
    notifier: &Arc<Notifier>,
    page: Option<SocketAddr>,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<Arc<Rules>, Failure> {
    let mut rules_config = config.rules.clone().unwrap_or_default();
    if let Some(address) = page
        && rules_config.external_url == RulesConfig::default().external_url
    {
        // The default names the default port: links must lead to where the page is.
        let has_tls = config.aggregator.as_ref().is_some_and(|aggregator| aggregator.http.tls.is_some());
        rules_config.external_url = format!("{}://{address}", if has_tls { "https" } else { "http" });
    }
    let query = config.aggregator.clone().unwrap_or_default().index.query;
    let tenant = &rules_config.tenant;
    let allowance = Allowance::new(query.limits_of(tenant), &query.timeout_setting_of(tenant));
    // How far agents elsewhere lag nobody knows: evaluations stand at the clock.
    let evaluator = Arc::new(QueryEvaluator::new(engine.clone(), allowance, || i64::MAX));
    let (data_dir, clock) = (config.data_dir.clone(), Arc::clone(&site.clock));
    let sink = Arc::new(Inbox(Arc::clone(notifier)));
    let make = move |registry: &mut Registry| {
        let (evaluator, sink, clock) = (Arc::clone(&evaluator), Arc::clone(&sink), Arc::clone(&clock));
        Rules::open(rules_config.clone(), &data_dir, evaluator, sink, clock, registry)
    };
    let in_use = |error: &RulesError| matches!(error, RulesError::Store(StoreError::InUse { .. }));
    let opened = site.open_blocking(Part::Rules, Arc::new(make), in_use).await;
    let rules = opened.map_err(|error| error.failure(Part::Rules, rules_failure))?;
    let running = Arc::clone(&rules);
    stages.start(Part::Rules, "rules", STOP_LIMIT, |token| async move { Ok(running.run(token).await?) });
    Ok(rules)
}

/// The alerts of the rules that run now, as the page shows them. Cheap to clone.
#[derive(Clone, Default)]
pub struct CurrentAlerts(Arc<RwLock<Option<Arc<Rules>>>>);

impl CurrentAlerts {
    /// From now on these.
    pub fn set(&self, rules: Option<Arc<Rules>>) {
        *self.0.write() = rules;
    }
}

impl AlertList for CurrentAlerts {
    fn alerts(&self, tenant: &Tenant) -> Vec<AlertRow> {
        let row = |alert: millrace_rules::AlertView| AlertRow {
            state: match alert.state {
                millrace_rules::State::Pending => "pending",
                millrace_rules::State::Firing => "firing",
                millrace_rules::State::Resolved => "resolved",
            }
            .to_owned(),
            name: alert.alert,
            labels: alert.labels.into_iter().filter(|(name, _)| name != "alertname").collect(),
            value: alert.value,
            since_ns: alert.resolved_at_ns.or(alert.fired_at_ns).unwrap_or(alert.active_at_ns),
            summary: alert.annotations.get("summary").cloned().unwrap_or_default(),
            link: alert.link,
        };
        let rules = self.0.read().clone().filter(|rules| rules.tenant() == tenant);
        rules.map(|rules| rules.alerts().into_iter().map(row).collect()).unwrap_or_default()
    }
}
