//! Whether anyone still has a deleted file open for writing, as far as `/proc` shows.
//!
//! In: files that no name leads to any more. Out: [`Holder`]. Touches `/proc`, reading only: one look at all processes
//! serves all files for [`FRESH`]. What other users' processes have open is visible to root and to a process with
//! CAP_SYS_PTRACE only, and processes in other PID namespaces are invisible: then the answer is "unknown".

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::discover::FileKey;

/// A scan is used for so long.
const FRESH: Duration = Duration::from_secs(2);
/// PID namespace of the host itself, fixed by the kernel (`PROC_PID_INIT_INO`).
const HOST_NAMESPACE: &str = "pid:[4026531836]";

/// Who may write to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody.
    None,
    /// A process has it open for writing.
    Someone,
    /// Not all processes could be looked at.
    Unknown,
}

/// The last scan.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    scan: Option<ProcessScan>,
}

#[derive(Debug)]
struct ProcessScan {
    at: Instant,
    asked: HashSet<FileKey>,
    written: HashSet<FileKey>,
    whole: bool,
}

impl Writers {
    /// Who may write to `key`; a new look asks for all of `gone` at once.
    pub fn of(&mut self, key: FileKey, now: Instant, gone: &HashSet<FileKey>) -> Holder {
        let stale = |scan: &ProcessScan| now.saturating_duration_since(scan.at) > FRESH || !scan.asked.contains(&key);
        if self.scan.as_ref().is_none_or(stale) {
            self.scan = Some(scan_processes(Path::new("/proc"), now, gone.clone()));
        }
        match &self.scan {
            Some(scan) if scan.written.contains(&key) => Holder::Someone,
            Some(scan) if scan.whole => Holder::None,
            _ => Holder::Unknown,
        }
    }
}

fn scan_processes(proc: &Path, now: Instant, asked: HashSet<FileKey>) -> ProcessScan {
    let host = fs::read_link(proc.join("self/ns/pid")).is_ok_and(|name| name.as_os_str() == HOST_NAMESPACE);
    let mut scan = ProcessScan { at: now, asked, written: HashSet::new(), whole: host };
    let own = std::process::id().to_string();
    let Ok(processes) = fs::read_dir(proc) else {
        scan.whole = false;
        return scan;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if !is_process || name.as_encoded_bytes() == own.as_bytes() {
            continue;
        }
        match fs::read_dir(process.path().join("fd")) {
            Ok(open) => {
                for fd in open.flatten() {
                    let Ok(metadata) = fs::metadata(fd.path()) else { continue };
                    let key = FileKey::of(&metadata);
                    if scan.asked.contains(&key) && may_write(&process.path().join("fdinfo").join(fd.file_name())) {
                        scan.written.insert(key);
                    }
                }
            }
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => scan.whole = false,
        }
    }
    scan
}

/// Whether a descriptor is open for writing; one that ended meanwhile is not.
fn may_write(fdinfo: &Path) -> bool {
    let Ok(text) = fs::read_to_string(fdinfo) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn writers_are_told_from_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "x\n").unwrap();
        let key = FileKey::of(&fs::metadata(&path).unwrap());
        let gone = HashSet::from([key]);
        for (redirect, want) in [("3<", false), ("3>>", true)] {
            let script = format!("exec {redirect} \"$0\"; echo; read -r line");
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = [0u8; 1];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            let holder = Writers::default().of(key, Instant::now(), &gone);
            assert_eq!(holder == Holder::Someone, want, "{redirect}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_ne!(Writers::default().of(key, Instant::now(), &gone), Holder::Someone);
    }
}
