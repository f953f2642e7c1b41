//! `millrace validate` and `millrace schema`.

use std::io::Write as _;
use std::path::Path;

use super::flags::ConfigFlags;
use super::terminal::print;
use crate::config::{self, ConfigError, environment};
use crate::exit::{Code, Failure};

/// Shows every fault, or says that there is none; warnings go to the standard error and fail nothing.
pub fn validate(flags: &ConfigFlags) -> Result<(), Failure> {
    let mut warnings = Vec::new();
    let loaded = read_by(flags, |path, variables| {
        let (config, found) = config::load_with_warnings(path, variables)?;
        warnings = found;
        Ok(config)
    })?;
    for warning in warnings {
        // Whoever closed the standard error does not want to see it.
        drop(writeln!(std::io::stderr(), "warning: {warning}"));
    }
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
    read_by(flags, config::load)
}

fn read_by(
    flags: &ConfigFlags,
    load: impl FnOnce(&Path, &environment::Variables) -> Result<config::Config, ConfigError>,
) -> Result<config::Config, Failure> {
    let variables = environment::of_process();
    let usual = Path::new(config::DEFAULT_FILE);
    let loaded = match &flags.config {
        Some(path) => load(path, &variables),
        None if usual.exists() => load(usual, &variables),
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
