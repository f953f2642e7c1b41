//! `millrace broker`: the role itself, and looking after any Kafka: topics, groups, records, data folders.
//!
//! In: arguments. Out: tables or JSON on standard output, an exit code. Touches the network through
//! [`millrace_log::admin`]; `fsck` touches a data folder instead.

/// Aligned columns, and numbers as people read them.
pub mod table;
/// `broker topics`.
mod topics;
/// `broker groups`.
mod groups;
/// `broker consume`.
pub mod consume;
/// `broker fsck`.
mod fsck;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use millrace_log::admin::{Admin, AdminError};
use millrace_log::client::ConnectionConfig;
use millrace_log::value::Secret;
use serde::Serialize;

use super::serve::{self, Role};
use super::{ConfigFlags, print, runtime, validate};
use crate::config::Config;
use crate::exit::{Code, Failure};

/// Only the broker: the partitioned log. With a subcommand: looks after it, or after any other Kafka.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for everything that is kept; overrides `data_dir`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<BrokerVerb>,
}

#[derive(Debug, Subcommand)]
enum BrokerVerb {
    /// Topics: list, describe, create, delete, alter, trim.
    Topics {
        #[command(flatten)]
        client: ClientFlags,
        #[command(subcommand)]
        verb: topics::TopicsVerb,
    },
    /// Consumer groups: list, describe, reset, delete.
    Groups {
        #[command(flatten)]
        client: ClientFlags,
        #[command(subcommand)]
        verb: groups::GroupsVerb,
    },
    /// Shows records of a topic.
    Consume {
        #[command(flatten)]
        client: ClientFlags,
        #[command(flatten)]
        flags: Box<consume::ConsumeFlags>,
    },
    /// Checks the data folder of a broker that does not run, explains and repairs.
    Fsck(fsck::FsckFlags),
}

/// Which cluster, and how to show what it says.
#[derive(Debug, Args)]
pub struct ClientFlags {
    /// Configuration file that says where the broker is and how to log in.
    #[arg(id = "client_config", short = 'c', long = "config-file", value_name = "FILE", global = true)]
    file: Option<PathBuf>,
    /// Addresses HOST:PORT of the cluster, joined by commas. Without it: the broker of the configuration.
    #[arg(short, long, value_name = "ADDRESSES", value_delimiter = ',', global = true)]
    brokers: Vec<String>,
    /// TLS to the brokers.
    #[arg(long, global = true)]
    tls: bool,
    /// Certificates of the authorities to trust, PEM. Without it: those of the system.
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<String>,
    /// This client's own certificate, PEM.
    #[arg(long, value_name = "FILE", global = true)]
    cert_file: Option<String>,
    /// The private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", global = true)]
    key_file: Option<String>,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    #[arg(long, value_name = "NAME", global = true)]
    sasl_mechanism: Option<String>,
    /// User to log in as.
    #[arg(long, value_name = "USER", global = true)]
    sasl_username: Option<String>,
    /// Its password: better `file:PATH` or `env:NAME` than the password itself.
    #[arg(long, value_name = "PASSWORD", env = "MILLRACE_SASL_PASSWORD", hide_env_values = true, global = true)]
    sasl_password: Option<String>,
    /// Further settings of librdkafka by their own names.
    #[arg(short = 'X', long = "option", value_name = "KEY=VALUE", value_parser = pair, global = true)]
    options: Vec<(String, String)>,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns for people.
    Table,
    /// One JSON document for programs; its fields stay.
    Json,
}

/// `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// Serves, or looks after a cluster.
pub fn broker(args: BrokerArgs) -> Result<(), Failure> {
    let file = ConfigFlags { config: args.config, data_dir: args.data_dir };
    match args.verb {
        None => serve::role(&file, Role::Broker),
        Some(BrokerVerb::Topics { client, verb }) => with_admin(&file, client, async |asker| asker.topics(verb).await),
        Some(BrokerVerb::Groups { client, verb }) => with_admin(&file, client, async |asker| asker.groups(verb).await),
        Some(BrokerVerb::Consume { client, flags }) => {
            let connection = connection(&file, &client)?;
            runtime()?.block_on(consume::consume(connection, *flags, client.output))
        }
        Some(BrokerVerb::Fsck(flags)) => fsck::check(&file, flags),
    }
}

