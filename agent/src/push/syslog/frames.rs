//! Takes messages out of a stream of bytes (RFC 6587): each ends with its line, or is as long as a number before it says.
//!
//! In: bytes as they were read, in any pieces. Out: messages, and how much of those that are too long was left out.
//! Touches nothing.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::config::syslog::Framing;

/// Digits of a message's length at most.
const MAX_DIGITS: usize = 9;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// The start of a message.
    Nothing,
    /// So many bytes of a message that was cut.
    Bytes(usize),
    /// What is left of a line that was cut.
    Line,
}

/// A stream that does not keep to its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message does not begin with a length such as `83 `: check that the client uses octet counting")]
pub(super) struct NoLength;

/// Messages of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    buffer: BytesMut,
    framing: Framing,
    max: usize,
    rest: Rest,
    /// No line end stands before this place.
    searched: usize,
    lost: u64,
}

/// What stands at the start of a message.
enum Head {
    /// Not enough bytes to tell.
    Unknown,
    /// A length and the bytes that it takes.
    Length {
        digits: usize,
        len: usize,
    },
    None,
}

impl Frames {
    /// Messages longer than `max` bytes are cut there.
    pub fn new(framing: Framing, max: usize) -> Self {
        Self { buffer: BytesMut::new(), framing, max, rest: Rest::Nothing, searched: 0, lost: 0 }
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that wait for more.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of cut messages that were left out since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn head(&self) -> Head {
        let digits = self.buffer.iter().take(MAX_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || self.buffer.first() == Some(&b'0') || digits > MAX_DIGITS {
            return Head::None;
        }
        match self.buffer.get(digits) {
            None => return Head::Unknown,
            Some(b' ') => {}
            Some(_) => return Head::None,
        }
        // A line may begin with a number as well: then no priority stands behind it.
        match (self.framing, self.buffer.get(digits + 1)) {
            (Framing::Auto, None) => return Head::Unknown,
            (Framing::Auto, Some(byte)) if *byte != b'<' => return Head::None,
            _ => {}
        }
        let len = self.buffer.iter().take(digits).fold(0, |len, digit| len * 10 + usize::from(digit - b'0'));
        Head::Length { digits, len }
    }

    /// The next whole message, without its end. `None`: more must be read.
    pub fn next(&mut self) -> Result<Option<Bytes>, NoLength> {
        loop {
            match self.rest {
                Rest::Nothing => {}
                Rest::Bytes(left) => {
                    let now = left.min(self.buffer.len());
                    self.drop_front(now);
                    if now < left {
                        self.rest = Rest::Bytes(left - now);
                        return Ok(None);
                    }
                    self.rest = Rest::Nothing;
                }
                Rest::Line => match memchr::memchr(b'\n', &self.buffer) {
                    None => {
                        self.drop_front(self.buffer.len());
                        return Ok(None);
                    }
                    Some(end) => {
                        self.drop_front(end);
                        self.buffer.advance(1);
                        self.rest = Rest::Nothing;
                    }
                },
            }
            if self.framing != Framing::Newline {
                // Some clients end messages that have a length with a line end, too.
                let ends = self.buffer.iter().take_while(|byte| matches!(byte, b'\n' | b'\r' | 0)).count();
                self.buffer.advance(ends);
                self.searched = self.searched.saturating_sub(ends);
                match self.head() {
                    Head::Unknown => return Ok(None),
                    Head::None if self.framing == Framing::OctetCounting && !self.buffer.is_empty() => {
                        return Err(NoLength);
                    }
                    Head::None => {}
                    Head::Length { digits, len } => {
                        let taken = len.min(self.max);
                        if self.buffer.len() < digits + 1 + taken {
                            return Ok(None);
                        }
                        self.buffer.advance(digits + 1);
                        self.searched = 0;
                        let message = self.buffer.split_to(taken).freeze();
                        self.rest = if len > taken { Rest::Bytes(len - taken) } else { Rest::Nothing };
                        match trimmed(message) {
                            message if message.is_empty() => continue,
                            message => return Ok(Some(message)),
                        }
                    }
                }
            }
            let from = self.searched.min(self.buffer.len());
            let Some(end) = memchr::memchr(b'\n', &self.buffer[from..]).map(|at| from + at) else {
                self.searched = self.buffer.len();
                if self.buffer.len() <= self.max {
                    return Ok(None);
                }
                self.rest = Rest::Line;
                self.searched = 0;
                match trimmed(self.buffer.split_to(self.max).freeze()) {
                    message if message.is_empty() => continue,
                    message => return Ok(Some(message)),
                }
            };
            self.searched = 0;
            let mut line = self.buffer.split_to(end).freeze();
            self.buffer.advance(1);
            if line.len() > self.max {
                self.lost += (line.len() - self.max) as u64;
                line.truncate(self.max);
            }
            let line = trimmed(line);
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What is left when the connection ends: a message that was not ended, or part of one.
    pub fn finish(&mut self) -> Option<Bytes> {
        let mut rest = std::mem::take(&mut self.buffer);
        if self.rest != Rest::Nothing {
            self.lost += rest.len() as u64;
            return None;
        }
        self.buffer = rest.clone();
        if self.framing != Framing::Newline
            && let Head::Length { digits, .. } = self.head()
        {
            rest.advance(digits + 1);
        }
        self.buffer.clear();
        Some(trimmed(rest.freeze())).filter(|message| !message.is_empty())
    }

    fn drop_front(&mut self, count: usize) {
        self.lost += count as u64;
        self.buffer.advance(count);
        self.searched = 0;
    }
}

/// Without the line end or the NUL that some clients put behind a message.
pub(super) fn trimmed(mut message: Bytes) -> Bytes {
    while let Some(b'\n' | b'\r' | 0) = message.last() {
        message.truncate(message.len() - 1);
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(framing: Framing, max: usize, pieces: &[&[u8]]) -> (Vec<String>, u64, Option<NoLength>) {
        let mut frames = Frames::new(framing, max);
        let mut found = Vec::new();
        for piece in pieces {
            frames.buffer().extend_from_slice(piece);
            loop {
                match frames.next() {
                    Ok(Some(frame)) => found.push(String::from_utf8_lossy(&frame).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (found, frames.take_lost(), Some(error)),
                }
            }
        }
        found.extend(frames.finish().map(|frame| String::from_utf8_lossy(&frame).into_owned()));
        (found, frames.take_lost(), None)
    }

    #[test]
    fn messages_are_found_by_length_and_by_line() {
        use Framing::{Auto, Newline, OctetCounting};
        type Case = (Framing, &'static str, &'static [&'static str], u64);
        let cases: &[Case] = &[
            (Auto, "<1>a\n<2>b\r\n\n<3>c", &["<1>a", "<2>b", "<3>c"], 0),
            (Auto, "4 <1>a4 <2>b", &["<1>a", "<2>b"], 0),
            (Auto, "5 <1>a\n4 <2>b\n<3>line\n4 <4>d", &["<1>a", "<2>b", "<3>line", "<4>d"], 0),
            (Auto, "7 <1>a\nb\0", &["<1>a\nb"], 0),
            (Auto, "12 men\n", &["12 men"], 0),
            (Auto, "0 <1>a\n", &["0 <1>a"], 0),
            (Auto, "1234567890 <1>\n", &["12345678"], 6),
            (Auto, "9 <1>a", &["<1>a"], 0),
            (Auto, "12 <1>aaaaaaaaa4 <2>b", &["<1>aaaaa", "<2>b"], 4),
            (Auto, "<1>aaaaaaaaa\n<2>b\n", &["<1>aaaaa", "<2>b"], 4),
            (Auto, "<1>aaaaaaaaa", &["<1>aaaaa"], 4),
            (Newline, "4 <1>a\n5 x\n", &["4 <1>a", "5 x"], 0),
            (Newline, "\0\0\0\0\0\0\0\0\0\0\n<2>b\n", &["<2>b"], 2),
            (Newline, "\0\0\0\0\0\0\0\0\0\0", &[], 2),
            (OctetCounting, "3 a b\n2 cd", &["a b", "cd"], 0),
        ];
        for (framing, text, want, lost) in cases {
            assert_eq!(
                run(*framing, 8, &[text.as_bytes()]),
                (want.iter().map(|s| s.to_string()).collect(), *lost, None),
                "{text:?}"
            );
        }
        assert_eq!(run(OctetCounting, 8, &[b"1 ab\n"]), (vec!["a".to_owned()], 0, Some(NoLength)));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in proptest::collection::vec(prop_oneof![
                Just("4 <1>a".to_owned()), Just("<2>line\n".to_owned()), Just("12 <1>long long".to_owned()), "[ -~]{0,12}\n",
            ], 0..12),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            framing in prop_oneof![Just(Framing::Auto), Just(Framing::Newline)],
        ) {
            let text = text.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(run(framing, 8, &pieces), run(framing, 8, &[&text]));
        }
    }
}
