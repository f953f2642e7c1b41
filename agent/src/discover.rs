//! Which files there are: globs, the folders to look into, and names of rotated files.
//!
//! In: the globs of the configuration. Out: what stands in the folders that they reach, each with the source entry it
//! belongs to. Touches folders, reading only. Leaves the question which source a file is to `tail/identify.rs`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::AgentError;
use crate::links::{self, Follow, ForeignLink};

/// Reads one glob: `*` and `?` stay within one name.
pub fn glob(pattern: &str) -> Result<Glob, AgentError> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|source| AgentError::Glob { pattern: pattern.to_owned(), source })
}

/// The include and exclude globs of one source entry.
#[derive(Debug)]
pub struct Globs {
    include: GlobSet,
    exclude: GlobSet,
    roots: Vec<Root>,
    /// Which symbolic links are followed, to files and to folders; `None`: none.
    follow: Option<Follow>,
}

/// A folder to look into, and how deep.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    folder: PathBuf,
    depth: usize,
    follow: Option<Follow>,
}

/// Deeper than this no `**` looks.
const MAX_DEPTH: usize = 32;

impl Globs {
    /// From the configuration; relative globs start at the working folder.
    pub fn new(include: &[String], exclude: &[String], follow: Option<Follow>) -> Result<Self, AgentError> {
        let mut roots: Vec<Root> = Vec::new();
        let mut sets = Vec::new();
        for (list, included) in [(include, true), (exclude, false)] {
            let mut set = GlobSetBuilder::new();
            for pattern in list {
                let absolute = absolute(pattern);
                set.add(glob(&absolute)?);
                let root = Root { follow, ..root_of(&absolute) };
                if included && !roots.contains(&root) {
                    roots.push(root);
                }
            }
            sets.push(set.build().map_err(|source| AgentError::Glob { pattern: list.join(", "), source })?);
        }
        let exclude = sets.pop().unwrap_or_default();
        let include = sets.pop().unwrap_or_default();
        Ok(Self { include, exclude, roots, follow })
    }

    /// Whether a path is to be read.
    pub fn matches(&self, path: &Path) -> bool {
        self.include.is_match(path) && !self.exclude.is_match(path)
    }
}

