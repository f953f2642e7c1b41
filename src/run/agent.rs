//! Starts the agent: files and other sources to topics.
//!
//! In: the section `agent`. Out: a running agent; its ledger and its live records. Touches the agent's folder.

use std::path::Path;
use std::sync::Arc;

use millrace_agent::tap::Taps;
use millrace_agent::{Agent, AgentConfig, AgentError, LedgerHandle};
use prometheus_client::registry::Registry;

use super::failure::agent_failure;
use super::part::Part;
use super::site::Site;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Opens the agent and runs it.
pub async fn start(
    config: &AgentConfig,
    data_dir: &Path,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<(LedgerHandle, Taps), Failure> {
    let producer = config.kafka.producer().map_err(|error| Failure::new(Code::Config, error))?;
    let open = || {
        let (config, folder, clock) = (config.clone(), data_dir.join("agent"), Arc::clone(&site.clock));
        let (producer, access) = (producer.clone(), site.access.clone());
        async move {
            let opened = tokio::task::spawn_blocking(move || {
                let mut registry = Registry::default();
                let agent =
                    Agent::open_with(config, &folder, producer, clock, &mut registry, Some(&access)).map_err(Some)?;
                Ok((agent, registry))
            });
            opened.await.unwrap_or(Err(None))
        }
    };
    let in_use = |error: &Option<AgentError>| match error {
        Some(error @ AgentError::InUse { .. }) => Some(error.to_string()),
        _ => None,
    };
    let (agent, registry) = site.open(open, in_use).await.map_err(|error| match error {
        Some(error) => agent_failure(error),
        None => Failure::text(Code::Failed, "opening the agent was aborted"),
    })?;
    site.registries.put(Part::Agent.name(), registry);
    let handles = (agent.ledger(), agent.taps());
    stages.start(Part::Agent, "agent", STOP_LIMIT, |token| async move { Ok(agent.run(token).await?) });
    Ok(handles)
}
