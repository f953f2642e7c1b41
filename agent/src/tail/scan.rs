//! Finding files: folders are looked through, files get new names, appear and go.
//!
//! In: what stands in the folders ([`discover::scan`]). Out: files opened, queued, or marked as gone. Touches folders,
//! reading only. Leaves the question which source a file is to `identify.rs`.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reader::{
    CLOCK_SLACK_MS, FORGET_EVERY, Reader, Tail, WATCHED_FACTOR, WATCHED_SHARE, count, differ, is_rotation_of, mtime,
    stamp,
};
use crate::batch::BatchSource as _;
use crate::content::is_packed_name;
use crate::discover::{self, FileKey, FoundFile, birth_ns};
use crate::error::AgentError;
use crate::file_source::{Sighting, Source};
use crate::watch::Watcher;

/// Sources that no file is read for, as of one scan.
struct Detached {
    by_key: HashMap<FileKey, Vec<Arc<Source>>>,
    /// Not read to their end.
    unfinished: Vec<Arc<Source>>,
}

impl Detached {
    fn of(known: &[(Arc<Source>, Option<FileKey>)]) -> Self {
        let mut detached = Self { by_key: HashMap::new(), unfinished: Vec::new() };
        for (source, _) in known.iter().filter(|(_, at)| at.is_none()) {
            detached.by_key.entry(source.last_key()).or_default().push(source.clone());
            if !source.is_finished() {
                detached.unfinished.push(source.clone());
            }
        }
        detached
    }
}

impl Reader {
    /// Looks through all folders. Returns when to do so again at the latest.
    pub(super) fn scan(&mut self) -> Result<Duration, AgentError> {
        let (started, started_ms) = (Instant::now(), self.parts.clock.now_ms());
        let globs: Vec<_> = self.parts.entries.iter().map(|settings| &settings.globs).collect();
        let mut scan = discover::scan(&globs);
        for (path, error) in scan.faults.drain(..) {
            self.unreadable(&path, &error);
        }
        let skipped: HashSet<PathBuf> = scan.foreign.iter().map(|link| link.link.clone()).collect();
        scan.foreign.iter().for_each(|link| self.skipped(&link.link, link));
        if let Some(watcher) = &mut self.watcher {
            watcher.set(&scan.folders);
        }
        self.links = scan.links.into_iter().map(|(path, found)| (path, found.as_ref().map(stamp))).collect();
        self.missing = scan.missing;
        let detached = Detached::of(&self.known);
        // A file with two names goes by the one that matches.
        scan.files.sort_by_key(|found| found.rotated_from.is_some());
        let mut seen: HashSet<FileKey> = HashSet::new();
        let mut names: HashSet<PathBuf> = HashSet::new();
        for found in scan.files {
            let key = FileKey::of(&found.metadata);
            if !seen.insert(key) {
                continue;
            }
            names.insert(found.path.clone());
            if self.tails.contains_key(&key) {
                self.seen_again(key, &found)?;
            } else if self.is_wanted(key, &found, &detached) {
                self.open_new(key, found);
            }
        }
        let gone: Vec<FileKey> = self.tails.keys().filter(|key| !seen.contains(key)).copied().collect();
        for key in gone {
            if let Some(tail) = self.tails.get_mut(&key) {
                if tail.present {
                    tail.grown = Instant::now();
                    self.timer = self.timer.min(tail.grown + self.parts.rotated_wait);
                }
                (tail.present, tail.matched) = (false, false);
                if tail.file.is_none() {
                    // Gone while it was closed. It was read to its end, but may have grown before it went: a copy or a
                    // packed sibling is read on from there.
                    self.drop_tail(key);
                    self.refused.clear();
                    continue;
                }
                if self.paths.get(&tail.path) == Some(&key) {
                    self.paths.remove(&tail.path);
                }
            }
            self.enqueue(key);
        }
        self.unreadable.retain(|path, _| names.contains(path) || path.exists());
        self.skipped.retain(|path| names.contains(path) || skipped.contains(path));
        self.parts.metrics.skipped_links.set(count(self.skipped.len()));
        self.parts.metrics.unreadable_files.set(count(self.unreadable.len()));
        self.parts.metrics.files.set(count(self.tails.len()));
        self.parts.metrics.open_files.set(count(self.tails.values().filter(|t| t.file.is_some()).count()));
        self.looked_ms = Some(started_ms);
        if Instant::now() >= self.forget {
            self.forget = Instant::now() + FORGET_EVERY;
            self.forget_gone(started_ms)?;
        }
        // Files of the first scan stay those of the first scan until all of them have been adopted.
        if self.first_scan {
            self.adopt()?;
            self.first_scan = false;
        }
        let interval = self.parts.scan_interval;
        let reported = self.watcher.as_ref().is_some_and(Watcher::reports_all);
        let waits =
            !self.unreadable.is_empty() || self.tails.values().any(|t| t.source.is_none() && t.stored > 0 || t.failed);
        Ok(match (reported, waits) {
            (true, false) => {
                let (least, most) = (interval * *WATCHED_FACTOR.start(), interval * *WATCHED_FACTOR.end());
                (started.elapsed() * WATCHED_SHARE).clamp(least, most)
            }
            (true, true) => interval,
            (false, _) => interval / 2,
        })
    }

