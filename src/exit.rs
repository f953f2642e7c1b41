//! Exit codes and the one line that goes with each (sysexits.h where it has a code).
//!
//! In: errors of all rooms. Out: a code and a text for the person who started the process. Touches standard error.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use crate::escape;

/// Why the process ends, as scripts and systemd see it. The README lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Something failed while it ran; or `demo --for` ended without a page and its end.
    Failed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// `import` left something out, and said what.
    Partial = 3,
    /// An address can't be listened on, or a server can't be reached.
    Unavailable = 69,
    /// The data folder can't be used: in use, of a newer format, not writable.
    Data = 73,
    /// The configuration or a rule file has faults.
    Config = 78,
    /// A second signal ended it before everything was stopped.
    Interrupted = 130,
}

/// An error on its way out.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    error: anyhow::Error,
}

impl Failure {
    /// Joins a code and an error.
    pub fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// For errors of which only the text is known.
    pub fn text(code: Code, text: impl fmt::Display) -> Self {
        Self { code, error: anyhow::anyhow!("{text}") }
    }

    /// The code for the system.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }

    /// Which one it is.
    pub fn kind(&self) -> Code {
        self.code
    }

    /// One line with all causes on standard error.
    pub fn print(&self) {
        // Nobody is left to tell if standard error is closed.
        drop(writeln!(std::io::stderr(), "millrace: {}", escape::text(&self.to_string())));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Causes that the text above them repeats are left out.
        let mut text = String::new();
        for cause in self.error.chain() {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                if !text.is_empty() {
                    text.push_str(": ");
                }
                text.push_str(&cause);
            }
        }
        f.write_str(&text)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Code::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("disk is gone");
        let outer = anyhow::Error::new(inner).context("split 7 can't be written: disk is gone").context("index stops");
        assert_eq!(
            Failure::new(Code::Failed, outer).to_string(),
            "index stops: split 7 can't be written: disk is gone"
        );
    }
}
