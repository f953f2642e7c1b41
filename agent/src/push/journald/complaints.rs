//! Standard error of journalctl: its lines, for the log of the agent.
//!
//! In: bytes. Out: lines, and the last of them as the cause of an end. Touches nothing.

use bytes::BytesMut;

use crate::push::lines::Lines;

/// Longest line of what journalctl tells people.
const MAX_COMPLAINT: usize = 512;

/// The standard error of journalctl: its lines, and the last one.
pub(super) struct Complaints {
    lines: Lines,
    buffer: BytesMut,
    last: String,
    open: bool,
}

impl Complaints {
    pub fn new() -> Self {
        Self { lines: Lines::new(MAX_COMPLAINT, None), buffer: BytesMut::new(), last: String::new(), open: true }
    }

    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.clear();
        self.buffer.reserve(MAX_COMPLAINT);
        &mut self.buffer
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn heard(&mut self, read: std::io::Result<usize>) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |line: &[u8]| {
            let line = String::from_utf8_lossy(line).trim().to_owned();
            if !line.is_empty() {
                found.push(line);
            }
        };
        if read.unwrap_or(0) == 0 {
            self.open = false;
            self.lines.finish(&mut each);
        } else {
            self.lines.feed(&self.buffer, &mut each);
        }
        if let Some(last) = found.last() {
            self.last.clone_from(last);
        }
        found
    }

    /// An end with the last thing that was said.
    pub fn with(&self, end: &str) -> String {
        if self.last.is_empty() {
            format!("journalctl ended: {end}")
        } else {
            format!("journalctl ended: {end}: {}", self.last)
        }
    }
}
