//! `millrace rules check`.

use super::terminal::print;
use crate::exit::{Code, Failure};

/// Reports all errors in the files, or the number of rules.
pub fn check(files: &[String]) -> Result<(), Failure> {
    match millrace_rules::file::load(files) {
        Ok(set) if set.rule_count() == 0 => {
            let text = format!("no rule was found: no file matches {}, or they hold none", files.join(" "));
            Err(Failure::text(Code::Config, text))
        }
        Ok(set) => {
            let count = set.rule_count();
            print(&format!("OK: {count} {}\n", if count == 1 { "rule" } else { "rules" }))
        }
        Err(faults) => {
            let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let count = lines.len();
            lines.push(format!("{count} {} in the rule files", if count == 1 { "error" } else { "errors" }));
            Err(Failure::text(Code::Config, lines.join("\n")))
        }
    }
}
