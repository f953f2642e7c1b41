//! `millrace validate` and `millrace schema`.

use std::io::Write as _;
use std::path::Path;

use super::flags::ConfigFlags;
use super::terminal::print;
use crate::config::{self, Written, environment};
use crate::escape;
use crate::exit::{Code, Failure};

/// Reports every error of the configuration and of what it names, or that there is none; warnings go to the standard
/// error and fail nothing.
pub fn validate(flags: &ConfigFlags) -> Result<(), Failure> {
    let settings = written(flags)?.settings().map_err(|error| Failure::new(Code::Config, error))?;
    for warning in &settings.warnings {
        // Whoever closed the standard error does not want to see it.
        drop(writeln!(std::io::stderr(), "warning: {}", escape::text(&warning.to_string())));
    }
    let config = &settings.config;
    let mut roles: Vec<String> = [
        ("agent", config.agent.is_some()),
        ("broker", config.broker.is_some()),
        ("aggregator", config.aggregator.is_some()),
        ("rules", config.rules.is_some()),
        ("notify", config.notify.is_some()),
    ]
    .into_iter()
    .filter(|(_, there)| *there)
    .map(|(name, _)| name.to_owned())
    .collect();
    let count = |number: usize, one: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        more => Some(format!("{more} {one}s")),
    };
    roles.extend(count(config.broker.as_ref().map_or(0, |broker| broker.routes.len()), "route"));
    roles.extend(count(config.exports.len(), "export"));
    if roles.is_empty() {
        roles.push("no role is configured".to_owned());
    }
    let of = match source(flags) {
        Source::Named(_) => String::new(),
        Source::Usual => format!("{}: ", config::DEFAULT_FILE),
        Source::Defaults => format!("the defaults (no -c, and no {}): ", config::DEFAULT_FILE),
    };
    print(&format!("OK: {of}{}; data in {}\n", roles.join(", "), config.data_dir.display()))
}

/// Where the configuration comes from.
enum Source<'f> {
    Named(&'f Path),
    Usual,
    Defaults,
}

fn source(flags: &ConfigFlags) -> Source<'_> {
    match &flags.config {
        Some(path) => Source::Named(path),
        None if Path::new(config::DEFAULT_FILE).exists() => Source::Usual,
        None => Source::Defaults,
    }
}

/// Reads the named file, else the usual one, else the defaults of every role.
pub fn read(flags: &ConfigFlags) -> Result<config::Config, Failure> {
    written(flags)?.config().map_err(|error| Failure::new(Code::Config, error))
}

/// The same before its sections and what they name are checked.
pub fn written(flags: &ConfigFlags) -> Result<Written, Failure> {
    let variables = environment::of_process();
    let read = match source(flags) {
        Source::Named(path) => Written::read(path, &variables),
        Source::Usual => Written::read(Path::new(config::DEFAULT_FILE), &variables),
        Source::Defaults => Written::embedded(&variables),
    };
    placed(read, flags)
}

/// The defaults of every role, with what the environment says.
pub fn defaults(flags: &ConfigFlags) -> Result<Written, Failure> {
    placed(Written::embedded(&environment::of_process()), flags)
}

fn placed(read: Result<Written, config::ConfigError>, flags: &ConfigFlags) -> Result<Written, Failure> {
    let mut written = read.map_err(|error| Failure::new(Code::Config, error))?;
    if let Some(folder) = &flags.data_dir {
        written.config.data_dir = folder.clone();
    }
    Ok(written)
}

/// Prints the JSON schema.
pub fn schema() -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?))
}
