//! The Kafka cluster that commands work with: flags, connection, errors.
//!
//! In: flags and, where they leave something open, the configuration. Out: a connection. Side effects: network.

use std::path::PathBuf;

use clap::Args;
use millrace_log::admin::AdminError;
use millrace_log::client::ConnectionConfig;
use millrace_log::value::Secret;

use super::flags::ConfigFlags;
use super::terminal::Output;
use super::validate;
use crate::config::Config;
use crate::exit::{Code, Failure};

/// Which cluster, and how results are printed.
#[derive(Debug, Args)]
pub struct ClientFlags {
    /// Configuration file with the address and login of the broker
    #[arg(
        id = "client_config",
        short = 'c',
        long = "config",
        alias = "config-file",
        value_name = "FILE",
        global = true,
        help_heading = "Connection options"
    )]
    file: Option<PathBuf>,
    /// Addresses HOST:PORT of the cluster, separated by commas [default: the broker of the configuration]
    #[arg(
        short,
        long,
        value_name = "ADDRESSES",
        value_delimiter = ',',
        global = true,
        help_heading = "Connection options"
    )]
    brokers: Vec<String>,
    /// Connect with TLS
    #[arg(long, global = true, help_heading = "Connection options")]
    tls: bool,
    /// CA certificates to trust, PEM [default: those of the system]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection options")]
    ca_file: Option<String>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection options")]
    cert_file: Option<String>,
    /// Private key of the client certificate, PEM
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection options")]
    key_file: Option<String>,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, value_name = "NAME", global = true, help_heading = "Connection options")]
    sasl_mechanism: Option<String>,
    /// User name
    #[arg(long, value_name = "USER", global = true, help_heading = "Connection options")]
    sasl_username: Option<String>,
    /// Password; prefer `file:PATH` or `env:NAME`
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "MILLRACE_SASL_PASSWORD",
        hide_env_values = true,
        global = true,
        help_heading = "Connection options"
    )]
    sasl_password: Option<String>,
    /// Client settings under librdkafka's names, such as `socket.timeout.ms`
    #[arg(short = 'X', long = "option", value_name = "KEY=VALUE", value_parser = pair, global = true, help_heading = "Connection options")]
    options: Vec<(String, String)>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}`: expected KEY=VALUE")),
    }
}

/// The connection of the flags; what they leave open is taken from the configuration.
pub fn connection(file: &ConfigFlags, flags: &ClientFlags) -> Result<ConnectionConfig, Failure> {
    connection_and_config(file, flags).map(|(connection, _)| connection)
}

/// The same, and the configuration if one was read.
pub fn connection_and_config(
    file: &ConfigFlags,
    flags: &ClientFlags,
) -> Result<(ConnectionConfig, Option<Config>), Failure> {
    let file = &ConfigFlags { config: flags.file.clone().or_else(|| file.config.clone()), data_dir: None };
    if let Some(path) = file.config.as_ref().filter(|path| !path.exists())
        && path.to_string_lossy().contains('=')
    {
        let text = format!("--config names the configuration file: use --set {} for a topic setting", path.display());
        return Err(Failure::text(Code::Usage, text));
    }
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

/// The exit status of an error of the cluster.
pub fn failed(error: AdminError) -> Failure {
    let code = match &error {
        AdminError::Tls { .. } | AdminError::Setup { .. } | AdminError::Secret(_) => Code::Config,
        error if error.is_unavailable() => Code::Unavailable,
        _ => Code::Failed,
    };
    Failure::new(code, error)
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
        let listener = "{name: a, listen: \"k:1\", sasl: {mechanisms: [PLAIN]}}";
        let both = read(&format!("broker: {{listeners: [{listener}], users: [{{name: u, password: p}}]}}\n{text}"));
        assert_eq!(both.sasl_mechanism, "PLAIN", "the login of those who reach it");
    }
}
