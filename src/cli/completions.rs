//! `millrace completions`: a completion script for bash, zsh, fish and other shells.
//!
//! In: the name of a shell. Out: the script on standard output. Side effects: none.

use std::fmt::Write as _;

use clap_complete::Shell;

use super::terminal::print;
use crate::exit::Failure;

/// Prints the script of `command`, the whole command line.
pub fn completions(command: clap::Command, shell: Shell) -> Result<(), Failure> {
    print(&script(command, shell))
}

fn script(mut command: clap::Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "millrace", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell == Shell::Fish {
        add_third_level(&command, &mut script);
    }
    script
}

/// Flags of commands such as `millrace broker topics create`: the generator for fish ends at the second level.
fn add_third_level(command: &clap::Command, script: &mut String) {
    for first in command.get_subcommands() {
        for second in first.get_subcommands() {
            for third in second.get_subcommands() {
                let is_here = format!(
                    "__fish_millrace_using_subcommand {}; and __fish_seen_subcommand_from {}; and __fish_seen_subcommand_from {}",
                    first.get_name(),
                    second.get_name(),
                    third.get_name()
                );
                for flag in third.get_arguments().filter(|flag| !flag.is_global_set() && !flag.is_hide_set()) {
                    let Some(long) = flag.get_long() else { continue };
                    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
                    let help = help.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', " ");
                    let short = flag.get_short().map(|short| format!(" -s {short}")).unwrap_or_default();
                    let value = if flag.get_action().takes_values() { " -r" } else { "" };
                    // Writing to a text can't fail.
                    writeln!(script, "complete -c millrace -n \"{is_here}\"{short} -l {long} -d '{help}'{value}").ok();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn scripts_know_the_flags_of_every_level() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(crate::cli::Command::command(), shell);
            for name in ["completions", "topics", "replication", "to-earliest", "log-level"] {
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
    }
}
