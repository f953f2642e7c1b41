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
use super::damage::Damage;
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
    damage: Damage,
}

impl Written {
    /// Reads a file. An error are faults that leave no section to check.
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
        let Typed { value: config, written: values, mut faults, damage } = typed::<Config>(&tree, &schema(), faults)?;
        let mut found = Faults::default();
        config.check(&damage, &mut found);
        faults.extend(located(&tree, &damage, found));
        Ok(Self { config, tree, values, faults, damage })
    }

    /// The configuration alone, if its sections find nothing wrong.
    pub fn config(mut self) -> Result<Config, ConfigError> {
        in_order(&mut self.faults);
        if self.faults.is_empty() { Ok(self.config) } else { Err(ConfigError::Faults { faults: self.faults }) }
    }

    /// An error if something could not be read, so that what seems to be missing may be there.
    pub fn whole(&self) -> Result<(), ConfigError> {
        if self.damage == Damage::default() {
            return Ok(());
        }
        let mut faults = self.faults.clone();
        in_order(&mut faults);
        Err(ConfigError::Faults { faults })
    }

    /// The configuration with everything that a start reads, if nothing is wrong with either. Blocks.
    pub fn settings(mut self) -> Result<Settings, ConfigError> {
        let mut outside = Outside::check(&self.config, self.values, &self.damage);
        let mut faults = self.faults;
        faults.extend(located(&self.tree, &self.damage, outside.faults));
        in_order(&mut faults);
        faults.append(&mut outside.in_files);
        if !faults.is_empty() {
            return Err(ConfigError::Faults { faults });
        }
        let mut warnings = outside.warnings;
        if let Some(agent) = &mut self.config.agent {
            warnings.within("agent", |w| agent.warn(w));
        }
        let warnings = located(&self.tree, &self.damage, warnings);
        Ok(Settings { config: self.config, values: outside.values, warnings })
    }
}

fn in_order(faults: &mut [LocatedFault]) {
    faults.sort_by_key(|fault| (fault.place.line(), fault.place.column()));
}

/// Checks the text of a file; `file` is its name for messages.
pub fn parse(file: &str, text: &str, variables: &Variables) -> Result<Config, ConfigError> {
    Written::typed(rooted(file, text)?, variables)?.config()
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
    let Typed { value, damage, mut faults, .. } = typed(&root, &schema_of::<T>(), Vec::new())?;
    let mut found = Faults::default();
    check(&value, &mut found);
    faults.extend(located(&root, &damage, found));
    if faults.is_empty() { Ok(value) } else { Err(ConfigError::Faults { faults }) }
}

/// What of a tree fits its types.
struct Typed<T> {
    value: T,
    /// Its values as they are written.
    written: Json,
    faults: Vec<LocatedFault>,
    damage: Damage,
}

/// Types a tree by a schema, without what does not fit. An error are faults that leave nothing to type.
fn typed<T: DeserializeOwned>(root: &Node, schema: &Json, faults: Vec<LocatedFault>) -> Result<Typed<T>, ConfigError> {
    let mut by_schema = Check::new(schema, faults);
    let written = by_schema.node(root, schema);
    let (mut faults, damage) = (by_schema.faults, by_schema.damage);
    if let Some(written) = written {
        match serde_json::from_value::<T>(written.clone()) {
            Ok(value) => return Ok(Typed { value, written, faults, damage }),
            // What was left out may be the cause.
            Err(_) if !faults.is_empty() => {}
            Err(error) => faults.push(LocatedFault::new(root.place.clone(), error.to_string())),
        }
    }
    Err(ConfigError::Faults { faults })
}

/// Finds the places of faults that stand on their own.
fn located(root: &Node, damage: &Damage, faults: Faults) -> Vec<LocatedFault> {
    let locate = |fault: millrace_log::value::Fault| {
        let place = match fault.inside {
            Some((line, column)) => root.place_inside(&fault.path, line, column),
            None => root.place_of(&fault.path).clone(),
        };
        let path = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
        LocatedFault::new(place, format!("{path}{}", fault.message))
    };
    damage.remaining(faults.into_vec()).into_iter().map(locate).collect()
}
