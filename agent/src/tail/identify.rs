//! Which source is a file? The rules stand in `mod.rs`.
//!
//! In: queued files without a source. Out: the known source that each is, or a new one, durable before it is read.
//! Touches files, reading only, and the state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::reader::{Reader, Tail, differ, is_rotation_of, mtime};
use crate::batch::{Anchor, BatchSource as _};
use crate::content::{Content, Size};
use crate::discover::{FileKey, is_rotation, rotated_from};
use crate::error::AgentError;
use crate::file_source::{Sighting, Source};
use crate::fingerprint::Print;
use crate::line_end::LineEnd;
use crate::split::{Mark, Mode};

impl Reader {
    /// Gives every queued file without a source its source. All new ones are durable before any of them is read.
    pub(super) fn adopt(&mut self) -> Result<(), AgentError> {
        let (now, wait) = (Instant::now(), self.parts.rotated_wait);
        let mut orphans: Vec<(bool, (i64, i64), FileKey)> = Vec::new();
        for key in &self.queue {
            let Some(tail) = self.tails.get_mut(key) else { continue };
            let (None, Some(file)) = (&tail.source, &tail.file) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            if tail.stored != metadata.len() {
                (tail.stored, tail.grown, tail.flush) = (metadata.len(), now, false);
            }
            // An empty file is nobody yet, and a packed one only when all of it is there.
            tail.size = match file.measure() {
                Ok(Size::Known(size)) => size,
                Ok(Size::Torn(size)) if now >= tail.grown + wait => size,
                Ok(Size::Torn(_) | Size::Measuring) | Err(_) => 0,
            };
            if tail.size > 0 {
                orphans.push((file.is_packed(), mtime(&metadata), *key));
            }
        }
        if orphans.is_empty() {
            return Ok(());
        }
        // The older a rotated file, the older its source. Packed ones come last: the original may be among the others.
        orphans.sort_unstable();
        let mut orphans: Vec<FileKey> = orphans.into_iter().map(|(_, _, key)| key).collect();
        orphans.retain(|key| match self.same_inode(*key) {
            Some(source) => !self.attach(*key, source),
            None => true,
        });
        let mut minted = false;
        for key in orphans {
            if let Some(source) = self.same_content(key)
                && self.attach(key, source)
            {
                continue;
            }
            if self.is_copy(key) {
                continue;
            }
            // It may be a copy whose original was truncated a moment ago: then it is where that source goes on.
            if let Some(original) = self.truncated_original(key) {
                self.truncated(original)?;
                if self.tails.get(&key).is_some_and(|tail| tail.source.is_some()) {
                    continue;
                }
            }
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            if !tail.may_be_new {
                if let Some(Ok(metadata)) = tail.file.as_ref().filter(|file| file.is_packed()).map(Content::metadata) {
                    self.refused.insert(key, mtime(&metadata));
                }
                self.drop_tail(key);
                continue;
            }
            match self.mint(key) {
                Ok(true) => minted = true,
                Ok(false) => {}
                Err(MintError::Read(error)) => {
                    let path = self.tails.get(&key).map(|tail| tail.path.clone()).unwrap_or_default();
                    self.unreadable(&path, &error);
                }
                Err(MintError::State(error)) => return Err(error),
            }
        }
        if minted {
            self.parts.state.sync()?;
        }
        Ok(())
    }

    /// The source that has this device, inode and birth, if the content agrees.
    fn same_inode(&self, key: FileKey) -> Option<usize> {
        let tail = self.tails.get(&key)?;
        let candidates = self.known.iter().enumerate().filter(|(_, (source, at))| {
            at.is_none() && source.last_key() == key && !differ(source.last_seen().birth_ns, tail.birth_ns)
        });
        candidates
            .filter(|(_, (source, _))| self.agrees(tail, source))
            .max_by_key(|(_, (source, _))| source.read_anchor().mark.offset)
            .map(|(i, _)| i)
    }

