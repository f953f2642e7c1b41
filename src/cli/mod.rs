//! The command line: one file per verb. Names of commands and flags are fixed, people and scripts rely on them.
//!
//! In: arguments. Out: a result with its exit code. Leaves the work to the library.

/// `broker`, and what looks after topics, groups and records.
mod broker;
/// `run`, `agent`, `broker`, `aggregator`: processes that serve until a signal.
mod serve;
/// `demo`.
mod demo;
/// `validate` and `schema`.
mod validate;
/// `rules check`.
mod rules;
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
/// `dlq`.
mod dlq;
/// `import`.
mod import;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit::Failure;

/// Log aggregation and alerting: agents tail files into a partitioned log that speaks the Kafka protocol; an
/// aggregator indexes it, answers the Loki and Elasticsearch APIs; rules page the person on call.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, disable_help_subcommand = true)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
    /// How much to log: error, warn, info, debug, or a filter such as `info,millrace_log=debug`.
    #[arg(long, global = true, env = "MILLRACE_LOG", default_value = "info")]
    log_level: String,
    /// How to log.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
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
    /// Every role of the configuration in one process; without a file all of them with their defaults.
    Run {
        #[command(flatten)]
        file: ConfigFlags,
        /// Files or globs to tail with the defaults, without a configuration.
        #[arg(conflicts_with = "config")]
        paths: Vec<String>,
    },
    /// Only the agent: tails files into the log.
    Agent(ConfigFlags),
    /// Only the broker: the partitioned log. With a subcommand: looks after it, or after any other Kafka.
    Broker(broker::BrokerArgs),
    /// Only the routes of the section `broker`: copies records from topic to topic, on the log or on a real Kafka.
    Router(ConfigFlags),
    /// Only the aggregator: index, APIs, page, rules, exports.
    Aggregator(ConfigFlags),
    /// The whole path on this machine: generated services, an error burst in one region, and its page.
    Demo {
        /// End after this time: exit 0 if the page and its end arrived, else 1.
        #[arg(long = "for", value_parser = millrace_log::value::Span::parse)]
        time: Option<millrace_log::value::Span>,
    },
    /// Shows every fault of the configuration with line and column; exit 78 if there is one.
    Validate(ConfigFlags),
    /// Prints the JSON schema of the configuration.
    Schema,
    /// Tests of the agent's transforms, written in YAML: lines in, what must become of them out; exit 1 if one fails.
    Test {
        #[command(flatten)]
        file: ConfigFlags,
        /// Files or globs. Left out: those of `agent.transform_tests`.
        files: Vec<String>,
        /// How to show the results.
        #[arg(short, long, value_enum, default_value_t = broker::Output::Table)]
        output: broker::Output,
    },
    /// Rule files.
    #[command(subcommand)]
    Rules(RulesVerb),
    /// Shows the ledger of a running process: what was read, stored, dropped and waits at each hop, what is behind, and
    /// which hop is the slowest; exit 1 if one does not add up.
    Doctor {
        #[command(flatten)]
        door: door::DoorFlags,
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows live records: as an agent reads them, as the log took them, what was dropped, what can be searched.
    Tap(tap::TapArgs),
    /// The ledger of a running process as a terminal view: hops, what is in the way, sources by rate.
    Top(top::TopArgs),
    /// Turns the configuration of Promtail, Vector, Filebeat or Fluent Bit into one of Millrace's, and says what it could
    /// not carry over; exit 3 if there was something.
    Import(import::ImportArgs),
    /// Dead letters: records that no stage could use, with the reason; and back to where they came from.
    Dlq(dlq::DlqArgs),
}

#[derive(Debug, Subcommand)]
enum RulesVerb {
    /// Shows every fault of rule files with line and column; exit 78 if there is one.
    Check {
        /// Files or globs.
        #[arg(required = true)]
        files: Vec<String>,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
struct ConfigFlags {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for everything that is kept; overrides `data_dir`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Command {
    /// Does what was asked.
    pub fn execute(self) -> Result<(), Failure> {
        if !matches!(self.verb, Verb::Demo { .. }) {
            start_logging(&self.log_level, self.log_format)?;
        }
        match self.verb {
            Verb::Run { file, paths } => serve::run(&file, &paths),
            Verb::Agent(file) => serve::role(&file, serve::Role::Agent),
            Verb::Broker(args) => broker::broker(args),
            Verb::Router(file) => serve::router(&file),
            Verb::Aggregator(file) => serve::role(&file, serve::Role::Aggregator),
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
            Verb::Doctor { door, json } => doctor::doctor(&door, json),
            Verb::Tap(args) => tap::tap(&args),
            Verb::Top(args) => top::top(&args),
            Verb::Import(args) => import::import(&args),
            Verb::Dlq(args) => dlq::dlq(args),
        }
    }
}

fn start_logging(level: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(level).map_err(|error| {
        Failure::text(crate::exit::Code::Usage, format!("--log-level `{level}` is no filter: {error}"))
    })?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// The runtime of commands that serve or ask.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millrace").build()?)
}

/// Writes to standard output; a closed pipe (`| head`) is no fault.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A time in ms since 1970: RFC 3339, ms since 1970, a date, or a span before now such as `2h`.
fn time_ms(text: &str) -> Result<i64, Failure> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc().timestamp_millis());
        }
    }
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis());
    }
    if let Ok(span) = millrace_log::value::Span::parse(text.trim_start_matches('-')) {
        let now = millrace_log::clock::Clock::now_ns(&millrace_log::clock::SystemClock) / 1_000_000;
        return Ok(now.saturating_sub(i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)));
    }
    Err(Failure::text(
        crate::exit::Code::Usage,
        format!("`{text}` is no time: expected 2026-02-03T04:05:06Z, ms since 1970, or a span such as `2h`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Command::command().debug_assert();
    }
}
