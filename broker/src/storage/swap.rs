//! Putting one segment in the place of several that follow each other, so that a crash at any step leaves the old ones or
//! the new one and never both or none.
//!
//! In: a finished segment under names that end in `.cleaned`. Out: the same under its right names, the old ones gone.
//! Touches names in a partition's folder. Leaves content and memory to [`super::cleaner`] and [`super::log`].
//!
//! 1. `<base>.log.cleaned`, `<base>.index.cleaned` … are written and synced.
//! 2. `<base>.log.cleaned` is renamed to `<base>-<until>.swap`, the folder synced: from here on the new one counts, in the
//!    place of all segments with bases in [base, until).
//! 3. Old segments behind the first go, and what stands beside the first; the folder is synced.
//! 4. The new indexes get their names, at last the `.swap` becomes `<base>.log` over the old one; the folder is synced.
//!
//! A start that finds a `.swap` does steps 3 and 4 again, and removes what ends in `.cleaned`.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::{CLEANED, COMPANIONS, cleaned_path, offset_of, path_of};
use millrace_log::fs::Filesystem;

fn swap_path(dir: &Path, base: i64, until: i64) -> PathBuf {
    dir.join(format!("{base:020}-{until:020}.swap"))
}

/// The range in the name of a `.swap`.
pub(super) fn range_of(name: &str) -> Option<(i64, i64)> {
    let (base, until) = name.strip_suffix(".swap")?.split_once('-')?;
    let number = |digits: &str| {
        let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<i64>().ok() } else { None }
    };
    Some((number(base)?, number(until)?)).filter(|(base, until)| base < until)
}

/// Step 2: makes the new segment count. After an error it does not, unless that is a crash.
pub(super) fn commit(fs: &dyn Filesystem, dir: &Path, base: i64, until: i64) -> io::Result<()> {
    let (from, to) = (cleaned_path(dir, base, "log"), swap_path(dir, base, until));
    fs.rename(&from, &to)?;
    fs.sync_dir(dir).inspect_err(|_| {
        if let Err(e) = fs.remove(&to) {
            tracing::error!(file = %to.display(), error = %e, "can't remove a compacted segment");
        }
    })
}

/// Steps 3 and 4. May be repeated.
pub(super) fn finish(fs: &dyn Filesystem, dir: &Path, base: i64, until: i64) -> io::Result<()> {
    for entry in fs.list(dir)? {
        let of = |ending: &&str| offset_of(&entry.name, ending);
        let replaced = of(&"log").is_some_and(|other| base < other && other < until);
        let beside = COMPANIONS.iter().find_map(of).is_some_and(|other| base <= other && other < until);
        if replaced || beside {
            fs.remove(&dir.join(&entry.name))?;
        }
    }
    fs.sync_dir(dir)?;
    for ending in COMPANIONS {
        match fs.rename(&cleaned_path(dir, base, ending), &path_of(dir, base, ending)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs.rename(&swap_path(dir, base, until), &path_of(dir, base, "log"))?;
    fs.sync_dir(dir)
}

/// Removes the files of a new segment that is not wanted.
pub(super) fn discard(fs: &dyn Filesystem, dir: &Path, base: i64) -> io::Result<()> {
    for ending in COMPANIONS.into_iter().chain(["log"]) {
        match fs.remove(&cleaned_path(dir, base, ending)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// At a start: finishes what a crash cut short.
pub(super) fn recover(fs: &dyn Filesystem, dir: &Path) -> io::Result<()> {
    let names: Vec<String> = fs.list(dir)?.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect();
    for (base, until) in names.iter().filter_map(|name| range_of(name)) {
        tracing::info!(dir = %dir.display(), base, until, "finishing an interrupted compaction");
        finish(fs, dir, base, until)?;
    }
    for name in names.iter().filter(|name| name.ends_with(CLEANED)) {
        match fs.remove(&dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_taken() {
        for (name, want) in [
            ("00000000000000000010-00000000000000000200.swap", Some((10, 200))),
            ("00000000000000000200-00000000000000000010.swap", None),
            ("10-200.swap", None),
            ("00000000000000000010.swap", None),
            ("00000000000000000010-00000000000000000200.log", None),
        ] {
            assert_eq!(range_of(name), want, "{name}");
        }
    }
}
