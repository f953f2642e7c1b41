//! `millrace broker`: the role itself, and administration of any Kafka cluster: topics, groups, records, data folders.
//!
//! In: arguments. Out: tables or JSON on standard output, an exit status. Side effects: network, through
//! [`millrace_log::admin`]; `fsck` reads and repairs a data folder instead.

/// An admin connection of a command.
mod admin;
/// `broker topics`.
mod topics;
/// `broker groups`.
mod groups;
/// Records as text or JSON.
pub mod format;
/// `broker consume`.
mod consume;
/// `broker fsck`.
mod fsck;

use clap::{Args, Subcommand};

use super::cluster::{ClientFlags, connection};
use super::flags::ConfigFlags;
use super::runtime::block_on;
use super::serve::{self, Role};
use crate::exit::Failure;
use admin::with_admin;

/// Run the broker alone; with a subcommand: administer it, or any other Kafka cluster
#[derive(Debug, Args)]
pub struct BrokerArgs {
    #[command(flatten)]
    file: ConfigFlags,
    #[command(subcommand)]
    verb: Option<BrokerVerb>,
}

#[derive(Debug, Subcommand)]
enum BrokerVerb {
    /// List, describe, create, delete, alter and trim topics
    Topics {
        #[command(flatten)]
        client: ClientFlags,
        #[command(subcommand)]
        verb: topics::TopicsVerb,
    },
    /// List, describe, reset and delete consumer groups
    Groups {
        #[command(flatten)]
        client: ClientFlags,
        #[command(subcommand)]
        verb: groups::GroupsVerb,
    },
    /// Show records of a topic
    Consume {
        #[command(flatten)]
        client: ClientFlags,
        #[command(flatten)]
        flags: Box<consume::ConsumeFlags>,
    },
    /// Check and repair the data folder of a stopped broker
    Fsck(fsck::FsckFlags),
}

/// Serves, or administers a cluster.
pub fn broker(args: BrokerArgs) -> Result<(), Failure> {
    let file = args.file;
    match args.verb {
        None => serve::role(&file, Role::Broker),
        Some(BrokerVerb::Topics { client, verb }) => with_admin(&file, client, async |asker| asker.topics(verb).await),
        Some(BrokerVerb::Groups { client, verb }) => with_admin(&file, client, async |asker| asker.groups(verb).await),
        Some(BrokerVerb::Consume { client, flags }) => {
            let connection = connection(&file, &client)?;
            block_on(consume::consume(connection, *flags, client.output))
        }
        Some(BrokerVerb::Fsck(flags)) => fsck::check(&file, flags),
    }
}
