//! The check of a data folder as a whole: findings and their repair, version, catalog, folders that no topic owns.
//!
//! In: the folder, through [`Filesystem`]. Out: findings in the report. Without `repair` it changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::report::{Finding, FindingKind, FsckReport, Severity};
use crate::config::TopicSettings;
use crate::storage::catalog::{self, Catalog, TopicEntry};
use crate::storage::error::StorageError;
use millrace_log::fs::{self, Filesystem};

/// Whom a finding is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) topic: Option<String>,
    pub(super) partition: Option<i32>,
}

pub(super) struct Check<'a> {
    pub(super) fs: &'a dyn Filesystem,
    pub(super) dir: &'a Path,
    pub(super) repair: bool,
    /// A list of aborted transactions of the partition at hand is to be rebuilt.
    pub(super) lacks_aborted: bool,
    pub(super) report: FsckReport,
}

impl Check<'_> {
    /// Notes a finding; `repair` is tried if asked for, and its failure reported.
    pub(super) fn find(
        &mut self,
        (severity, kind): (Severity, FindingKind),
        subject: &Subject,
        path: &Path,
        (what, cure): (String, &str),
        repair: impl FnOnce(&dyn Filesystem) -> io::Result<bool>,
    ) -> &mut Finding {
        let mut cure = cure.to_owned();
        let repaired = self.repair
            && repair(self.fs).unwrap_or_else(|e| {
                cure = format!("repair failed ({e}): {cure}");
                false
            });
        self.report.findings.push(Finding {
            severity,
            kind,
            topic: subject.topic.clone(),
            partition: subject.partition,
            path: path.to_owned(),
            position: None,
            bytes: None,
            offsets: None,
            what,
            cure,
            repaired,
        });
        self.report.findings.last_mut().expect("it was just put there")
    }

    pub(super) fn left_over(&mut self, subject: &Subject, path: &Path, of: &str) {
        let what = (format!("is left over from {of}"), "the next start or `--repair` removes it");
        self.find((Severity::Note, FindingKind::LeftOver), subject, path, what, |fs| match fs.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(true),
        });
    }

    pub(super) fn unknown(&mut self, subject: &Subject, path: &Path) {
        let what = ("is not a file of the log".to_owned(), "it is ignored; move it away if it is not needed here");
        self.find((Severity::Note, FindingKind::Unknown), subject, path, what, |_| Ok(false));
    }

    pub(super) fn unreadable(&mut self, subject: &Subject, path: &Path, cause: &io::Error) -> Result<(), StorageError> {
        let what = (format!("can't be read ({cause})"), "check the disk; restore the file from a backup");
        self.find((Severity::Error, FindingKind::Unreadable), subject, path, what, |_| Ok(false));
        Ok(())
    }

    pub(super) fn version(&mut self) -> Result<(), StorageError> {
        let path = self.dir.join(catalog::VERSION_FILE);
        let found = match fs::read_all(self.fs, &path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(StorageError::io("read", &path)(e)),
        };
        match found.parse::<u32>() {
            Ok(catalog::FORMAT) => return Ok(()),
            Ok(newer) if newer > catalog::FORMAT => {
                return Err(StorageError::Newer { path: self.dir.to_owned(), found, known: catalog::FORMAT });
            }
            _ => {}
        }
        let what =
            if found.is_empty() { "is missing or empty".to_owned() } else { format!("invalid version `{found}`") };
        let what = (what, "`--repair` writes the version of the rest of the folder");
        self.find((Severity::Error, FindingKind::Version), &Subject::default(), &path, what, |fs| {
            fs::replace(fs, &path, format!("{}\n", catalog::FORMAT).as_bytes()).map(|()| true)
        });
        Ok(())
    }

    /// The topics; from the folders where the catalog is lost.
    pub(super) fn catalog(
        &mut self,
        folders: &BTreeMap<String, (String, i32)>,
    ) -> Result<Vec<TopicEntry>, StorageError> {
        let path = self.dir.join(catalog::CATALOG_FILE);
        let read = match fs::read_all(self.fs, &path) {
            Ok(bytes) => serde_json::from_slice::<Catalog>(&bytes).map_err(|e| format!("can't be parsed ({e})")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err("is missing".to_owned()),
            Err(e) => return Err(StorageError::io("read", &path)(e)),
        };
        let reason = match read {
            Ok(catalog) => return Ok(catalog.topics),
            Err(reason) => reason,
        };
        let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
        for (topic, number) in folders.values() {
            let count = counts.entry(topic).or_default();
            *count = (*count).max(number + 1);
        }
        let entry = |(name, partitions): (&str, i32)| TopicEntry {
            name: name.to_owned(),
            id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            partitions,
            settings: TopicSettings::default(),
            deleting: false,
        };
        let rebuilt = Catalog { topics: counts.into_iter().map(entry).collect() };
        let (fs, dir) = (self.fs, self.dir);
        let what = (
            format!("the catalog {reason}"),
            "restore it from a backup; `--repair` rebuilds it from the folders, with new ids and without settings",
        );
        self.find((Severity::Error, FindingKind::Catalog), &Subject::default(), &path, what, |_| {
            match fs.rename(&path, &dir.join(format!("{}.damaged", catalog::CATALOG_FILE))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            rebuilt.write(fs, dir).map(|()| true).map_err(io::Error::other)
        });
        Ok(rebuilt.topics)
    }

    pub(super) fn orphan(&mut self, folder: &str) -> Result<(), StorageError> {
        let path = self.dir.join(folder);
        let entries = self.fs.list(&path).map_err(StorageError::io("read", &path))?;
        let mut bytes = 0;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(".log")) {
            bytes += self.fs.open(&path.join(&entry.name)).and_then(|file| file.len()).unwrap_or(0);
        }
        let of = FindingKind::Orphan;
        if bytes == 0 {
            let what = ("holds no records, and no topic owns it".to_owned(), "`--repair` removes it");
            self.find((Severity::Note, of), &Subject::default(), &path, what, |fs| {
                fs.remove_dir_all(&path)?;
                Ok(true)
            });
        } else {
            let what = (
                format!("holds {bytes} bytes of records, and no topic of the catalog owns it"),
                "move it away if the topic was deleted; else stop, recreate the topic, and put it back",
            );
            self.find((Severity::Warning, of), &Subject::default(), &path, what, |_| Ok(false)).bytes = Some(bytes);
        }
        Ok(())
    }
}
