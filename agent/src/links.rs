//! Symbolic links in tailed folders: which may be followed, and whether an open file was reached by others.
//!
//! In: an open file and the path by which it was opened. Out: nothing, or the link at fault. Touches `/proc/self/fd` and the
//! links of the path, reading only.
//!
//! The agent often reads more than those who write into the folders that it tails: whoever may put a link there could have
//! it publish any file of the host. So a link is followed if root made it, or if the file that it leads to has the same
//! owner; others only with `follow_foreign_symlinks`.
//!
//! The open file is judged, not a name: its path as the kernel knows it must be the one to which permitted links lead. A link
//! that is switched between looking and opening changes one of the two.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Links of one path, as the kernel counts (`ELOOP`).
const MAX_LINKS: usize = 40;

/// Which links are followed where a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follow {
    /// All.
    Any,
    /// Those of root, and those whose owner also owns the file.
    SameOwner,
}

/// A link that is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("symbolic link {} of user {owner} leads to a file of user {target}", link.display())]
pub struct ForeignLink {
    /// The link.
    pub link: PathBuf,
    /// User id of its owner.
    pub owner: u32,
    /// User id of the owner of the file.
    pub target: u32,
}

/// Whether a link of one user may be followed to what another owns.
pub fn may_follow(link_owner: u32, target_owner: u32) -> bool {
    link_owner == 0 || link_owner == target_owner
}

/// A link that leads to what another user owns; `None` for links that may be followed and for what is no link. For a first
/// look: what was opened is judged by [`check`].
pub fn foreign(path: &Path, target: &Metadata) -> Option<ForeignLink> {
    let link = std::fs::symlink_metadata(path).ok().filter(Metadata::is_symlink)?;
    let (owner, target) = (link.uid(), target.uid());
    (!may_follow(owner, target)).then(|| ForeignLink { link: path.to_owned(), owner, target })
}

/// Refuses a file that was reached by way of a foreign link: the error holds a [`ForeignLink`].
pub fn check(path: &Path, file: &File, metadata: &Metadata) -> io::Result<()> {
    let fd = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Without /proc names are all there is.
    let opened = std::fs::read_link(&fd).ok();
    if opened.as_deref() == Some(path) {
        return Ok(());
    }
    let permitted = resolve(path, metadata.uid())?;
    let is_it = match &opened {
        // The file was renamed or deleted a moment ago, or its path changed while it was looked at: tried again.
        Some(opened) => *opened == permitted,
        None => std::fs::symlink_metadata(&permitted)
            .is_ok_and(|found| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino())),
    };
    if is_it { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The path to which links lead that root or `owner` made; an error at the first of another user.
fn resolve(path: &Path, owner: u32) -> io::Result<PathBuf> {
    let mut rest: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(name);
        let found = std::fs::symlink_metadata(&next)?;
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        if !may_follow(found.uid(), owner) {
            let fault = ForeignLink { link: next, owner: found.uid(), target: owner };
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
        }
        let target = std::fs::read_link(&next)?;
        // The same link before and after: what was read is what its owner wrote.
        let again = std::fs::symlink_metadata(&next)?;
        let stamp = |m: &Metadata| (m.dev(), m.ino(), m.uid(), m.ctime(), m.ctime_nsec());
        if stamp(&again) != stamp(&found) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            rest.push_front(name);
        }
    }
    Ok(at)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    /// A user who is neither root nor whoever runs the tests.
    const OTHER: u32 = 65_534;

    /// Makes a link that is foreign to files of root: root can give it away, others have only their own.
    pub(crate) fn foreign_link(target: &Path, link: &Path) {
        symlink(target, link).unwrap();
        if std::fs::symlink_metadata(link).unwrap().uid() == 0 {
            lchown(link, Some(OTHER), None).unwrap();
        }
    }

    fn opened(path: &Path) -> Result<(), String> {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        check(path, &file, &metadata).map_err(|error| error.to_string())
    }

    #[test]
    fn links_of_root_and_of_the_files_owner_are_followed_others_are_not() {
        for (link, target, want) in [(0, 0, true), (0, 7, true), (7, 7, true), (7, 0, false), (7, 8, false)] {
            assert_eq!(may_follow(link, target), want, "{link} {target}");
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/mine.txt"), "x").unwrap();
        symlink("real/mine.txt", at("own.log")).unwrap();
        symlink("real", at("own")).unwrap();
        symlink("own/../own.log", at("twice.log")).unwrap();
        foreign_link(Path::new("/etc/passwd"), &at("passwd.log"));
        foreign_link(Path::new("/etc"), &at("etc"));
        symlink("passwd.log", at("by.log")).unwrap();
        for (name, want) in [
            ("real/mine.txt", None),
            ("own.log", None),
            ("own/mine.txt", None),
            ("twice.log", None),
            ("passwd.log", Some("passwd.log")),
            ("by.log", Some("passwd.log")),
            ("etc/passwd", Some("etc")),
        ] {
            let got = opened(&at(name));
            match want {
                None => assert_eq!(got, Ok(()), "{name}"),
                Some(link) => {
                    let start = format!("symbolic link {} of user", at(link).display());
                    // Where root runs the tests, its link to a foreign link is not the one at fault.
                    assert!(
                        got.as_ref().is_err_and(|text| text.starts_with(&start) || name == "by.log"),
                        "{name}: {got:?}"
                    );
                }
            }
        }
        assert!(foreign(&at("passwd.log"), &std::fs::metadata("/etc/passwd").unwrap()).is_some());
        assert!(foreign(&at("own.log"), &std::fs::metadata(at("own.log")).unwrap()).is_none());
    }

    #[test]
    fn a_name_that_was_switched_after_the_file_was_opened_does_not_excuse_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::write(at("mine.txt"), "x").unwrap();
        foreign_link(Path::new("/etc/passwd"), &at("a.log"));
        let file = File::open(at("a.log")).unwrap();
        let metadata = file.metadata().unwrap();
        for switched in [Some("mine.txt"), None] {
            std::fs::remove_file(at("a.log")).unwrap();
            match switched {
                // Its own file in the place of the link, then a link to its own file.
                Some(_) => std::fs::write(at("a.log"), "x").unwrap(),
                None => symlink("mine.txt", at("a.log")).unwrap(),
            }
            assert!(check(&at("a.log"), &file, &metadata).is_err(), "{switched:?}");
        }
    }
}
