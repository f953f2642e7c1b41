//! The admin connection that `topics` and `groups` share.
//!
//! In: flags. Out: [`Administration`], to which each adds its commands. Side effects: network.

use millrace_log::admin::Admin;

use crate::cli::cluster::{ClientFlags, connection, failed};
use crate::cli::flags::ConfigFlags;
use crate::cli::runtime::block_on;
use crate::cli::terminal::Output;
use crate::exit::Failure;

/// A connection to the cluster, and how results are printed.
pub struct Administration {
    /// The connection.
    pub admin: Admin,
    /// Format of results.
    pub output: Output,
}

/// Connects and runs `command`.
pub fn with_admin(
    file: &ConfigFlags,
    flags: ClientFlags,
    command: impl AsyncFnOnce(&mut Administration) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let connection = connection(file, &flags)?;
    block_on(async {
        let admin = Admin::connect(&connection).await.map_err(failed)?;
        command(&mut Administration { admin, output: flags.output }).await
    })
}
