//! `millrace routes check` and `routes test`, with the outputs of amtool.
//!
//! In: an `alertmanager.yml`, labels of an alert. Out: what is wrong in it; the receivers that the alert reaches. Touches the file,
//! by reading.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use millrace_log::alert::LabelSet;
use millrace_notify::matcher::{Matcher, Operator, list_text};
use millrace_notify::routing::Routing;

use super::terminal::print;
use crate::exit::{Code, Failure};

/// What is done with an Alertmanager configuration.
#[derive(Debug, Subcommand)]
pub enum RoutesVerb {
    /// Check Alertmanager configurations and report all errors with line and column; exit status 78 if there are any
    Check {
        /// Files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show which receivers an alert with these labels reaches, in order
    Test {
        /// Alertmanager configuration
        #[arg(long = "config.file", alias = "config-file", value_name = "FILE")]
        file: PathBuf,
        /// Receivers that it should reach, joined by commas; exit status 1 if it reaches others
        #[arg(long = "verify.receivers", alias = "verify-receivers", value_name = "NAMES")]
        verify: Option<String>,
        /// Show the routes too
        #[arg(long)]
        tree: bool,
        /// Labels as `name=value`
        labels: Vec<String>,
    },
}

/// Runs the command.
pub fn routes(verb: &RoutesVerb) -> Result<(), Failure> {
    match verb {
        RoutesVerb::Check { files } => check(files),
        RoutesVerb::Test { file, verify, tree, labels } => test(file, verify.as_deref(), *tree, labels),
    }
}

fn check(files: &[PathBuf]) -> Result<(), Failure> {
    let mut faults = Vec::new();
    for file in files {
        match Routing::read(file) {
            Ok(routing) => print(&format!(
                "Checking '{}'  SUCCESS\nFound:\n - global config\n - route\n - {} inhibit rules\n - {} receivers\n - 0 templates\n\n",
                file.display(),
                routing.inhibit_rules.len(),
                routing.receivers.len()
            ))?,
            Err(error) => {
                print(&format!("Checking '{}'  FAILED\n\n", file.display()))?;
                faults.push(error.to_string());
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::text(Code::Config, faults.join("\n"))) }
}

/// Labels as they are typed.
fn labels(texts: &[String]) -> Result<LabelSet, Failure> {
    let mut labels = LabelSet::new();
    for text in texts {
        let matcher = Matcher::parse(text).map_err(|fault| Failure::text(Code::Usage, fault))?;
        if matcher.operator != Operator::Equal {
            let text = format!("label `{text}` must be written as `name=value`");
            return Err(Failure::text(Code::Usage, text));
        }
        labels.insert(matcher.name, matcher.value);
    }
    Ok(labels)
}

fn test(file: &Path, verify: Option<&str>, tree: bool, texts: &[String]) -> Result<(), Failure> {
    let labels = labels(texts)?;
    let routing = Routing::read(file).map_err(|error| Failure::new(Code::Config, error))?;
    let routes = routing.routes_of(&labels);
    if tree {
        let lines: String =
            routes.iter().map(|route| format!("{}  receiver: {}\n", route.key, route.receiver)).collect();
        print(&format!("Matching routes:\n{lines}\n"))?;
    }
    let receivers = routes.iter().map(|route| route.receiver.as_str()).collect::<Vec<_>>().join(",");
    print(&format!("{receivers}\n"))?;
    match verify {
        Some(wanted) if wanted.split(',').map(str::trim).collect::<Vec<_>>().join(",") != receivers => {
            let text = format!(
                "expected receivers did not match resolved receivers: {wanted} expected for {}",
                shown(&labels)
            );
            Err(Failure::text(Code::Failed, text))
        }
        _ => Ok(()),
    }
}

fn shown(labels: &LabelSet) -> String {
    let matcher = |(name, value): (&String, &String)| Matcher::new(name.as_str(), Operator::Equal, value.as_str()).ok();
    list_text(&labels.iter().filter_map(matcher).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_reach_the_receivers_of_their_routes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alertmanager.yml");
        let text = "route: {receiver: a, routes: [{matchers: [team=x], receiver: b, continue: true}, {match_re: {team: x|y}, receiver: c}]}\n\
                    receivers: [{name: a}, {name: b}, {name: c}]\n";
        std::fs::write(&file, text).unwrap();
        let asked = |labels: &[&str], verify: &str| {
            let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
            test(&file, Some(verify), false, &labels).map_err(|failure| failure.to_string())
        };
        assert_eq!(asked(&["team=x"], "b,c"), Ok(()));
        assert_eq!(asked(&["team=\"y\""], "c"), Ok(()));
        assert_eq!(asked(&[], "a"), Ok(()));
        for (labels, verify, want) in [
            (["team=x"], "b", "did not match"),
            (["team!=x"], "b", "written as `name=value`"),
            (["team"], "b", "bad matcher format"),
        ] {
            let error = asked(&labels, verify).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        std::fs::write(&file, text.replace("receiver: c}", "receiver: d}")).unwrap();
        assert!(asked(&[], "a").unwrap_err().contains("unknown receiver `d`"));
        assert!(check(&[file]).unwrap_err().to_string().contains("unknown receiver `d`"));
    }
}
