//! Silences of a running notifier: set, ended, looked up; and the alerts with what mutes them.
//!
//! In: requests of the API. Out: silences and alerts as they stand. Touches the notifier's store: a silence is on the disk before it
//! holds.

use std::sync::Arc;

use millrace_log::alert::LabelSet;
use millrace_log::store::run_blocking;

use crate::alert::Alert;
use crate::group;
use crate::notifier::Notifier;
use crate::silence::{Silence, SilenceError};
use crate::state::Suppression;

/// An alert with where it goes and what mutes it.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertView {
    /// The alert.
    pub alert: Alert,
    /// Its receivers.
    pub receivers: Vec<String>,
    /// What mutes it.
    pub suppression: Suppression,
}

/// Alerts of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupView {
    /// Labels of the group.
    pub labels: LabelSet,
    /// Its receiver.
    pub receiver: String,
    /// Time intervals that mute its route.
    pub muted_by: Vec<String>,
    /// Its alerts, by identity.
    pub alerts: Vec<AlertView>,
}

impl Notifier {
    /// Sets a silence: a new one, or another in the place of the one with its id. It is durable when its id is given back.
    pub async fn silence(self: &Arc<Self>, silence: Silence) -> Result<String, SilenceError> {
        let own = self.clone();
        let max = self.parts.config.max_silences;
        run_blocking(move || own.change(|silences, now_ns| silences.plan(silence, max, now_ns))).await
    }

    /// Ends a silence.
    pub async fn expire(self: &Arc<Self>, id: String) -> Result<(), SilenceError> {
        let own = self.clone();
        let ended = run_blocking(move || {
            own.change(|silences, now_ns| {
                let silence = silences.get(&id).ok_or(SilenceError::NotFound)?;
                Ok(vec![silence.expired(now_ns)])
            })
        });
        ended.await.map(drop)
    }

    /// Keeps what changes on the disk, then in memory. Gives the id of the first.
    fn change(
        &self,
        plan: impl FnOnce(&crate::silences::Silences, i64) -> Result<Vec<Silence>, SilenceError>,
    ) -> Result<String, SilenceError> {
        let _order = self.parts.write_order.lock();
        let now_ns = self.parts.clock.now_ns();
        let changed = plan(&self.parts.state.lock().silences, now_ns)?;
        self.parts.records.keep_silences(&changed).inspect_err(|_| {
            self.parts.metrics.store_failures.inc();
        })?;
        let id = changed.first().map(|silence| silence.id.clone()).unwrap_or_default();
        {
            let mut state = self.parts.state.lock();
            changed.into_iter().for_each(|silence| state.silences.put(silence));
        }
        self.count_silences();
        Ok(id)
    }

    /// A silence by its id.
    pub fn silence_of(&self, id: &str) -> Option<Silence> {
        self.parts.state.lock().silences.get(id).cloned()
    }

    /// Silences that are wanted: active ones by their end, pending ones by their start, then those that ended last.
    pub fn silences(&self, is_wanted: impl Fn(&Silence) -> bool) -> Vec<Silence> {
        let now_ns = self.now_ns();
        let mut found: Vec<Silence> =
            self.parts.state.lock().silences.all().filter(|silence| is_wanted(silence)).cloned().collect();
        found.sort_by_key(|silence| {
            let state = silence.state(now_ns);
            let time_ns = match state {
                crate::silence::SilenceState::Active => silence.ends_at_ns,
                crate::silence::SilenceState::Pending => silence.starts_at_ns,
                crate::silence::SilenceState::Expired => silence.ends_at_ns.saturating_neg(),
            };
            (state, time_ns, silence.id.clone())
        });
        found
    }

    /// Alerts that are not over and are wanted, by identity.
    pub fn alerts(&self, is_wanted: impl Fn(&AlertView) -> bool) -> Vec<AlertView> {
        let now_ns = self.now_ns();
        let mut state = self.parts.state.lock();
        let routing = Arc::clone(state.routing());
        let mut alerts: Vec<_> =
            state.alerts.iter().filter(|(_, a)| a.ends_at_ns >= now_ns).map(|(f, a)| (*f, a.clone())).collect();
        alerts.sort_by_key(|(fingerprint, _)| *fingerprint);
        let view = |(fingerprint, alert): (_, Alert)| AlertView {
            receivers: routing.routes_of(&alert.labels).iter().map(|route| route.receiver.clone()).collect(),
            suppression: state.suppression(fingerprint, &alert.labels, now_ns),
            alert,
        };
        alerts.into_iter().map(view).filter(is_wanted).collect()
    }

    /// Groups of receivers that are wanted, with their wanted alerts that are not over, by their labels.
    pub fn groups(&self, is_receiver: impl Fn(&str) -> bool, is_wanted: impl Fn(&AlertView) -> bool) -> Vec<GroupView> {
        let now_ns = self.now_ns();
        let alerts = self.alerts(is_wanted);
        let routing = self.routing();
        let mut groups: std::collections::BTreeMap<(LabelSet, String, String), GroupView> = Default::default();
        for view in alerts {
            let routes = routing.routes_of(&view.alert.labels);
            let routes: Vec<_> = routes.into_iter().filter(|route| is_receiver(&route.receiver)).collect();
            let mut receivers: Vec<String> = routes.iter().map(|route| route.receiver.clone()).collect();
            receivers.sort_unstable();
            for route in routes {
                let labels = group::labels_of(&view.alert.labels, &route.group_by);
                let group = groups.entry((labels.clone(), route.receiver.clone(), route.id.clone()));
                let group = group.or_insert_with(|| GroupView {
                    labels,
                    receiver: route.receiver.clone(),
                    muted_by: routing.muted_by(route, now_ns).into_iter().map(str::to_owned).collect(),
                    alerts: Vec::new(),
                });
                group.alerts.push(AlertView { receivers: receivers.clone(), ..view.clone() });
            }
        }
        groups.into_values().collect()
    }
}
