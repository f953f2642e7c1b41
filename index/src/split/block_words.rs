//! The words of one block as they are collected, and its filter: Parquet's split-block Bloom filter over fingerprints.
//!
//! In: lines. Out: terms, fingerprints, the filter's bytes; whether a filter has a fingerprint. Touches nothing.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::tokens::{
    MAX_TERM, MIN_GRAMMED, MIN_PART, MIN_TERM, WordHasher, fingerprint, fold, grams, letter_runs, words,
};

/// Bits of filter per fingerprint: about one block in a hundred is read in vain.
const FILTER_BITS: usize = 11;

/// Collects the words of one block.
#[derive(Debug, Default)]
pub(super) struct BlockWords {
    folded: Vec<u8>,
    pub terms: HashSet<Box<[u8]>, BuildHasherDefault<WordHasher>>,
    pub marks: HashSet<u64, BuildHasherDefault<WordHasher>>,
    pub long: bool,
}

impl BlockWords {
    /// Adds the words of a line.
    pub fn add(&mut self, line: &[u8]) {
        let mut folded = std::mem::take(&mut self.folded);
        fold(line, &mut folded);
        words(&folded, |range, has_digit| {
            let word = &folded[range];
            if !has_digit {
                if word.len() <= MAX_TERM {
                    if word.len() >= MIN_TERM {
                        self.term(word);
                    }
                } else {
                    self.marks.insert(fingerprint(word));
                    self.long = true;
                }
                return;
            }
            self.marks.insert(fingerprint(word));
            for run in letter_runs(word) {
                match run.len() {
                    0..MIN_PART => {}
                    MIN_PART..=MAX_TERM => self.term(&word[run]),
                    _ => self.long = true,
                }
            }
            if word.len() >= MIN_GRAMMED {
                grams(word, |gram| {
                    self.marks.insert(gram);
                });
            }
        });
        folded.shrink_to(1 << 20);
        self.folded = folded;
    }

    fn term(&mut self, term: &[u8]) {
        if !self.terms.contains(term) {
            self.terms.insert(term.into());
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.terms.clear();
        self.marks.clear();
        self.long = false;
    }
}

const SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
const BUCKET: usize = 32;

fn bucket_of(mark: u64, buckets: usize) -> usize {
    (((mark >> 32) * buckets as u64) >> 32) as usize
}

pub(super) fn build_filter(marks: &HashSet<u64, BuildHasherDefault<WordHasher>>) -> Vec<u8> {
    let buckets = (marks.len() * FILTER_BITS).div_ceil(BUCKET * 8);
    let mut filter = vec![0u8; buckets * BUCKET];
    for &mark in marks {
        let start = bucket_of(mark, buckets) * BUCKET;
        for (i, salt) in SALTS.iter().enumerate() {
            let bit = (mark as u32).wrapping_mul(*salt) >> 27;
            filter[start + 4 * i + (bit / 8) as usize] |= 1 << (bit % 8);
        }
    }
    filter
}

pub(super) fn filter_has(filter: &[u8], mark: u64) -> bool {
    let buckets = filter.len() / BUCKET;
    let start = bucket_of(mark, buckets) * BUCKET;
    let Some(bucket) = filter.get(start..start + BUCKET) else { return false };
    SALTS.iter().enumerate().all(|(i, salt)| {
        let bit = (mark as u32).wrapping_mul(*salt) >> 27;
        bucket[4 * i + (bit / 8) as usize] & (1 << (bit % 8)) != 0
    })
}
