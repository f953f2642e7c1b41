//! All topics of a data folder: found by name and by id, opened at the start, their folders made and removed.
//!
//! In: the catalog. Out: topics with their partitions. Touches the partitions' folders through [`Filesystem`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use uuid::Uuid;

use super::catalog::{Catalog, TopicEntry};
use super::error::StorageError;
use super::layout::{MAX_PARTITIONS, partition_dir};
use super::limits::SharedLimits;
use super::log::{Log, LogContext};
use super::partition::Partition;
use super::topic::Topic;
use super::workers::Workers;
use crate::config::StorageConfig;
use millrace_log::fs::Filesystem;

/// Topics by name and by id.
#[derive(Default)]
pub(super) struct Topics {
    pub(super) by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(super) by_id: BTreeMap<Uuid, Arc<Topic>>,
}

impl Topics {
    pub(super) fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }

    pub(super) fn remove(&mut self, name: &str, id: Uuid) -> Option<Arc<Topic>> {
        self.by_id.remove(&id);
        self.by_name.remove(name)
    }
}

pub(super) fn check_partitions(topic: &str, wanted: i32, has: i32) -> Result<(), StorageError> {
    if wanted > has && wanted <= MAX_PARTITIONS {
        return Ok(());
    }
    Err(StorageError::InvalidPartitions { topic: topic.to_owned(), wanted, has, max: MAX_PARTITIONS })
}

pub(super) fn new_topic(entry: &TopicEntry, config: &StorageConfig) -> Arc<Topic> {
    let limits: SharedLimits = Arc::new(RwLock::new(Arc::new(entry.settings.limits(config))));
    Arc::new(Topic {
        name: entry.name.as_str().into(),
        id: entry.id,
        settings: RwLock::new(entry.settings.clone()),
        limits,
        partitions: RwLock::default(),
    })
}

/// Removes the folders of topics that are being deleted, then forgets them.
pub(super) fn finish_deletions(dir: &Path, fs: &dyn Filesystem, catalog: &mut Catalog) -> Result<(), StorageError> {
    if !catalog.topics.iter().any(|topic| topic.deleting) {
        return Ok(());
    }
    for topic in catalog.topics.iter().filter(|topic| topic.deleting) {
        for number in 0..topic.partitions {
            let path = partition_dir(dir, &topic.name, number);
            match fs.remove_dir_all(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StorageError::io("remove", &path)(e)),
                _ => {}
            }
        }
    }
    fs.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
    catalog.topics.retain(|topic| !topic.deleting);
    catalog.write(fs, dir)
}

/// Removes what a creation that was cut short has left, if it holds no data.
pub(super) fn clear_left_over(fs: &dyn Filesystem, dir: &Path) -> Result<(), StorageError> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StorageError::io("read", dir)(e)),
    };
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".log")) {
        let path = dir.join(&entry.name);
        let len = fs.open(&path).and_then(|file| file.len()).map_err(StorageError::io("read", &path))?;
        if len > 0 {
            return Err(StorageError::LeftOver { path: dir.to_owned() });
        }
    }
    fs.remove_dir_all(dir).map_err(StorageError::io("remove", dir))
}

/// Opens all partitions, several at a time, as each may have a segment to go through.
pub(super) fn open_topics(
    dir: &Path,
    context: &LogContext,
    workers: &Arc<Workers>,
    catalog: &Catalog,
    clean: bool,
) -> Result<Topics, StorageError> {
    let opened: Vec<Arc<Topic>> = catalog.topics.iter().map(|entry| new_topic(entry, &workers.config)).collect();
    let all: Vec<(usize, i32)> = catalog
        .topics
        .iter()
        .enumerate()
        .flat_map(|(at, entry)| (0..entry.partitions).map(move |number| (at, number)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut logs = Vec::new();
        while let Some((at, number)) = all.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let Some(topic) = opened.get(at) else { continue };
            let path = partition_dir(dir, &topic.name, number);
            let log = Log::open(&path, context.clone(), topic.limits.clone(), clean);
            logs.push((at, number, log.map_err(StorageError::io("open", &path))?));
        }
        Ok::<_, StorageError>(logs)
    };
    let mut logs = Vec::with_capacity(all.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.config.read_threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            logs.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, StorageError>(())
    })?;
    logs.sort_by_key(|(at, number, _)| (*at, *number));
    for (at, number, log) in logs {
        if let Some(topic) = opened.get(at) {
            let partition = Partition::new(topic.name.clone(), number, log, workers.clone());
            topic.partitions.write().push(partition);
        }
    }
    let mut topics = Topics::default();
    opened.into_iter().for_each(|topic| topics.insert(topic));
    Ok(topics)
}
