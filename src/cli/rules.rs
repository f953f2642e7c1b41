//! `millrace rules check`.

use super::terminal::print;
use crate::exit::{Code, Failure};

/// Shows every fault of the files, or how many rules there are.
pub fn check(files: &[String]) -> Result<(), Failure> {
    match millrace_rules::file::load(files) {
        Ok(set) if set.rule_count() == 0 => {
            let text = format!("no rule was found: no file matches {}, or they hold none", files.join(" "));
            Err(Failure::text(Code::Config, text))
        }
        Ok(set) => print(&format!("good: {} rules\n", set.rule_count())),
        Err(faults) => {
            let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let count = lines.len();
            lines.push(format!("{count} {} in the rule files", if count == 1 { "fault" } else { "faults" }));
            Err(Failure::text(Code::Config, lines.join("\n")))
        }
    }
}
