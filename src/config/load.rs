//! Reads a configuration: file to tree, variables over it, tree against the schema, the checks of the types, and those
//! of everything outside that a start reads.
//!
//! In: a file, variables. Out: a checked [`Config`] or [`Settings`], or all faults with their places. Touches files by
//! reading.

use std::path::{Path, PathBuf};

use millrace_log::value::Faults;
use millrace_log::yaml::{self, LocatedFault, MapEntry, Node, Value};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::compare::Check;
use super::environment::{self, Variables};
use super::outside::Outside;
use super::schema::{schema, schema_of};
use super::settings::Settings;
use super::types::Config;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration {path} can't be read: {source}; choose another with -c FILE")]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with it.
    #[error("{}", render(faults))]
    Faults {
        /// At least one, in the order of the file.
        faults: Vec<LocatedFault>,
    },
}

fn render(faults: &[LocatedFault]) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let count = faults.len();
    lines.push(format!("{count} {} in the configuration", if count == 1 { "error" } else { "errors" }));
    lines.join("\n")
}

/// A configuration as it was read: typed, with its tree, and with what its sections found wrong.
#[derive(Debug, Clone)]
pub struct Written {
    /// The sections. Those that are taken out are not checked any further.
    pub config: Config,
    tree: Node,
    values: Json,
    faults: Vec<LocatedFault>,
}

impl Written {
    /// Reads a file. An error are faults that keep the sections from being typed.
    pub fn read(path: &Path, variables: &Variables) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::typed(rooted(&path.display().to_string(), &text)?, variables)
    }

    /// Every role that needs nothing but its defaults, under the variables of the environment.
    pub fn embedded(variables: &Variables) -> Result<Self, ConfigError> {
        let place = environment::of_flag("no file");
        // No agent: what it should tail, only a file or the command line can say.
        let sections = ["broker", "aggregator", "rules", "notify"].map(|key| MapEntry {
            key: key.to_owned(),
            place: place.clone(),
            node: Node::empty_map(place.clone()),
        });
        Self::typed(Node::new(Value::Map(sections.into()), place), variables)
    }

    fn typed(mut tree: Node, variables: &Variables) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        environment::expand(&mut tree, variables, &mut faults);
        environment::overlay(&mut tree, variables, &mut faults);
        let (config, values) = typed::<Config>(&tree, &schema(), faults)?;
        let mut found = Faults::default();
        config.check(&mut found);
        let faults = located(&tree, found);
        Ok(Self { config, tree, values, faults })
    }

    /// The configuration alone, if its sections find nothing wrong.
    pub fn config(self) -> Result<Config, ConfigError> {
        if self.faults.is_empty() { Ok(self.config) } else { Err(ConfigError::Faults { faults: self.faults }) }
    }

    /// The configuration with everything that a start reads, if nothing is wrong with either. Blocks.
    pub fn settings(mut self) -> Result<Settings, ConfigError> {
        let mut outside = Outside::check(&self.config, self.values);
        let mut faults = self.faults;
        faults.extend(located(&self.tree, outside.faults));
        faults.sort_by_key(|fault| (fault.place.line(), fault.place.column()));
        faults.append(&mut outside.in_files);
        if !faults.is_empty() {
            return Err(ConfigError::Faults { faults });
        }
        let mut warnings = outside.warnings;
        if let Some(agent) = &mut self.config.agent {
            warnings.within("agent", |w| agent.warn(w));
        }
        Ok(Settings { config: self.config, values: outside.values, warnings: located(&self.tree, warnings) })
    }
}

/// Reads and checks a file.
pub fn load(path: &Path, variables: &Variables) -> Result<Config, ConfigError> {
    Written::read(path, variables)?.config()
}

/// Checks the text of a file; `file` is its name for messages.
pub fn parse(file: &str, text: &str, variables: &Variables) -> Result<Config, ConfigError> {
    Written::typed(rooted(file, text)?, variables)?.config()
}

/// Checks the text of a file and everything that a start with it reads. Blocks.
pub fn parse_settings(file: &str, text: &str, variables: &Variables) -> Result<Settings, ConfigError> {
    Written::typed(rooted(file, text)?, variables)?.settings()
}

fn rooted(file: &str, text: &str) -> Result<Node, ConfigError> {
    yaml::parse(file, text).map_err(|fault| ConfigError::Faults { faults: vec![fault] })
}

/// Reads a file of another kind by the same rules, but without variables.
pub fn parse_as<T: DeserializeOwned + JsonSchema>(
    file: &str,
    text: &str,
    check: impl FnOnce(&T, &mut Faults),
) -> Result<T, ConfigError> {
    let root = rooted(file, text)?;
    let (typed, _) = typed(&root, &schema_of::<T>(), Vec::new())?;
    let mut found = Faults::default();
    check(&typed, &mut found);
    if found.is_empty() { Ok(typed) } else { Err(ConfigError::Faults { faults: located(&root, found) }) }
}

/// Types a tree by a schema; also the values as they were written.
fn typed<T: DeserializeOwned>(
    root: &Node,
    schema: &Json,
    mut faults: Vec<LocatedFault>,
) -> Result<(T, Json), ConfigError> {
    let mut by_schema = Check::new(schema);
    let json = by_schema.node(root, schema);
    faults.append(&mut by_schema.faults);
    if let (Some(json), true) = (json, faults.is_empty()) {
        match serde_json::from_value::<T>(json.clone()) {
            Ok(typed) => return Ok((typed, json)),
            Err(error) => faults.push(LocatedFault::new(root.place.clone(), error.to_string())),
        }
    }
    Err(ConfigError::Faults { faults })
}

/// Finds the places of faults.
fn located(root: &Node, faults: Faults) -> Vec<LocatedFault> {
    let locate = |fault: millrace_log::value::Fault| {
        let place = match fault.inside {
            Some((line, column)) => root.place_inside(&fault.path, line, column),
            None => root.place_of(&fault.path).clone(),
        };
        LocatedFault::new(place, format!("{}: {}", fault.path, fault.message))
    };
    faults.into_vec().into_iter().map(locate).collect()
}