    /// A source without a file whose content this file has, if the names or the amount speak for it.
    fn same_content(&self, key: FileKey) -> Option<usize> {
        let tail = self.tails.get(&key)?;
        let rank = |source: &Source| {
            let seen = source.last_seen();
            let offset = source.read_anchor().mark.offset;
            if seen.key.inode == key.inode && seen.path == tail.path {
                // The device got another number, as after a restart of the host.
                Some((2, offset))
            } else if is_rotation_of(&tail.path, source, &seen.path) {
                Some((1, offset))
            } else {
                (offset >= self.parts.fingerprint as u64).then_some((0, offset))
            }
        };
        let candidates = self.known.iter().enumerate().filter(|(_, (_, at))| at.is_none());
        candidates
            .filter_map(|(i, (source, _))| Some((rank(source)?, i)))
            .filter(|(_, i)| self.agrees(tail, &self.known[*i].0))
            .max()
            .map(|(_, i)| i)
    }

    /// Whether a file has a source's head, and before the reached position the same bytes.
    fn agrees(&self, tail: &Tail, source: &Source) -> bool {
        let Some(file) = &tail.file else { return false };
        agrees(file, tail.size, source)
    }

    fn attach(&mut self, key: FileKey, index: usize) -> bool {
        let Some((source, at)) = self.known.get_mut(index) else { return false };
        let Some(tail) = self.tails.get_mut(&key) else { return false };
        if at.is_some() {
            return false;
        }
        let anchor = source.read_anchor();
        let Some(Ok(before)) = tail.file.as_ref().map(|file| file.tail_at(anchor.mark.offset)) else { return false };
        source.see(Sighting {
            key,
            birth_ns: tail.birth_ns,
            path: tail.path.clone(),
            now_ms: self.parts.clock.now_ms(),
        });
        tracing::debug!(path = %tail.path.display(), source = %source.identity().id, offset = anchor.mark.offset, "file is a known source");
        (tail.mark, tail.before) = (anchor.mark, before);
        tail.source = Some(source.clone());
        *at = Some(key);
        true
    }

    /// Whether a file is a copy of one that is being read or will be: what `cp` of copytruncate makes before the
    /// truncation, or what a packer makes before it deletes the original. Both may be found at once, and the copy looks
    /// like the older one where the original grew meanwhile, or the copy has its times.
    fn is_copy(&mut self, key: FileKey) -> bool {
        let Some(copy) = self.tails.get(&key) else { return false };
        if !is_rotated_name(&copy.path) {
            return false;
        }
        if let Some(of) = copy.copy_of
            && self.tails.get(&of).is_some_and(|original| original.source.is_some())
        {
            return true;
        }
        let originals: Vec<(FileKey, PathBuf)> = self.originals(key);
        for (other, path) in originals {
            let closed = self.tails.get(&other).filter(|original| original.file.is_none());
            if let Some(follow) = closed.map(|original| original.settings.follow) {
                match (self.open(other, &path, follow), self.tails.get_mut(&other)) {
                    (Some((file, _)), Some(original)) => original.file = Some(file),
                    // Nobody can tell until the next scan finds where it is now.
                    _ if has_moved(other, &path) => return true,
                    _ => {}
                }
            }
            let (Some(copy), Some(original)) = (self.tails.get(&key), self.tails.get(&other)) else { continue };
            if copy.birth_ns >= original.birth_ns && is_copy_of(copy, original).unwrap_or(false) {
                if let Some(copy) = self.tails.get_mut(&key) {
                    if copy.file.as_ref().is_some_and(Content::is_packed) {
                        copy.copy_of = Some(other);
                    } else {
                        copy.copied = Some((other, copy.size));
                    }
                }
                return true;
            }
        }
        false
    }

    /// Files that are being read, or are as new as this one, and whose rotated form it may be, with their paths.
    fn originals(&self, key: FileKey) -> Vec<(FileKey, PathBuf)> {
        let Some(copy) = self.tails.get(&key) else { return Vec::new() };
        let of = |(other, tail): (&FileKey, &Tail)| {
            let is = match &tail.source {
                Some(source) => is_rotation_of(&copy.path, source, &tail.path),
                None => is_rotation(&copy.path, &tail.path),
            };
            (*other != key && is).then(|| (*other, tail.path.clone()))
        };
        self.tails.iter().filter_map(of).collect()
    }

