//! `millrace dlq`: lists, shows and replays dead letters.
//!
//! In: arguments. Out: tables or JSON on standard output, an exit status. Side effects: network; reads one topic, and
//! `replay` writes to the topics that the letters came from. A thread of its own reads up to the end that the topic had at
//! the start, to a limit, or to a signal. The headers are described in [`millrace_log::dead_letter`].

/// One dead letter.
mod letter;
/// Which letters were replayed, in the offsets of a consumer group.
mod memory;
/// Filters, and reading the topic.
mod reading;
/// `dlq list`.
mod list;
/// `dlq show`.
mod show;
/// `dlq replay`.
mod replay;

use clap::{Args, Subcommand};

use super::cluster::{ClientFlags, connection_and_config};
use super::flags::ConfigFlags;
use super::runtime::block_on;
use super::terminal::Output;
use crate::exit::{Code, Failure};

/// List, show and replay dead letters: records that a stage could not process
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(flatten)]
    client: ClientFlags,
    /// Topic of the dead letters [default: that of the configuration, otherwise millrace.dlq]
    #[arg(long, value_name = "TOPIC", global = true)]
    dlq_topic: Option<String>,
    /// Consumer group that remembers which letters were replayed
    #[arg(long, value_name = "GROUP", default_value = "millrace-dlq-replay", global = true)]
    group: String,
    #[command(subcommand)]
    verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
enum DlqVerb {
    /// Count letters by reason, stage and topic, and list the newest
    List(list::ListFlags),
    /// Show one letter with headers, key and value
    Show {
        /// PARTITION@OFFSET, as printed by `list`
        letter: String,
    },
    /// Write letters back to the topics they came from, each once
    Replay(replay::ReplayFlags),
}

/// Runs the command.
pub fn dlq(args: DlqArgs) -> Result<(), Failure> {
    let (connection, config) = connection_and_config(&ConfigFlags::default(), &args.client)?;
    let audit = config.as_ref().map(|config| config.access.audit.clone()).unwrap_or_default();
    let of_config = config.and_then(|config| config.agent).map(|agent| agent.dead_letter_topic);
    let topic = args.dlq_topic.or(of_config).unwrap_or_else(|| "millrace.dlq".to_owned());
    if !millrace_log::record::is_topic_name(&topic) {
        return Err(Failure::text(Code::Usage, format!("--dlq-topic: invalid topic name `{topic}`")));
    }
    let place = reading::DeadLetters { connection, topic, group: args.group, audit };
    let output: Output = args.client.output;
    block_on(async {
        match args.verb {
            DlqVerb::List(flags) => list::list(&place, &flags, output).await,
            DlqVerb::Show { letter } => show::show(&place, &letter, output).await,
            DlqVerb::Replay(flags) => replay::replay(&place, flags, output).await,
        }
    })
}
