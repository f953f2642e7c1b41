//! The command line: one file per verb. Names of commands and flags are fixed, people and scripts rely on them.
//!
//! In: arguments. Out: a result with its exit code. Leaves the work to the library.

/// The async runtime.
mod runtime;
/// Standard output, JSON documents, confirmation.
mod terminal;
/// Aligned columns.
mod table;
/// Points in time.
mod time;
/// Which configuration.
mod flags;
/// `validate` and `schema`.
mod validate;
/// `run`, `agent`, `broker`, `aggregator`: processes that serve until a signal.
mod serve;
/// `demo`.
mod demo;
/// `rules check`.
mod rules;
/// `template render`.
mod template;
/// `routes check` and `routes test`.
mod routes;
/// `test`: transforms.
mod test;
/// How commands reach a running process.
mod door;
/// `doctor`.
mod doctor;
/// `tap`.
mod tap;
/// `top`.
mod top;
/// Which Kafka cluster.
mod cluster;
/// `broker`: the role, and administration of topics, groups and records.
mod broker;
/// `dlq`.
mod dlq;
/// `token`.
mod token;
/// `import`.
mod import;
/// `completions`.
mod completions;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::escape::LogWriter;
use crate::exit::Failure;
use flags::ConfigFlags;
use terminal::Output;

/// Log aggregation and alerting: agents tail files into a partitioned log that speaks the Kafka protocol, an aggregator
/// indexes it and answers the Loki and Elasticsearch APIs, rules page the person on call.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, disable_help_subcommand = true)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
    /// Log level: error, warn, info, debug, or a filter such as `info,millrace_log=debug`
    #[arg(long, global = true, env = "MILLRACE_LOG", default_value = "info", help_heading = "Logging options")]
    log_level: String,
    /// Log format
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging options")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // made once for a process
enum Verb {
    /// Run every role of the configuration in one process; without a configuration, all roles with their defaults
    Run {
        #[command(flatten)]
        file: ConfigFlags,
        /// Files or globs to tail with the defaults, without a configuration
        #[arg(conflicts_with = "config")]
        paths: Vec<String>,
    },
    /// Run the agent alone: tail files and receive pushes into the log
    Agent(ConfigFlags),
    /// Run the broker alone; with a subcommand: administer it, or any other Kafka cluster
    Broker(broker::BrokerArgs),
    /// Run the routes of the section `broker` alone: copy records between topics, on the embedded broker or on Kafka
    Router(ConfigFlags),
    /// Run the aggregator alone: index, APIs, page, rules, notifier, exports
    Aggregator(ConfigFlags),
    /// Run the notifier alone: Alertmanager's configuration, API and notifications
    Notifier(serve::NotifierArgs),
    /// Run everything with generated services: an error burst fires a rule and the page arrives
    Demo {
        /// Exit after this time: with status 0 if the page and its resolution arrived, otherwise 1
        #[arg(long = "for", value_name = "TIME", value_parser = millrace_log::value::Span::parse)]
        time: Option<millrace_log::value::Span>,
    },
    /// Check the configuration and report all errors with line and column; exit status 78 if there are any
    Validate(ConfigFlags),
    /// Print the JSON schema of the configuration
    Schema,
    /// Run tests of the agent's transforms; exit status 1 if one fails
    Test {
        #[command(flatten)]
        file: ConfigFlags,
        /// Test files or globs [default: those of `agent.transform_tests`]
        files: Vec<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Work with rule files
    #[command(subcommand)]
    Rules(RulesVerb),
    /// Work with templates of notifications
    #[command(subcommand)]
    Template(template::TemplateVerb),
    /// Check Alertmanager configurations and show which receivers alerts reach
    #[command(subcommand)]
    Routes(routes::RoutesVerb),
    /// Show the ledger of a running process: records read, stored, dropped and waiting at each stage; exit status 1 if one
    /// is not balanced
    Doctor {
        #[command(flatten)]
        door: door::DoorFlags,
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Same as `--output json`
        #[arg(long, hide = true)]
        json: bool,
    },
    /// Show live records: as sources read them, as the log stored them, dropped ones, or those that can be searched
    Tap(tap::TapArgs),
    /// Show the ledger of a running process in the terminal: stages, bottlenecks, sources by rate
    Top(top::TopArgs),
    /// Create, list and revoke tokens for the HTTP endpoints
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Convert the configuration of Promtail, Vector, Filebeat or Fluent Bit; exit status 3 if something could not be
    /// converted
    Import(import::ImportArgs),
    /// List, show and replay dead letters: records that a stage could not process
    Dlq(dlq::DlqArgs),
    /// Print a completion script for a shell
    Completions {
        /// Shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum RulesVerb {
    /// Check rule files and report all errors with line and column; exit status 78 if there are any
    Check {
        /// Files or globs
        #[arg(required = true)]
        files: Vec<String>,
    },
}

impl Command {
    /// Runs the command.
    pub fn execute(self) -> Result<(), Failure> {
        if !matches!(self.verb, Verb::Demo { .. } | Verb::Completions { .. }) {
            start_logging(&self.log_level, self.log_format)?;
        }
        match self.verb {
            Verb::Run { file, paths } => serve::run(&file, &paths),
            Verb::Agent(file) => serve::role(&file, serve::Role::Agent),
            Verb::Broker(args) => broker::broker(args),
            Verb::Router(file) => serve::router(&file),
            Verb::Aggregator(file) => serve::role(&file, serve::Role::Aggregator),
            Verb::Notifier(args) => serve::notifier(&args),
            Verb::Demo { time } => {
                // Between the lines of the demo only warnings are of interest, unless somebody asks.
                let level = if self.log_level == "info" { "warn".to_owned() } else { self.log_level };
                start_logging(&level, self.log_format)?;
                demo::demo(time.map(|span| span.0))
            }
            Verb::Validate(file) => validate::validate(&file),
            Verb::Schema => validate::schema(),
            Verb::Test { file, files, output } => test::test(&file, &files, output),
            Verb::Rules(RulesVerb::Check { files }) => rules::check(&files),
            Verb::Template(verb) => template::template(&verb),
            Verb::Routes(verb) => routes::routes(&verb),
            Verb::Doctor { door, output, json } => doctor::doctor(&door, json || output == Output::Json),
            Verb::Tap(args) => tap::tap(&args),
            Verb::Top(args) => top::top(&args),
            Verb::Token(verb) => token::token(verb),
            Verb::Import(args) => import::import(&args),
            Verb::Dlq(args) => dlq::dlq(args),
            Verb::Completions { shell } => completions::completions(Self::command(), shell),
        }
    }
}

fn start_logging(level: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(level).map_err(|error| {
        Failure::text(crate::exit::Code::Usage, format!("--log-level `{level}` is not a valid filter: {error}"))
    })?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(|| LogWriter(std::io::stderr()));
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
