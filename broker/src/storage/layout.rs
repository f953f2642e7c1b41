//! Names of the files and folders of a log: data folder, partitions, segments and what stands beside them.
//!
//! In: topics, numbers, base offsets. Out: names and paths, and what a name says. Touches nothing.

use std::path::{Path, PathBuf};

/// Partitions that one topic may have.
pub const MAX_PARTITIONS: i32 = 10_000;

pub(super) const LOCK_FILE: &str = "LOCK";

pub(super) const CLEAN_FILE: &str = "CLEAN";

pub(super) const START_FILE: &str = "log-start-offset";

/// A number as text: what stands before was compacted.
pub(super) const CLEANED_FILE: &str = "clean-offset";

/// Further files of a partition's folder, whole names.
pub(super) const OTHER_FILES: [&str; 1] = [CLEANED_FILE];

/// Where copies of damaged bytes are kept, within the partition's folder.
pub(super) const DAMAGED_DIR: &str = "damaged";

/// Endings of the files that stand beside a segment.
pub(super) const COMPANIONS: [&str; 4] = ["index", "timeindex", "txnindex", "holes"];

/// What names end in before the new segment counts.
pub(super) const CLEANED: &str = ".cleaned";

pub(super) fn partition_dir(dir: &Path, topic: &str, number: i32) -> PathBuf {
    dir.join(format!("{topic}-{number}"))
}

/// Topic and number of a partition's folder.
pub(super) fn partition_of(folder: &str) -> Option<(String, i32)> {
    let (topic, number) = folder.rsplit_once('-')?;
    let plain = number == "0" || (number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0'));
    let number = number.parse().ok().filter(|n| plain && (0..MAX_PARTITIONS).contains(n))?;
    millrace_log::record::is_topic_name(topic).then(|| (topic.to_owned(), number))
}

/// Path of a segment's file.
pub(super) fn path_of(dir: &Path, base: i64, ending: &str) -> PathBuf {
    dir.join(format!("{base:020}.{ending}"))
}

/// The offset in the name of one of our files, if it ends so.
pub(super) fn offset_of(name: &str, ending: &str) -> Option<i64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Path of a file of a new segment that does not count yet.
pub(super) fn cleaned_path(dir: &Path, base: i64, ending: &str) -> PathBuf {
    let mut path = path_of(dir, base, ending).into_os_string();
    path.push(CLEANED);
    path.into()
}