    /// A file that is being read, whose rotated form `key` may be, and that no longer holds what was read from it.
    fn truncated_original(&self, key: FileKey) -> Option<FileKey> {
        if !is_rotated_name(&self.tails.get(&key)?.path) {
            return None;
        }
        let whole = |tail: &Tail| {
            if tail.source.is_none() {
                return true;
            }
            let Some(file) = &tail.file else { return true };
            file.measure().is_ok_and(|size| !matches!(size, Size::Known(size) if size < tail.mark.offset))
                && file.tail_at(tail.mark.offset).is_ok_and(|before| before == tail.before)
        };
        let originals = self.originals(key);
        originals
            .into_iter()
            .map(|(other, _)| other)
            .find(|other| self.tails.get(other).is_some_and(|tail| !whole(tail)))
    }

    /// Makes a new source, unless the file is so short that it is better to wait for its first line.
    fn mint(&mut self, key: FileKey) -> Result<bool, MintError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(false) };
        let Some(file) = &tail.file else { return Ok(false) };
        let head = file.read_at(0, self.parts.fingerprint).map_err(MintError::Read)?;
        if head.len() < self.parts.fingerprint && memchr::memchr(b'\n', &head).is_none() && !tail.flush {
            tail.pending = true;
            if let Some(due) = tail.due(self.parts.rotated_wait) {
                self.timer = self.timer.min(due);
            }
            return Ok(false);
        }
        let head = Print::of(&head);
        let (max_line, line_end) = (tail.settings.cutter.max_line(), tail.settings.cutter.line_end());
        let mark = if tail.read_before >= tail.size && tail.size > 0 {
            Mark { offset: tail.size, mode: Mode::Start }
        } else if tail.read_before > 0 {
            last_line_start(file, tail.read_before, max_line, line_end).map_err(MintError::Read)?
        } else if tail.at_install && tail.settings.from_end {
            last_line_start(file, tail.size, max_line, line_end).map_err(MintError::Read)?
        } else {
            Mark::default()
        };
        let before = file.tail_at(mark.offset).map_err(MintError::Read)?;
        let seen =
            Sighting { key, birth_ns: tail.birth_ns, path: tail.path.clone(), now_ms: self.parts.clock.now_ms() };
        let partitions = i32::try_from(self.parts.queues.len()).unwrap_or(i32::MAX);
        let anchor = Anchor { mark, tail: Print::of(&before) };
        let filename = tail.rotated_from.clone().unwrap_or_else(|| tail.path.clone());
        let source = Source::mint(tail.settings.clone(), &self.parts.topic, partitions, filename, seen, head, anchor);
        let source = Arc::new(source);
        source.save(&self.parts.state).map_err(MintError::State)?;
        tracing::info!(path = %tail.path.display(), source = %source.identity().id, partition = source.to.partition, "new file");
        (tail.mark, tail.before) = (mark, before);
        tail.source = Some(source.clone());
        self.parts.sources.write().push(source.clone());
        self.known.push((source, Some(key)));
        self.parts.metrics.new_sources.inc();
        Ok(true)
    }

    /// The file at this inode no longer is its source: reads the source on in a copy, and the file as a new one.
    pub(super) fn truncated(&mut self, key: FileKey) -> Result<(), AgentError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(()) };
        (tail.mark, tail.before, tail.pending, tail.flush) = (Mark::default(), Vec::new(), false, false);
        (tail.may_be_new, tail.at_install) = (true, false);
        let path = tail.path.clone();
        let settings = tail.settings.clone();
        let source = tail.source.take();
        self.parts.metrics.truncations.inc();
        self.refused.clear();
        self.enqueue(key);
        let Some(source) = source else { return Ok(()) };
        let Some(index) = self.known.iter().position(|(known, _)| Arc::ptr_eq(known, &source)) else { return Ok(()) };
        self.known[index].1 = None;
        let waiting: Vec<FileKey> = self
            .tails
            .iter()
            .filter(|(other, tail)| {
                **other != key && tail.source.is_none() && is_rotation_of(&tail.path, &source, &path)
            })
            .map(|(other, _)| *other)
            .collect();
        let read = source.read_anchor().mark.offset;
        for other in waiting {
            if let Some(tail) = self.tails.get_mut(&other) {
                // What was written between copying and truncating was read, and stands nowhere any more: the source does not
                // go on in the copy, and the copy brings nothing new.
                if let Some((_, size)) = tail.copied.filter(|(of, size)| *of == key && *size <= read) {
                    tail.read_before = size;
                }
                tail.size = tail.file.as_ref().map_or(0, whole_size);
                if agrees_tail(tail, &source) && self.attach(other, index) {
                    tracing::info!(path = %path.display(), "file was truncated after it was copied, reading the copy to its end");
                    self.enqueue(other);
                    return Ok(());
                }
            }
        }
        for other in std::fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten() {
            let copy = other.path();
            if !is_rotation_of(&copy, &source, &path) {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(&copy) else { continue };
            let other = FileKey::of(&metadata);
            if !metadata.is_file() || self.tails.contains_key(&other) {
                continue;
            }
            let Some((file, metadata)) = self.open(other, &copy, settings.follow) else { continue };
            let size = whole_size(&file);
            if !agrees(&file, size, &source) {
                continue;
            }
            let matched = settings.globs.matches(&copy);
            let mut tail = Tail::new(copy.clone(), settings.clone(), file, &metadata, matched);
            (tail.size, tail.may_be_new) = (size, false);
            self.tails.insert(other, tail);
            self.paths.insert(copy, other);
            if self.attach(other, index) {
                tracing::info!(path = %path.display(), "file was truncated after it was copied, reading the copy to its end");
                self.timer = self.timer.min(Instant::now() + self.parts.rotated_wait);
                self.enqueue(other);
                return Ok(());
            }
            self.drop_tail(other);
        }
        source.finish();
        tracing::info!(path = %path.display(), "file was truncated, reading it from its start as a new source");
        Ok(())
    }
}

