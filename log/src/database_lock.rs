//! Whether a sled database is still locked: by a process that is stopping, by threads of a database that was closed a moment ago
//! in this process, or by children of it that have not yet begun their own program.
//!
//! In: the folder of a database, and how long to wait. Out: whether it is free. Touches the lock of the database's file, and
//! snapshots that were never finished, by removing them.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::snapshot_files::clear_unfinished;

/// How long a database that is being closed may hold its lock.
pub const RELEASE: Duration = Duration::from_secs(10);
/// A wait of this long is logged.
const UNUSUAL: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until sled can open a database; `false`: it is still locked after that time. To be called before each opening by whoever
/// holds the lock of the folder, so that nobody else opens the database meanwhile. Blocks.
pub fn ready_to_open(folder: &Path, at_most: Duration) -> io::Result<bool> {
    let is_free = wait_until_free(folder, at_most)?;
    if is_free {
        clear_unfinished(folder)?;
    }
    Ok(is_free)
}

/// Waits until sled can lock its file.
fn wait_until_free(folder: &Path, at_most: Duration) -> io::Result<bool> {
    // For writing: network file systems lock nothing else.
    let file = match OpenOptions::new().read(true).write(true).open(folder.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let (begun, mut is_logged) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= at_most => return Ok(false),
            Err(TryLockError::WouldBlock) => {}
        }
        if begun.elapsed() >= UNUSUAL && !std::mem::replace(&mut is_logged, true) {
            tracing::info!(
                folder = %folder.display(),
                "database is in use, maybe by a process that is stopping: waiting for it for up to {} s",
                at_most.as_secs()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let free = |at_most| wait_until_free(folder.path(), at_most).unwrap();
        assert!(free(Duration::ZERO), "there is no database yet");
        let held = std::fs::File::create(folder.path().join("db")).unwrap();
        assert!(free(Duration::ZERO));
        held.lock().unwrap();
        assert!(!free(Duration::ZERO) && !free(Duration::from_millis(20)));
        let opening = std::thread::spawn({
            let folder = folder.path().to_owned();
            move || wait_until_free(&folder, RELEASE)
        });
        std::thread::yield_now();
        held.unlock().unwrap();
        assert!(opening.join().unwrap().unwrap());
        assert!(free(Duration::ZERO), "nothing is held afterwards");
    }
}