/// A connection to the cluster, and how to show answers.
struct Asker {
    admin: Admin,
    output: Output,
}

fn with_admin(
    file: &ConfigFlags,
    flags: ClientFlags,
    ask: impl AsyncFnOnce(&mut Asker) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let connection = connection(file, &flags)?;
    runtime()?.block_on(async {
        let admin = Admin::connect(&connection).await.map_err(failed)?;
        let mut asker = Asker { admin, output: flags.output };
        ask(&mut asker).await
    })
}

/// What the flags say; what they leave open, the configuration says.
fn connection(file: &ConfigFlags, flags: &ClientFlags) -> Result<ConnectionConfig, Failure> {
    connection_and_config(file, flags).map(|(connection, _)| connection)
}

/// The same, and the configuration if one was read.
pub fn connection_and_config(
    file: &ConfigFlags,
    flags: &ClientFlags,
) -> Result<(ConnectionConfig, Option<Config>), Failure> {
    let file = &ConfigFlags { config: flags.file.clone().or_else(|| file.config.clone()), data_dir: None };
    let config = match (&file.config, flags.brokers.is_empty()) {
        (None, false) => None,
        _ => Some(validate::read(file)?),
    };
    let known = config.as_ref().map_or_else(ConnectionConfig::default, Config::log_connection);
    let brokers = if flags.brokers.is_empty() { known.brokers } else { flags.brokers.clone() };
    let mut connection = ConnectionConfig { brokers, ..known };
    connection.tls |= flags.tls || flags.ca_file.is_some() || flags.cert_file.is_some();
    for (flag, of) in [
        (&flags.ca_file, &mut connection.ca_file),
        (&flags.cert_file, &mut connection.cert_file),
        (&flags.key_file, &mut connection.key_file),
        (&flags.sasl_mechanism, &mut connection.sasl_mechanism),
        (&flags.sasl_username, &mut connection.sasl_username),
    ] {
        if let Some(value) = flag {
            of.clone_from(value);
        }
    }
    if let Some(password) = &flags.sasl_password {
        connection.sasl_password = Secret::new(password);
    }
    if flags.sasl_username.is_some() && connection.sasl_mechanism.is_empty() {
        connection.sasl_mechanism = "SCRAM-SHA-512".to_owned();
    }
    connection.options.extend(flags.options.iter().cloned());
    let mut faults = millrace_log::value::Faults::default();
    connection.check(&mut faults);
    match faults.into_vec().into_iter().next() {
        None => Ok((connection, config)),
        Some(fault) => {
            Err(Failure::text(Code::Usage, format!("--{}: {}", fault.path.replace('_', "-"), fault.message)))
        }
    }
}

pub fn failed(error: AdminError) -> Failure {
    let code = match &error {
        AdminError::Tls { .. } | AdminError::Setup { .. } | AdminError::Secret(_) => Code::Config,
        error if error.is_unavailable() => Code::Unavailable,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// Shows one document.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Asks before something is lost; `yes` answers beforehand.
fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::text(Code::Usage, format!("{what}: nobody is here to confirm it: repeat it with --yes")));
    }
    let mut shown = std::io::stderr();
    write!(shown, "{what}. Go on? [y/N] ")?;
    shown.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::text(Code::Failed, "left as it is")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_configuration_says_where_the_broker_is() {
        let variables = crate::config::environment::Variables::new();
        let read = |text: &str| crate::config::parse("f", text, &variables).unwrap().log_connection();
        assert_eq!(read("broker: {listen: \"0.0.0.0:9192\"}\n").brokers, ["127.0.0.1:9192"]);
        let text =
            "aggregator: {kafka: {brokers: [\"k:1\"], sasl_mechanism: PLAIN, sasl_username: u, sasl_password: p}}\n";
        let far = read(text);
        assert_eq!((far.brokers, far.sasl_username.as_str()), (vec!["k:1".to_owned()], "u"));
        let door = "{name: a, listen: \"k:1\", sasl: {mechanisms: [PLAIN]}}";
        let both = read(&format!("broker: {{listeners: [{door}], users: [{{name: u, password: p}}]}}\n{text}"));
        assert_eq!(both.sasl_mechanism, "PLAIN", "the login of those who reach it");
    }
}
