//! The whole command line: flags agree over all commands, and help texts follow one style.

use clap::CommandFactory as _;

use super::Command;

/// Every command with its path, as in `millrace broker topics list`.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(path: String, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
        all.push((path.clone(), command.clone()));
        for inner in command.get_subcommands() {
            walk(format!("{path} {}", inner.get_name()), inner, all);
        }
    }
    let mut root = Command::command();
    root.build();
    let mut all = Vec::new();
    walk("millrace".to_owned(), &root, &mut all);
    assert!(all.len() > 25, "the walk finds the commands");
    all
}

#[test]
fn the_command_line_is_consistent() {
    Command::command().debug_assert();
}

#[test]
fn flags_agree_over_all_commands() {
    let mut faults = Vec::new();
    for (path, command) in commands() {
        for argument in command.get_arguments() {
            let (long, short) = (argument.get_long().unwrap_or_default(), argument.get_short());
            let mut expect = |agrees: bool, what: &str| {
                if !agrees {
                    faults.push(format!("{path}: --{long}: {what}"));
                }
            };
            let takes_file = argument.get_value_names().is_some_and(|names| names == ["FILE"]);
            match long {
                "config" => expect(short == Some('c') && takes_file, "the configuration is -c/--config FILE"),
                "output" => {
                    expect(short == Some('o'), "the output is -o/--output");
                    let values: Vec<String> =
                        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
                    expect(takes_file || values == ["table", "json"], "output formats are table and json");
                }
                "limit" => expect(short == Some('n'), "the limit is -n/--limit"),
                "yes" => expect(short == Some('y'), "confirmation is -y/--yes"),
                "topic" => expect(short == Some('t'), "a topic is -t/--topic"),
                _ => {}
            }
            let hidden = argument.is_hide_set();
            expect(long != "json" || hidden, "JSON output is -o json");
            expect(!matches!(long, "count" | "newest" | "config-file") || hidden, "this name is an alias only");
            expect(short != Some('c') || long == "config", "-c is the configuration");
            expect(short != Some('o') || long == "output", "-o is the output");
            expect(short != Some('n') || long == "limit", "-n is the limit");
        }
        // A command that connects to a cluster or serves a role takes the configuration.
        let flag = |name: &str| command.get_arguments().any(|argument| argument.get_long() == Some(name));
        if flag("data-dir") || flag("brokers") {
            assert!(flag("config"), "{path}: has no --config");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn help_follows_one_style() {
    // Phrases of the list in tests/tidy.rs that help texts are most prone to.
    let banned = ["is no ", "is told", "adds up", "stands still", "in the way", "goes by", "the door", "every fault"];
    let mut faults = Vec::new();
    let mut check = |place: String, help: Option<&clap::builder::StyledStr>| {
        let Some(text) = help.map(ToString::to_string) else {
            faults.push(format!("{place}: no help"));
            return;
        };
        if text.ends_with('.') {
            faults.push(format!("{place}: ends with a full stop: {text}"));
        }
        if !text.starts_with(|c: char| c.is_uppercase()) {
            faults.push(format!("{place}: begins with a small letter: {text}"));
        }
        faults.extend(banned.iter().filter(|b| text.contains(**b)).map(|b| format!("{place}: `{b}`: {text}")));
    };
    for (path, command) in commands() {
        check(path.clone(), command.get_about());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            check(format!("{path} {}", argument.get_id()), argument.get_help());
            for value in argument.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
                if let Some(help) = value.get_help() {
                    check(format!("{path} {}={}", argument.get_id(), value.get_name()), Some(help));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_shell_gets_a_script_with_the_commands() {
    use clap::ValueEnum as _;
    for shell in clap_complete::Shell::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Command::command(), "millrace", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("validate") && script.contains("doctor"), "{shell}");
    }
}