fn absolute(pattern: &str) -> String {
    if pattern.starts_with('/') {
        return pattern.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let escaped = globset::escape(&here.to_string_lossy());
    format!("{}/{}", escaped.trim_end_matches('/'), pattern.strip_prefix("./").unwrap_or(pattern))
}

/// The longest folder without a wildcard, and how many names the rest has.
fn root_of(pattern: &str) -> Root {
    let special = |part: &str| part.contains(['*', '?', '[', '{', '\\']);
    let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
    let plain = parts.iter().take_while(|p| !special(p)).count().min(parts.len().saturating_sub(1));
    let folder: PathBuf = std::iter::once("/").chain(parts.iter().take(plain).copied()).collect();
    let rest = &parts[plain.min(parts.len())..];
    // A `{a/b,c}` hides separators: count those inside as well.
    let depth = if rest.iter().any(|p| p.contains("**")) { MAX_DEPTH } else { rest.len().max(1) };
    Root { folder, depth, follow: None }
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// Device.
    pub device: u64,
    /// Inode on it.
    pub inode: u64,
}

impl FileKey {
    /// Of a file's metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// When a file was made, in ns since 1970, where the file system knows.
pub fn birth_ns(metadata: &Metadata) -> Option<i64> {
    let since = metadata.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// A file that a scan saw.
#[derive(Debug)]
pub struct FoundFile {
    /// Its path.
    pub path: PathBuf,
    /// What the system says of it.
    pub metadata: Metadata,
    /// Source entry whose globs it matches; for a rotated file, those of the name it had before.
    pub entry: usize,
    /// `None` if the globs match the file itself, else the path it had before its rotation.
    pub rotated_from: Option<PathBuf>,
}

/// What a scan saw.
#[derive(Debug, Default)]
pub struct Scan {
    /// Files that match, and files whose names look like rotations of such.
    pub files: Vec<FoundFile>,
    /// Folders looked into.
    pub folders: Vec<PathBuf>,
    /// Folders that globs begin at and that are not there: nothing reports when they come.
    pub missing: Vec<PathBuf>,
    /// Files reached by symbolic links, or with several names, and links that lead nowhere now: the kernel does not report
    /// writes by another name in another folder.
    pub links: Vec<(PathBuf, Option<Metadata>)>,
    /// Links that are not followed, as they lead to what another user owns.
    pub foreign: Vec<ForeignLink>,
    /// What could not be looked into.
    pub faults: Vec<(PathBuf, std::io::Error)>,
}

/// Looks into all folders that the globs reach.
pub fn scan(entries: &[&Globs]) -> Scan {
    let mut scan = Scan::default();
    let mut walked: HashSet<PathBuf> = HashSet::new();
    let mut roots: Vec<&Root> = entries.iter().flat_map(|globs| &globs.roots).collect();
    // Of two roots at one folder the deeper sees all that the other sees.
    roots.sort_by(|a, b| (&a.folder, a.follow).cmp(&(&b.folder, b.follow)).then(b.depth.cmp(&a.depth)));
    roots.dedup_by(|b, a| a.folder == b.folder && a.follow == b.follow);
    // By path, the place in `files`.
    let mut seen: HashMap<PathBuf, usize> = HashMap::new();
    for root in roots {
        let of_path = |path: &Path| entries.iter().position(|globs| globs.follow == root.follow && globs.matches(path));
        let follow = root.follow.is_some();
        let mut walk = walkdir::WalkDir::new(&root.folder).max_depth(root.depth).follow_links(follow).into_iter();
        while let Some(step) = walk.next() {
            let step = match step {
                Ok(step) => step,
                Err(error) => {
                    let path = error.path().unwrap_or(&root.folder).to_owned();
                    match error.into_io_error() {
                        Some(error) if error.kind() != std::io::ErrorKind::NotFound => scan.faults.push((path, error)),
                        Some(_) if path == root.folder => scan.missing.push(path),
                        Some(_) if of_path(&path).is_some() => scan.links.push((path, None)),
                        _ => {}
                    }
                    continue;
                }
            };
            if root.follow == Some(Follow::SameOwner)
                && step.path_is_symlink()
                && let Ok(target) = step.metadata()
                && let Some(foreign) = links::foreign(step.path(), &target)
            {
                if target.is_dir() {
                    walk.skip_current_dir();
                    scan.foreign.push(foreign);
                } else if of_path(step.path()).is_some() {
                    scan.foreign.push(foreign);
                }
                continue;
            }
            if step.file_type().is_dir() {
                if step.depth() < root.depth && walked.insert(step.path().to_owned()) {
                    scan.folders.push(step.into_path());
                }
                continue;
            }
            if !step.file_type().is_file() {
                continue;
            }
            let path = step.path();
            let (entry, rotated_from) = match of_path(path) {
                Some(entry) => (entry, None),
                None => {
                    let before =
                        rotated_from(path.file_name().unwrap_or_default()).map(|name| path.with_file_name(name));
                    let Some(before) = before else { continue };
                    match of_path(&before) {
                        Some(entry) => (entry, Some(before)),
                        None => continue,
                    }
                }
            };
            match step.metadata() {
                Ok(metadata) => {
                    if step.path_is_symlink() || metadata.nlink() > 1 {
                        scan.links.push((path.to_owned(), Some(metadata.clone())));
                    }
                    let found = FoundFile { path: path.to_owned(), metadata, entry, rotated_from };
                    match seen.get(path).and_then(|place| scan.files.get_mut(*place)) {
                        // Of several entries that match, the first has it.
                        Some(before)
                            if (before.rotated_from.is_some(), before.entry)
                                > (found.rotated_from.is_some(), found.entry) =>
                        {
                            *before = found;
                        }
                        Some(_) => {}
                        None => {
                            seen.insert(step.into_path(), scan.files.len());
                            scan.files.push(found);
                        }
                    }
                }
                Err(error) => {
                    let path = path.to_owned();
                    if let Some(error) = error.into_io_error()
                        && error.kind() != std::io::ErrorKind::NotFound
                    {
                        scan.faults.push((path, error));
                    }
                }
            }
        }
    }
    scan
}

/// The name that a rotated file had before, if its name looks like that of a rotated file: `app.log.1`,
/// `app.log-20260101`, `app.log.2026-01-01_10`, `app.log.old`; each of them, and `app.log` itself, also with `.gz` or
/// `.zst` behind.
pub fn rotated_from(name: &OsStr) -> Option<&OsStr> {
    let bytes = name.as_bytes();
    let plain = bytes.strip_suffix(b".gz").or_else(|| bytes.strip_suffix(b".zst")).filter(|plain| !plain.is_empty());
    match plain {
        Some(plain) => Some(without_rotation(plain).unwrap_or(OsStr::from_bytes(plain))),
        None => without_rotation(bytes),
    }
}

fn without_rotation(bytes: &[u8]) -> Option<&OsStr> {
    if let Some(base) = bytes.strip_suffix(b".old").filter(|base| !base.is_empty()) {
        return Some(OsStr::from_bytes(base));
    }
    let is_stamp = |b: u8| b.is_ascii_digit() || b"-_.:T+Z".contains(&b);
    let stamp = bytes.iter().rev().take_while(|b| is_stamp(**b)).count();
    // The stamp starts at its first separator that is followed by a digit and has a name before it.
    let from = bytes.len() - stamp;
    let cut = (from.max(1)..bytes.len())
        .find(|&i| b".-_".contains(&bytes[i]) && bytes.get(i + 1).is_some_and(u8::is_ascii_digit))?;
    Some(OsStr::from_bytes(&bytes[..cut]))
}

/// Whether `path` may be a rotated form of `of`: the same folder, and a name made from the other's.
pub fn is_rotation(path: &Path, of: &Path) -> bool {
    let (Some(name), Some(before)) = (path.file_name(), of.file_name()) else { return false };
    path.parent() == of.parent()
        && name != before
        && name.as_bytes().starts_with(before.as_bytes())
        && rotated_from(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::tests::foreign_link;

    const SAME: Option<Follow> = Some(Follow::SameOwner);

    #[test]
    fn roots_are_as_deep_as_needed() {
        for (pattern, folder, depth) in [
            ("/var/log/*.log", "/var/log", 1),
            ("/var/log/app.log", "/var/log", 1),
            ("/var/log/*/x/*.log", "/var/log", 3),
            ("/var/log/**/*.log", "/var/log", MAX_DEPTH),
            ("/*.log", "/", 1),
            ("/srv/{a,b}/app.log", "/srv", 2),
        ] {
            assert_eq!(root_of(pattern), Root { folder: folder.into(), depth, follow: None }, "{pattern}");
        }
    }

    #[test]
    fn globs_stay_within_names() {
        let globs = Globs::new(&["/l/*.log".into(), "/m/**/a?.txt".into()], &["/l/no*".into()], None).unwrap();
        for (path, want) in [
            ("/l/a.log", true),
            ("/l/x/a.log", false),
            ("/l/no.log", false),
            ("/m/a1.txt", true),
            ("/m/x/y/a2.txt", true),
            ("/m/x/y/a22.txt", false),
        ] {
            assert_eq!(globs.matches(Path::new(path)), want, "{path}");
        }
    }

    #[test]
    fn rotated_names_tell_where_they_come_from() {
        for (name, want) in [
            ("app.log.1", Some("app.log")),
            ("app.log.12", Some("app.log")),
            ("app.log-20260101", Some("app.log")),
            ("app.log-2026-01-01", Some("app.log")),
            ("app.log.2026-01-01T10:00:00", Some("app.log")),
            ("app.log.1.2", Some("app.log")),
            ("app.log.old", Some("app.log")),
            ("app.log", None),
            ("app.log.audit", None),
            ("app.log.1.gz", Some("app.log")),
            ("app.log-20260101.zst", Some("app.log")),
            ("app.log.gz", Some("app.log")),
            (".gz", None),
            ("app1", None),
            ("app.log.", None),
            (".1", None),
        ] {
            assert_eq!(rotated_from(OsStr::new(name)), want.map(OsStr::new), "{name}");
        }
    }

    #[test]
    fn scan_sees_matching_and_rotated_files_only() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.log", "a.log.1", "b.txt", "skip.log", "sub/c.log"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x\n").unwrap();
        }
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let globs = Globs::new(&[at("*.log")], &[at("skip*")], None).unwrap();
        let mut got: Vec<(String, bool)> = scan(&[&globs])
            .files
            .iter()
            .map(|f| (f.path.file_name().unwrap().to_string_lossy().into_owned(), f.rotated_from.is_some()))
            .collect();
        got.sort();
        assert_eq!(got, [("a.log".to_owned(), false), ("a.log.1".to_owned(), true)]);
    }

    #[test]
    fn folders_that_are_not_there_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("there")).unwrap();
        std::os::unix::fs::symlink("none", folder.path().join("dangling")).unwrap();
        let globs = ["there/*.log", "later/*.log", "a/b/x.log", "dangling/*.log", "*/none/x.log"];
        let globs = globs.map(|glob| folder.path().join(glob).to_string_lossy().into_owned());
        for follow in [SAME, None] {
            let scan = scan(&[&Globs::new(&globs, &[], follow).unwrap()]);
            let mut missing: Vec<_> =
                scan.missing.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_owned()).collect();
            missing.sort();
            assert_eq!(missing, ["a/b", "dangling", "later"].map(PathBuf::from), "{follow:?}");
            assert!(scan.faults.is_empty(), "{:?}", scan.faults);
        }
    }

    #[test]
    fn links_are_followed_if_asked() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("real")).unwrap();
        std::fs::write(at("real/x.txt"), "x\n").unwrap();
        std::fs::write(at("plain.log"), "x\n").unwrap();
        std::os::unix::fs::symlink("real/x.txt", at("link.log")).unwrap();
        std::os::unix::fs::symlink("real/none.txt", at("gone.log")).unwrap();
        let glob = at("*.log").to_string_lossy().into_owned();
        for (follow, want) in [(SAME, &["link.log", "plain.log"][..]), (None, &["plain.log"])] {
            let globs = Globs::new(std::slice::from_ref(&glob), &[], follow).unwrap();
            let scan = scan(&[&globs]);
            let mut names: Vec<_> =
                scan.files.iter().map(|f| f.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
            names.sort();
            let mut links: Vec<_> = scan.links.into_iter().map(|(path, found)| (path, found.is_some())).collect();
            links.sort();
            let linked = [(at("gone.log"), false), (at("link.log"), true)];
            assert_eq!(names, want);
            assert_eq!(links, if follow.is_some() { linked.to_vec() } else { Vec::new() });
        }
    }

    #[test]
    fn links_to_what_another_user_owns_are_followed_only_if_asked() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("plain.log"), "x\n").unwrap();
        foreign_link(Path::new("/etc/passwd"), &at("passwd.log"));
        foreign_link(Path::new("/etc/passwd"), &at("other.txt"));
        foreign_link(Path::new("/etc"), &at("etc"));
        let globs = [at("*.log"), at("*/passwd")].map(|glob| glob.to_string_lossy().into_owned());
        for (follow, files, foreign) in [
            (SAME, &["plain.log"][..], &["etc", "passwd.log"][..]),
            (Some(Follow::Any), &["passwd", "passwd.log", "plain.log"], &[]),
            (None, &["plain.log"], &[]),
        ] {
            let globs = Globs::new(&globs, &[], follow).unwrap();
            let scan = scan(&[&globs]);
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let mut found: Vec<_> = scan.files.iter().map(|file| name(&file.path)).collect();
            let mut skipped: Vec<_> = scan.foreign.iter().map(|link| name(&link.link)).collect();
            found.sort();
            skipped.sort();
            assert_eq!(
                (found, skipped),
                (
                    files.iter().map(|name| (*name).to_owned()).collect(),
                    foreign.iter().map(|name| (*name).to_owned()).collect()
                ),
                "{follow:?}"
            );
        }
    }

    #[test]
    fn first_entry_has_a_file_that_several_match() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.log"), "x\n").unwrap();
        let glob = folder.path().join("*.log").to_string_lossy().into_owned();
        for follow in [[SAME, None], [None, SAME], [SAME, SAME]] {
            let entries = follow.map(|follow| Globs::new(std::slice::from_ref(&glob), &[], follow).unwrap());
            let files = scan(&[&entries[0], &entries[1]]).files;
            assert_eq!((files.len(), files[0].entry), (1, 0), "{follow:?}");
        }
    }
}
