//! Flags that name the configuration, the same for every command that reads one.
//!
//! In: arguments. Out: [`ConfigFlags`]. Side effects: none.

use std::path::PathBuf;

use clap::Args;

/// Which configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFlags {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data folder; overrides `data_dir`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}
