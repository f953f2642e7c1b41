//! A checked configuration that a process starts with, and what it is compared by when it is read again.
//!
//! In: a configuration whose files were read. Out: sections, and their values with all defaults. Touches nothing.

use millrace_log::yaml::LocatedFault;
use serde_json::Value as Json;

use super::types::Config;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its sections.
    pub config: Config,
    /// Its values with all defaults, secrets and the digests of the files that they name: what is equal here starts
    /// equal parts. Never shown.
    pub(super) values: Json,
    /// What is most likely not meant so.
    pub warnings: Vec<LocatedFault>,
}

impl Settings {
    /// The value of a path of keys, `null` where there is none.
    pub fn value(&self, path: &[&str]) -> &Json {
        path.iter().fold(&self.values, |value, key| value.get(key).unwrap_or(&Json::Null))
    }
}

impl TryFrom<Config> for Settings {
    type Error = serde_json::Error;

    /// Of a configuration that was put together by code: secrets are not told apart.
    fn try_from(config: Config) -> Result<Self, Self::Error> {
        Ok(Self { values: serde_json::to_value(&config)?, config, warnings: Vec::new() })
    }
}