    /// Whether something must be looked at whose changes the kernel does not report.
    pub(super) fn has_unreported(&self) -> bool {
        !self.links.is_empty() || !self.missing.is_empty()
    }

    /// Looks at it. Whether folders must be looked through: a name leads to another file now, or to one that is not read, or a
    /// folder is there that was not.
    pub(super) fn look_at_unreported(&mut self) -> bool {
        let (mut rescan, mut changed) = (self.missing.iter().any(|folder| folder.exists()), Vec::new());
        for (path, known) in &mut self.links {
            let now = std::fs::metadata(path).ok().as_ref().map(stamp);
            if now == *known {
                continue;
            }
            match (now, *known) {
                (Some((key, ..)), Some((before, ..))) if key == before && self.tails.contains_key(&key) => {
                    changed.push(key);
                }
                _ => rescan = true,
            }
            *known = now;
        }
        changed.into_iter().for_each(|key| self.enqueue(key));
        rescan
    }

    /// A file that is being read: it may have a new name, or have grown without a word from the kernel.
    fn seen_again(&mut self, key: FileKey, found: &FoundFile) -> Result<(), AgentError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(()) };
        let matched = found.rotated_from.is_none();
        if tail.matched && !matched {
            tail.grown = Instant::now();
            self.timer = self.timer.min(tail.grown + self.parts.rotated_wait);
        }
        if tail.path != found.path {
            if self.paths.get(&tail.path) == Some(&key) {
                self.paths.remove(&tail.path);
            }
            tail.path.clone_from(&found.path);
        }
        self.paths.insert(found.path.clone(), key);
        (tail.present, tail.matched) = (true, matched);
        let sighting = Sighting {
            key,
            birth_ns: birth_ns(&found.metadata),
            path: found.path.clone(),
            now_ms: self.parts.clock.now_ms(),
        };
        let reborn = tail.file.is_none() && differ(tail.birth_ns, sighting.birth_ns);
        let changed = tail.stored != found.metadata.len() || tail.mtime != mtime(&found.metadata);
        let waits = tail.source.is_none() || tail.failed;
        if let Some(source) = &tail.source
            && !reborn
        {
            source.see(sighting);
        }
        if reborn {
            // The inode was given to another file while this one was closed.
            tail.birth_ns = birth_ns(&found.metadata);
            self.truncated(key)?;
        }
        if changed || waits {
            self.enqueue(key);
        }
        Ok(())
    }

    /// Whether a file that is not being read is to be opened.
    fn is_wanted(&self, key: FileKey, found: &FoundFile, detached: &Detached) -> bool {
        let Some(before) = &found.rotated_from else { return true };
        let packed = is_packed_name(&found.path);
        if packed && self.refused.get(&key) == Some(&mtime(&found.metadata)) {
            return false;
        }
        if let Some(sources) = detached.by_key.get(&key) {
            // The length of a packed file says nothing of what is in it.
            let grown = |source: &Source| !packed && found.metadata.len() > source.read_anchor().mark.offset;
            return sources.iter().any(|source| !source.is_finished() || grown(source));
        }
        self.is_recent(&found.metadata)
            || (self.first_scan || packed)
                && detached.unfinished.iter().any(|source| {
                    source.filename == *before || is_rotation_of(&found.path, source, &source.last_seen().path)
                })
    }

    fn is_recent(&self, metadata: &Metadata) -> bool {
        let (secs, nanos) = mtime(metadata);
        self.looked_ms.is_some_and(|looked| secs * 1000 + nanos / 1_000_000 >= looked - CLOCK_SLACK_MS)
    }

    fn open_new(&mut self, key: FileKey, found: FoundFile) {
        let settings = self.parts.entries[found.entry].clone();
        let Some((file, metadata)) = self.open(key, &found.path, settings.follow) else { return };
        let matched = found.rotated_from.is_none();
        let mut tail = Tail::new(found.path.clone(), settings, file, &metadata, matched);
        tail.rotated_from = found.rotated_from;
        tail.may_be_new = matched || self.is_recent(&metadata);
        tail.at_install = self.first_scan && self.parts.last_alive_ms.is_none();
        self.tails.insert(key, tail);
        self.paths.insert(found.path, key);
        self.enqueue(key);
    }

    fn forget_gone(&mut self, now_ms: i64) -> Result<(), AgentError> {
        let mut gone: Vec<Arc<Source>> = Vec::new();
        self.known.retain(|(source, at)| {
            let old =
                at.is_none() && source.is_settled() && now_ms - source.last_seen().now_ms > self.parts.forget_after_ms;
            if old {
                gone.push(source.clone());
            }
            !old
        });
        for source in &gone {
            self.parts.state.remove(source.identity().id)?;
        }
        if !gone.is_empty() {
            self.parts.sources.write().retain(|source| !gone.iter().any(|g| Arc::ptr_eq(g, source)));
        }
        Ok(())
    }
}
