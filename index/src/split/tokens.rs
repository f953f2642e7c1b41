//! Words of lines: folding, cutting, fingerprints, grams. See `words` for what is done with them. Part of the format: a change
//! of any of it needs a new version.
//!
//! In: bytes of a line. Out: words and numbers. Touches nothing.

use std::hash::Hasher;

/// Longest word that is a term.
pub(super) const MAX_TERM: usize = 64;
/// Shortest word that is a term.
pub(super) const MIN_TERM: usize = 2;
/// Shortest run without digits that is a term where its word has digits.
pub(super) const MIN_PART: usize = 3;
/// Bytes of a gram.
const GRAM: usize = 6;
/// Neighbouring grams of which one is kept.
const WINDOW: usize = 3;
/// Shortest word with a whole window.
pub(super) const MIN_GRAMMED: usize = GRAM + WINDOW - 1;
/// Term of the blocks with a run that is too long to be a term. No word has a byte 0.
pub(super) const LONG: &[u8] = b"\0long";

const WORD: u8 = 1;
const DIGIT: u8 = 2;

/// [`WORD`] and [`DIGIT`] by byte.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_digit() {
            class[byte] = WORD | DIGIT;
        } else if b.is_ascii_alphabetic() || b >= 0x80 {
            class[byte] = WORD;
        }
        byte += 1;
    }
    class
};

fn class(byte: u8) -> u8 {
    CLASS[usize::from(byte)]
}

/// Folds `line` into `out`.
pub(super) fn fold(line: &[u8], out: &mut Vec<u8>) {
    out.clear();
    if line.is_ascii() {
        out.extend_from_slice(line);
    } else {
        let mut rest = line;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = if let Some(tail) = rest.strip_prefix("\u{212A}".as_bytes()) {
                out.push(b'k');
                tail
            } else if let Some(tail) = rest.strip_prefix("\u{17F}".as_bytes()) {
                out.push(b's');
                tail
            } else {
                out.push(byte);
                tail
            };
        }
    }
    out.make_ascii_lowercase();
}

/// 64-bit finalizer of MurmurHash3.
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

fn chunk(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(word)
}

/// Fingerprint of a whole word. Part of the format: a change of it needs a new version.
pub(super) fn fingerprint(word: &[u8]) -> u64 {
    let mut h = word.len() as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut chunks = word.chunks_exact(8);
    for eight in &mut chunks {
        h = mix(h ^ chunk(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mix(h ^ chunk(chunks.remainder()))
}

/// Fingerprints of a word's grams, neighbours not repeated. Part of the format.
pub(super) fn grams(word: &[u8], mut each: impl FnMut(u64)) {
    let mut window = [u64::MAX; WINDOW];
    let mut last = None;
    for (i, gram) in word.windows(GRAM).enumerate() {
        window[i % WINDOW] = mix(chunk(gram) ^ 0x5bd1_e995_0000_0000);
        if i + 1 >= WINDOW {
            let least = window.iter().copied().min();
            if least != last {
                least.into_iter().for_each(&mut each);
                last = least;
            }
        }
    }
}

/// Calls `each` for every word of a folded text with its place.
pub(super) fn words(text: &[u8], mut each: impl FnMut(std::ops::Range<usize>, bool)) {
    let mut at = 0;
    while at < text.len() {
        if class(text[at]) == 0 {
            at += 1;
            continue;
        }
        let start = at;
        let mut seen = 0;
        while at < text.len() && class(text[at]) != 0 {
            seen |= class(text[at]);
            at += 1;
        }
        each(start..at, seen & DIGIT != 0);
    }
}

/// Runs without digits of a word, with their places.
pub(super) fn letter_runs(word: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < word.len() && class(word[at]) & DIGIT != 0 {
            at += 1;
        }
        let start = at;
        while at < word.len() && class(word[at]) & DIGIT == 0 {
            at += 1;
        }
        (start < at).then_some(start..at)
    })
}

/// For sets whose keys are fingerprints already, or are made so.
#[derive(Debug, Default)]
pub(super) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = fingerprint(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
