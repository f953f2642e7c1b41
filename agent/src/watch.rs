//! Wakes the reading thread: when the kernel reports a change in a folder (inotify), when memory or a queue has room
//! again, and when the agent stops.
//!
//! Touches inotify, on a thread of its own that only waits. The slow scan works without it: when the kernel gives no
//! more watches, changes are seen at the next scan, and scans come twice as often.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::{Condvar, Mutex};

use crate::error::AgentError;

/// Changed paths remembered at most; beyond, everything is looked at.
const MAX_CHANGED: usize = 4096;
/// A busy writer changes its file thousands of times a second: changes are taken in together.
const SETTLE: Duration = Duration::from_millis(5);

/// What woke the reading thread.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    /// Files that changed.
    pub changed: HashSet<PathBuf>,
    /// Files came, went or were renamed, or too much changed to be listed.
    pub rescan: bool,
    /// The agent stops.
    pub stop: bool,
}

#[derive(Debug, Default)]
struct WakeState {
    woken: Woken,
    room: bool,
}

/// Wakes the reading thread. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake(Arc<(Mutex<WakeState>, Condvar)>);

impl Wake {
    fn update(&self, change: impl FnOnce(&mut WakeState)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_one();
    }

    /// There is room in a queue or in memory again.
    pub fn room(&self) {
        self.update(|inner| inner.room = true);
    }

    /// The agent stops.
    pub fn stop(&self) {
        self.update(|inner| inner.woken.stop = true);
    }

    /// Waits until something happens or `until` is reached, and takes what happened.
    pub fn wait(&self, until: Instant) -> Woken {
        let mut inner = self.0.0.lock();
        while !inner.woken.stop && !inner.woken.rescan && !inner.room && inner.woken.changed.is_empty() {
            if self.0.1.wait_until(&mut inner, until).timed_out() {
                break;
            }
        }
        inner.room = false;
        let stop = inner.woken.stop;
        let woken = std::mem::take(&mut inner.woken);
        inner.woken.stop = stop;
        woken
    }
}

type Folders = Arc<Mutex<HashMap<WatchDescriptor, PathBuf>>>;

/// Watches folders until it is dropped.
pub(crate) struct Watcher {
    watches: Watches,
    folders: Folders,
    known: HashMap<PathBuf, (WatchDescriptor, bool)>,
    full: bool,
    /// Every folder is watched, and lies on a disk of this host.
    reports_all: bool,
    stop: Option<WatchDescriptor>,
    thread: Option<std::thread::JoinHandle<()>>,
    wake: Wake,
}

impl Watcher {
    /// Starts watching nothing. `own` is any path that stays; its watch serves to end the thread.
    pub fn start(wake: Wake, own: &Path) -> Result<Option<Self>, AgentError> {
        let inotify = match Inotify::init() {
            Ok(inotify) => inotify,
            Err(error) => {
                tracing::warn!(%error, "inotify is not available, files are checked once per scan_interval; raise sysctl fs.inotify.max_user_instances");
                return Ok(None);
            }
        };
        let mut watches = inotify.watches();
        let stop = match watches.add(own, WatchMask::DELETE_SELF) {
            Ok(stop) => stop,
            Err(error) => {
                tracing::warn!(%error, "inotify watches are not available, files are checked once per scan_interval; raise sysctl fs.inotify.max_user_watches");
                return Ok(None);
            }
        };
        let folders = Folders::default();
        let thread = {
            let (folders, wake, stop) = (folders.clone(), wake.clone(), stop.clone());
            std::thread::Builder::new()
                .name("agent-inotify".to_owned())
                .spawn(move || listen(inotify, &folders, &wake, &stop))
                .map_err(|source| AgentError::Thread { name: "agent-inotify", source })?
        };
        let known = HashMap::new();
        Ok(Some(Self {
            watches,
            folders,
            known,
            full: false,
            reports_all: false,
            stop: Some(stop),
            thread: Some(thread),
            wake,
        }))
    }

    /// Watches exactly these folders; new ones are looked at once more, since something may have come before the watch.
    pub fn set(&mut self, folders: &[PathBuf]) {
        // Watches of folders that are gone were ended by the kernel.
        let alive: HashSet<WatchDescriptor> = self.folders.lock().keys().cloned().collect();
        self.known.retain(|_, (watch, _)| alive.contains(watch));
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        for folder in folders {
            if self.known.contains_key(folder) {
                continue;
            }
            match self.watches.add(folder, mask) {
                Ok(watch) => {
                    self.folders.lock().insert(watch.clone(), folder.clone());
                    self.known.insert(folder.clone(), (watch, is_local(folder)));
                    self.full = false;
                    self.wake.update(|inner| inner.woken.rescan = true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.full, true) {
                        tracing::warn!(%error, folder = %folder.display(), "can't watch folder, its files are checked once per scan_interval; raise sysctl fs.inotify.max_user_watches");
                    }
                    break;
                }
            }
        }
        self.reports_all = folders.iter().all(|folder| self.known.get(folder).is_some_and(|(_, local)| *local));
    }

    /// Whether the kernel reports every change: all folders are watched, and no other host writes to them.
    pub const fn reports_all(&self) -> bool {
        self.reports_all
    }
}

/// Whether a folder lies on a file system whose every change goes through this kernel.
fn is_local(folder: &Path) -> bool {
    // ext2 to 4, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs. Not overlays: what is written below them is not reported.
    const LOCAL: [u64; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];
    rustix::fs::statfs(folder).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| LOCAL.contains(&kind)))
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The kernel answers the removal with an event, and that ends the thread.
        let removed = self.stop.take().map(|stop| self.watches.remove(stop));
        if let (Some(Ok(())), Some(thread)) = (removed, self.thread.take())
            && thread.join().is_err()
        {
            tracing::error!("thread agent-inotify panicked");
        }
    }
}

fn listen(mut inotify: Inotify, folders: &Folders, wake: &Wake, stop: &WatchDescriptor) {
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "inotify failed, files are checked once per scan_interval");
                return;
            }
        };
        let mut changed: Vec<PathBuf> = Vec::new();
        let mut rescan = false;
        let mut last: Option<(WatchDescriptor, OsString)> = None;
        for event in events {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                rescan = true;
                continue;
            }
            if event.mask.contains(EventMask::IGNORED) {
                if event.wd == *stop {
                    return;
                }
                folders.lock().remove(&event.wd);
                rescan = true;
                continue;
            }
            if !event.mask.contains(EventMask::MODIFY) {
                rescan = true;
                continue;
            }
            let Some(name) = event.name else { continue };
            if last.as_ref().is_some_and(|(wd, before)| *wd == event.wd && before == name) {
                continue;
            }
            last = Some((event.wd.clone(), name.to_owned()));
            if let Some(folder) = folders.lock().get(&event.wd) {
                changed.push(folder.join(name));
            }
        }
        wake.update(|inner| {
            inner.woken.rescan |= rescan;
            if inner.woken.changed.len() + changed.len() > MAX_CHANGED {
                inner.woken.changed.clear();
                inner.woken.rescan = true;
            } else {
                inner.woken.changed.extend(changed);
            }
        });
        std::thread::sleep(SETTLE);
    }
}