enum MintError {
    Read(io::Error),
    State(AgentError),
}

fn agrees_tail(tail: &Tail, source: &Source) -> bool {
    tail.file.as_ref().is_some_and(|file| agrees(file, tail.size, source))
}

fn agrees(file: &Content, size: u64, source: &Source) -> bool {
    let (head, anchor) = (source.head(), source.read_anchor());
    if head.len == 0 || size < u64::from(head.len) || size < anchor.mark.offset {
        return false;
    }
    file.read_at(0, head.len as usize).is_ok_and(|bytes| head.begins(&bytes))
        && file.tail_at(anchor.mark.offset).is_ok_and(|bytes| Print::of(&bytes) == anchor.tail)
}

/// Whether a path no longer leads to a file.
fn has_moved(key: FileKey, path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => FileKey::of(&metadata) != key,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the two begin and end with the same bytes, as far as the copy goes.
fn is_copy_of(copy: &Tail, original: &Tail) -> io::Result<bool> {
    let (Some(a), Some(b)) = (&copy.file, &original.file) else { return Ok(false) };
    if b.size()? < copy.size {
        return Ok(false);
    }
    let block = copy.size.min(1024);
    let len = usize::try_from(block).unwrap_or(1024);
    let same = |offset: u64| -> io::Result<bool> { Ok(a.read_at(offset, len)? == b.read_at(offset, len)?) };
    Ok(same(0)? && same(copy.size - block)?)
}

/// Unpacks all of a packed file if need be.
fn whole_size(file: &Content) -> u64 {
    loop {
        match file.measure() {
            Ok(Size::Known(size) | Size::Torn(size)) => return size,
            Ok(Size::Measuring) => {}
            Err(_) => return 0,
        }
    }
}

fn is_rotated_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| rotated_from(name).is_some())
}

/// Where the last line of a file starts, or its end inside a very long line.
fn last_line_start(file: &Content, size: u64, max_line: usize, line_end: LineEnd) -> io::Result<Mark> {
    let unit = line_end.unit();
    let size = size - size % unit as u64;
    let len = size.min((max_line + unit) as u64);
    let len = len - len % unit as u64;
    let bytes = file.read_at(size - len, usize::try_from(len).unwrap_or(usize::MAX))?;
    Ok(match line_end.after_last(&bytes) {
        Some(start) => Mark { offset: size - len + start as u64, mode: Mode::Start },
        None if len == size => Mark::default(),
        None => Mark { offset: size, mode: Mode::Skip },
    })
}
