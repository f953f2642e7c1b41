//! `millrace dlq`: what no stage could use, kept in the dead-letter topic: why, what, and back again.
//!
//! In: arguments. Out: tables or JSON on standard output, an exit code. Touches the network: reads one topic, and
//! `replay` writes to the topics that the letters came from. A thread of its own reads; it ends at the end of the topic
//! as it was at the start, at a limit, or at a signal. Leaves the headers to [`millrace_log::dead_letter`].

/// One dead letter, and what `list`, `show` and `replay` say of it.
mod letter;
/// Which letters are meant, and reading them.
mod reading;
/// `dlq list`.
mod list;
/// `dlq show`.
mod show;
/// `dlq replay`.
mod replay;
/// What was replayed, in the offsets of a consumer group.
mod memory;

use clap::{Args, Subcommand};

use super::ConfigFlags;
use super::broker::{self, ClientFlags, Output};
use super::{print, runtime};
use crate::exit::{Code, Failure};

pub use letter::shortened;

/// Dead letters: records that no stage could use, with the reason.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(flatten)]
    client: ClientFlags,
    /// The topic of the dead letters. Without it: that of the configuration, else millrace.dlq.
    #[arg(long, value_name = "TOPIC", global = true)]
    dlq_topic: Option<String>,
    /// Consumer group that remembers what was replayed.
    #[arg(long, value_name = "GROUP", default_value = "millrace-dlq-replay", global = true)]
    group: String,
    #[command(subcommand)]
    verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
enum DlqVerb {
    /// Counts by reason, stage and topic, and the newest letters.
    List(list::ListFlags),
    /// One letter whole: why, headers, key and value.
    Show {
        /// PARTITION@OFFSET, as `list` shows it.
        letter: String,
    },
    /// Sends letters back to the topics they came from, each once.
    Replay(replay::ReplayFlags),
}

/// Does what was asked.
pub fn dlq(args: DlqArgs) -> Result<(), Failure> {
    let file = ConfigFlags { config: None, data_dir: None };
    let (connection, config) = broker::connection_and_config(&file, &args.client)?;
    let of_config = config.and_then(|config| config.agent).map(|agent| agent.dead_letter_topic);
    let topic = args.dlq_topic.or(of_config).unwrap_or_else(|| "millrace.dlq".to_owned());
    if !millrace_log::record::is_topic_name(&topic) {
        return Err(Failure::text(Code::Usage, format!("--dlq-topic `{topic}` is no topic")));
    }
    let place = reading::DeadLetters { connection, topic, group: args.group };
    let output: Output = args.client.output;
    runtime()?.block_on(async {
        match args.verb {
            DlqVerb::List(flags) => list::list(&place, &flags, output).await,
            DlqVerb::Show { letter } => show::show(&place, &letter, output).await,
            DlqVerb::Replay(flags) => replay::replay(&place, flags, output).await,
        }
    })
}
