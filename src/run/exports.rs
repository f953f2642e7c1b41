//! Starts the exports: consumers that feed other systems.
//!
//! In: the section `exports`. Out: a running stage for each, and how it is. Touches the log and the systems fed, through them.

use std::sync::Arc;

use millrace_exports::config::ExportConfig;
use millrace_exports::elastic_bulk::ElasticBulk;
use millrace_exports::metrics::ExportMetrics;
use millrace_log::client::BatchProducer;
use millrace_log::consume::ConsumerStatus;
use millrace_log::outgoing::Outgoing;
use prometheus_client::registry::Registry;

use super::part::Part;
use super::site::Site;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Starts all exports; what they can't use goes to `dead_letters`.
pub fn start(
    configs: &[ExportConfig],
    outgoing: &Outgoing,
    dead_letters: &Arc<dyn BatchProducer>,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<Vec<(String, ConsumerStatus)>, Failure> {
    let mut registry = Registry::default();
    let metrics = ExportMetrics::register(&mut registry);
    let mut all = Vec::new();
    let mut statuses = Vec::new();
    for ExportConfig::Elasticsearch(export) in configs.iter().cloned() {
        let name = export.name.clone();
        let opened =
            ElasticBulk::new(export, Arc::clone(dead_letters), Arc::clone(&site.clock), metrics.clone(), outgoing);
        let opened = opened.map_err(|error| Failure::new(Code::Config, error))?;
        statuses.push((name, opened.status()));
        all.push(opened);
    }
    site.registries.put(Part::Exports.name(), registry);
    for export in all {
        stages.start(Part::Exports, "export", STOP_LIMIT, |token| async move { Ok(export.run(token).await?) });
    }
    Ok(statuses)
}
