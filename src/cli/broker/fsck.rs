//! `millrace broker fsck`: checks and repairs the data folder of a stopped broker.
//!
//! In: a folder. Out: a table or JSON with findings, an exit status. Side effects: reads the folder; with `--repair`, changes it.

use std::path::{Path, PathBuf};

use clap::Args;
use millrace_broker::storage::fsck::Severity;
use millrace_broker::storage::{FsckOptions, FsckReport, StorageError, fsck};
use millrace_log::fs::RealFs;

use crate::cli::flags::ConfigFlags;
use crate::cli::table::Table;
use crate::cli::terminal::{Output, print, print_json};
use crate::cli::validate;
use crate::exit::{Code, Failure};
use crate::human::bytes;

#[derive(Debug, Args)]
pub struct FsckFlags {
    /// Data folder of Millrace, or the `log` folder in it [default: `data_dir` of the configuration]
    folder: Option<PathBuf>,
    /// Configuration file
    #[arg(id = "fsck_config", short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Repair what can be repaired; unreadable data is moved aside, not deleted
    #[arg(long)]
    repair: bool,
    /// Only these topics
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Checks; exit 1 if something worse than a note is left.
pub fn check(file: &ConfigFlags, flags: FsckFlags) -> Result<(), Failure> {
    let folder = match (flags.folder, flags.config.or_else(|| file.config.clone())) {
        (Some(folder), _) => folder,
        (None, config) => validate::read(&ConfigFlags { config, data_dir: file.data_dir.clone() })?.data_dir,
    };
    let folder = log_folder(&folder);
    let options = FsckOptions { repair: flags.repair, topics: flags.topics };
    let report = fsck::fsck(&folder, &RealFs, options).map_err(|error| {
        let code = match &error {
            StorageError::InUse { .. } | StorageError::Newer { .. } | StorageError::NoLog { .. } => Code::Data,
            StorageError::Io { .. } => Code::Data,
            _ => Code::Failed,
        };
        Failure::new(code, error)
    })?;
    match flags.output {
        Output::Json => print_json(&report)?,
        Output::Table => print(&table(&report))?,
    }
    if report.is_sound() {
        return Ok(());
    }
    let left = report.findings.iter().filter(|f| !f.repaired && f.severity > Severity::Note).count();
    let cure = if flags.repair { "see the findings above" } else { "run again with --repair" };
    Err(Failure::text(Code::Failed, format!("{}: {left} findings remain: {cure}", folder.display())))
}

/// People name the folder that the configuration names; the log is in it.
fn log_folder(folder: &Path) -> PathBuf {
    let inside = folder.join("log");
    if inside.is_dir() && !folder.join("topics.json").exists() { inside } else { folder.to_owned() }
}

fn table(report: &FsckReport) -> String {
    let mut table =
        Table::new(&["topic", ">partition", ">segments", ">size", ">batches", ">records", ">start", ">end"]);
    for p in &report.partitions {
        table.row([
            p.topic.clone(),
            p.partition.to_string(),
            p.segments.to_string(),
            bytes(p.bytes),
            p.batches.to_string(),
            p.records.to_string(),
            p.log_start_offset.to_string(),
            p.log_end_offset.to_string(),
        ]);
    }
    let mut text = table.to_string();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        text.push_str(&format!("{severity}: {finding}\n"));
    }
    let stop = if report.clean_stop { "clean shutdown" } else { "unclean shutdown" };
    let repaired = report.findings.iter().filter(|finding| finding.repaired).count();
    text.push_str(&format!(
        "{}: {stop}, {} findings, {repaired} repaired\n",
        report.dir.display(),
        report.findings.len()
    ));
    text
}
