//! `millrace validate` and `millrace schema`.

use super::{ConfigFlags, print};
use crate::config::{self, ConfigError, environment};
use crate::exit::{Code, Failure};

/// Shows every fault, or says that there is none.
pub fn validate(flags: &ConfigFlags) -> Result<(), Failure> {
    let loaded = read(flags)?;
    let roles: Vec<&str> = [
        ("agent", loaded.agent.is_some()),
        ("broker", loaded.broker.is_some()),
        ("aggregator", loaded.aggregator.is_some()),
        ("rules", loaded.rules.is_some()),
        ("notify", loaded.notify.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect();
    let routes = loaded.broker.as_ref().map_or(0, |broker| broker.routes.len());
    print(&format!(
        "good: {}, {routes} routes and {} exports, data in {}\n",
        roles.join(", "),
        loaded.exports.len(),
        loaded.data_dir.display()
    ))
}

/// Reads the named file, else the usual one, else the defaults of every role.
pub fn read(flags: &ConfigFlags) -> Result<config::Config, Failure> {
    let variables = environment::of_process();
    let usual = std::path::Path::new(config::DEFAULT_FILE);
    let loaded = match &flags.config {
        Some(path) => config::load(path, &variables),
        None if usual.exists() => config::load(usual, &variables),
        None => config::embedded(&variables),
    };
    let mut loaded = loaded.map_err(|error| match error {
        ConfigError::Read { .. } | ConfigError::Faults { .. } => Failure::new(Code::Config, error),
    })?;
    if let Some(folder) = &flags.data_dir {
        loaded.data_dir = folder.clone();
    }
    Ok(loaded)
}

/// Prints the JSON schema.
pub fn schema() -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?))
}
