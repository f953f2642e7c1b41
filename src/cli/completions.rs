//! `millrace completions`: a completion script for bash, zsh, fish and other shells.
//!
//! In: the name of a shell. Out: the script on standard output. Side effects: none.

use clap_complete::Shell;

use super::terminal::print;
use crate::exit::Failure;

/// Prints the script of `command`, the whole command line.
pub fn completions(mut command: clap::Command, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "millrace", &mut script);
    print(&String::from_utf8_lossy(&script))
}
