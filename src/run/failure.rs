//! Which exit code an error of a part leads to when the part can't be opened.
//!
//! In: errors of the parts. Out: [`Failure`]s with their code. Touches nothing.

use millrace_agent::AgentError;
use millrace_aggregator::run::AggregatorError;
use millrace_broker::BrokerError;
use millrace_broker::storage::StorageError;
use millrace_log::store::StoreError;
use millrace_notify::NotifyError;
use millrace_rules::RulesError;

use crate::exit::{Code, Failure};

/// Of the broker.
pub fn broker_failure(error: BrokerError) -> Failure {
    let code = match &error {
        BrokerError::PortInUse { .. } | BrokerError::Listen { .. } => Code::Unavailable,
        BrokerError::Storage(StorageError::InUse { .. } | StorageError::Newer { .. } | StorageError::Io { .. }) => {
            Code::Data
        }
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// Of the aggregator.
pub fn aggregator_failure(error: AggregatorError) -> Failure {
    let code = match &error {
        AggregatorError::InUse { .. } | AggregatorError::Newer { .. } | AggregatorError::State(_) => Code::Data,
        AggregatorError::Client(_) => Code::Config,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// Of the rules.
pub fn rules_failure(error: RulesError) -> Failure {
    let code = match &error {
        RulesError::Files { .. } | RulesError::Config { .. } => Code::Config,
        RulesError::Store(source) => store_code(source),
    };
    Failure::new(code, error)
}

/// Of the notifier.
pub fn notify_failure(error: NotifyError) -> Failure {
    let code = match &error {
        NotifyError::Files { .. } | NotifyError::Config { .. } => Code::Config,
        NotifyError::Store(source) => store_code(source),
        NotifyError::Prepare { .. } => Code::Failed,
    };
    Failure::new(code, error)
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::InUse { .. } | StoreError::Newer { .. } => Code::Data,
        StoreError::File { .. } | StoreError::Database { .. } | StoreError::Encode { .. } => Code::Failed,
    }
}

/// Of the agent.
pub fn agent_failure(error: AgentError) -> Failure {
    let code = match &error {
        AgentError::InUse { .. } | AgentError::Newer { .. } | AgentError::File { .. } => Code::Data,
        AgentError::Listen { .. } => Code::Unavailable,
        AgentError::Glob { .. } | AgentError::Regex { .. } | AgentError::Setting { .. } => Code::Config,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}
