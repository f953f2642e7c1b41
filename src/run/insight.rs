//! What those who look at a process see of its parts: `/metrics`, `/ready`, the ledger, live records.
//!
//! In: handles of the parts. Out: routes. Touches nothing.

use std::sync::Arc;

use millrace_aggregator::run::Aggregator;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_log::consume::ConsumerStatus;
use millrace_notify::Notifier;
use millrace_rules::Rules;
use millrace_streams::route::RouteLedger;

use super::agent::CurrentAgent;
use super::site::Site;
use crate::ledger::{LedgerView, agent_hop, consumer_hop, index_hop};
use crate::status::{Notes, ReadyCheck, status_routes};
use crate::tap::{CurrentTaps, tap_route};

/// Handles of the parts that run.
#[derive(Clone, Default)]
pub struct Insight {
    /// Counts and live records of the agent.
    pub agent: Option<CurrentAgent>,
    /// Counts of the index.
    pub index: Option<Arc<Aggregator>>,
    /// Counts of the routes.
    pub routes: Option<RouteLedger>,
    /// How each export is, by its name.
    pub exports: Vec<(String, ConsumerStatus)>,
    /// The notifier, with the receivers that fail.
    pub notifier: Option<Arc<Notifier>>,
    /// The rules, with the groups that are late.
    pub rules: Option<Arc<Rules>>,
    /// Whether the parts can do their work.
    pub ready: Vec<ReadyCheck>,
}

impl Insight {
    /// `/metrics`, `/ready`, the ledger, and live records where the listener is private.
    pub fn router(&self, site: &Site, is_private: bool) -> Routes {
        let taps = self.agent.clone().map(|agent| -> CurrentTaps { Arc::new(move || agent.taps()) });
        Routes::new()
            .merge(status_routes(site.registries.clone(), self.ready.clone(), self.notes(site)))
            .merge(self.ledger_route(site))
            .merge(tap_route(taps, is_private))
    }

    /// What is wrong although the process does its work, for anybody.
    fn notes(&self, site: &Site) -> Vec<Notes> {
        let (exports, index, routes) = (self.exports.clone(), self.index.clone(), self.routes.clone());
        let consumers = move || {
            let routes = routes.iter().flat_map(|ledger| ledger.passes().filter_map(|(_, status)| status.notice()));
            exports.iter().filter_map(|(_, status)| status.notice()).chain(routes).collect::<Vec<String>>()
        };
        let damaged = move || {
            let splits = index.iter().flat_map(|aggregator| aggregator.store().all_damaged());
            splits.map(|split| split.to_string()).collect::<Vec<String>>()
        };
        let rules = self.rules.clone();
        let late = move || rules.iter().flat_map(|rules| rules.public_notices()).collect::<Vec<String>>();
        vec![self.standing(site), Arc::new(late), Arc::new(consumers), Arc::new(damaged)]
    }

    /// What holds until somebody does something: notices of the process, records that were lost, receivers that fail.
    fn standing(&self, site: &Site) -> Notes {
        let (notices, exports, index) = (site.notices.clone(), self.exports.clone(), self.index.clone());
        let (routes, notifier, access) = (self.routes.clone(), self.notifier.clone(), site.access.clone());
        Arc::new(move || {
            let routes = routes.iter().flat_map(|ledger| ledger.passes().filter_map(|(_, status)| status.losses()));
            let exports = exports.iter().filter_map(|(_, status)| status.losses());
            let index = index.iter().filter_map(|aggregator| aggregator.status().losses());
            let receivers = notifier.iter().flat_map(|notifier| notifier.notices());
            let logins = access.notice();
            notices
                .list()
                .into_iter()
                .chain(logins)
                .chain(index)
                .chain(exports)
                .chain(routes)
                .chain(receivers)
                .collect()
        })
    }

    /// `GET /api/v1/ledger`.
    fn ledger_route(&self, site: &Site) -> Routes {
        let (agent, index, routes) = (self.agent.clone(), self.index.clone(), self.routes.clone());
        let (exports, standing, access) = (self.exports.clone(), self.standing(site), site.access.clone());
        let rules = self.rules.clone();
        let view = move || {
            let (agent, index, routes, mut notices) = (agent.clone(), index.clone(), routes.clone(), standing());
            // Not at `/ready`, which needs no login.
            notices.extend(rules.iter().flat_map(|rules| rules.notices()));
            notices.extend(access.expiring_tokens());
            let exports: Vec<_> =
                exports.iter().map(|(name, status)| consumer_hop(&format!("export {name}"), status)).collect();
            async move {
                let index = match index {
                    Some(aggregator) => {
                        let behind = aggregator.behind().await;
                        Some(index_hop(&aggregator.ledger(), behind, aggregator.status()))
                    }
                    None => None,
                };
                let agent = agent.map(|agent| agent_hop(&agent.ledger()));
                let hop = |(from, status): (&str, &ConsumerStatus)| consumer_hop(&format!("route {from}"), status);
                let routes = routes.iter().flat_map(|ledger| ledger.passes().map(hop));
                let hops = agent.into_iter().chain(routes).chain(index).chain(exports).collect();
                axum::Json(LedgerView { hops, notices })
            }
        };
        Routes::new().on(Need::Whole, Methods::Get, "/api/v1/ledger", view)
    }
}
