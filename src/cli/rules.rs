//! `millrace rules check`.

use super::print;
use crate::exit::{Code, Failure};

/// Shows every fault of the files, or how many rules there are.
pub fn check(files: &[String]) -> Result<(), Failure> {
    let report = millrace_rules::file::check_files(files);
    if report.faults.is_empty() {
        return print(&format!("good: {} rules in {} files\n", report.rules, report.files));
    }
    let mut lines: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let count = lines.len();
    lines.push(format!("{count} {} in the rule files", if count == 1 { "fault" } else { "faults" }));
    Err(Failure::text(Code::Config, lines.join("\n")))
}
