//! Which blocks of a split may hold a line that contains a text.
//!
//! In: the lines of each block; later the texts ("needles") that wanted lines contain. Out: the set of blocks that may
//! hold such a line: never too few, mostly not many more. Touches the folders `words-N` (Tantivy) and the file
//! `filters`. Leaves the check of the lines themselves to `reader`.
//!
//! # Words
//! A line is folded (ASCII letters to lower case, U+212A to `k`, U+017F to `s`: what Unicode's simple folding maps to
//! ASCII) and cut into words: longest runs of ASCII letters, digits and bytes from 0x80 on.
//!
//! | word | what is kept for the block |
//! |---|---|
//! | without digits, 2 to [`MAX_TERM`] bytes | a term of the Tantivy index |
//! | without digits, longer | a fingerprint in the filter, and the term [`LONG`] |
//! | with digits | a fingerprint in the filter; from [`MIN_GRAMMED`] bytes on also fingerprints of its grams |
//! | … its runs without digits, from [`MIN_PART`] bytes on | a term of the Tantivy index, or [`LONG`] if longer than [`MAX_TERM`] |
//!
//! Five of six words of real logs have digits and are hardly ever asked for one by one: in a dictionary they cost two
//! thirds of all time; a fingerprint costs ten bits and a few nanoseconds. Documents of the Tantivy indices are blocks,
//! each word once, so that the dictionary is small enough to be looked through for parts of words.
//!
//! Grams: of a word's runs of [`GRAM`] bytes, the one with the smallest hash out of each [`WINDOW`] neighbours. A text
//! that lies inside a word has those windows too, so that a pasted id finds its blocks though nobody knows where the
//! word starts or ends.
//!
//! # Needles
//! A word inside of a needle (another byte before and behind it) is a word of the line, and is looked up whole. The
//! first and last word may continue outside: of those, parts without digits are looked for in all terms, parts with
//! digits by their grams. What is too short for either leaves out no block.
//!
//! # Layout of `filters`, version 1
//! `MRFILTR`, version u8, then one filter per block; place, length and CRC-32C stand in the block table of `lines`. A
//! filter is Parquet's split-block Bloom filter (32-byte buckets, 8 bits per fingerprint) over 64-bit fingerprints.
//! An empty filter holds nothing. `words-N` covers the blocks from the document count of all lower N on.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memchr::memmem;
use millrace_logql::storage::LineNeedle;
use tantivy::directory::MmapDirectory;
use tantivy::schema::{BytesOptions, Field, IndexRecordOption, Schema};
use tantivy::{
    DocSet, Index, IndexSettings, SegmentReader, SingleSegmentIndexWriter, TERMINATED, TantivyDocument, Term,
};

use super::error::SplitError;
use super::line_store::{BlockEntry, read_at};

/// Longest word that is a term.
const MAX_TERM: usize = 64;
/// Shortest word that is a term.
const MIN_TERM: usize = 2;
/// Shortest run without digits that is a term where its word has digits.
const MIN_PART: usize = 3;
/// Bytes of a gram.
const GRAM: usize = 6;
/// Neighbouring grams of which one is kept.
const WINDOW: usize = 3;
/// Shortest word with a whole window.
const MIN_GRAMMED: usize = GRAM + WINDOW - 1;
/// Term of the blocks with a run that is too long to be a term. No word has a byte 0.
const LONG: &[u8] = b"\0long";
/// Bits of filter per fingerprint: about one block in a hundred is read in vain.
const FILTER_BITS: usize = 11;
/// Memory for terms after which the next `words-N` is begun.
const MAX_INDEX_MEMORY: usize = 96 << 20;
/// What Tantivy sizes its first table by.
const INDEX_BUDGET: usize = 16 << 20;

const MAGIC: &[u8; 7] = b"MRFILTR";
const VERSION: u8 = 1;
const FIELD: &str = "words";

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
fn fold(line: &[u8], out: &mut Vec<u8>) {
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
fn fingerprint(word: &[u8]) -> u64 {
    let mut h = word.len() as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut chunks = word.chunks_exact(8);
    for eight in &mut chunks {
        h = mix(h ^ chunk(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mix(h ^ chunk(chunks.remainder()))
}

/// Fingerprints of a word's grams, neighbours not repeated. Part of the format.
fn grams(word: &[u8], mut each: impl FnMut(u64)) {
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
fn words(text: &[u8], mut each: impl FnMut(std::ops::Range<usize>, bool)) {
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
fn letter_runs(word: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
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
struct WordHasher(u64);

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

/// Collects the words of one block.
#[derive(Debug, Default)]
struct BlockWords {
    folded: Vec<u8>,
    terms: HashSet<Box<[u8]>, BuildHasherDefault<WordHasher>>,
    marks: HashSet<u64, BuildHasherDefault<WordHasher>>,
    long: bool,
}

impl BlockWords {
    fn add(&mut self, line: &[u8]) {
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

    fn clear(&mut self) {
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

fn build_filter(marks: &HashSet<u64, BuildHasherDefault<WordHasher>>) -> Vec<u8> {
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

fn filter_has(filter: &[u8], mark: u64) -> bool {
    let buckets = filter.len() / BUCKET;
    let start = bucket_of(mark, buckets) * BUCKET;
    let Some(bucket) = filter.get(start..start + BUCKET) else { return false };
    SALTS.iter().enumerate().all(|(i, salt)| {
        let bit = (mark as u32).wrapping_mul(*salt) >> 27;
        bucket[4 * i + (bit / 8) as usize] & (1 << (bit % 8)) != 0
    })
}

/// Writes `filters` and `words-N`.
pub(super) struct WordsWriter {
    dir: PathBuf,
    path: PathBuf,
    filters: BufWriter<File>,
    offset: u64,
    block: BlockWords,
    field: Field,
    schema: Schema,
    index: Option<SingleSegmentIndexWriter>,
    folders: u32,
}

impl WordsWriter {
    /// Begins `filters` in the split's folder.
    pub fn create(dir: &Path) -> Result<Self, SplitError> {
        let path = dir.join("filters");
        let file =
            File::options().write(true).create_new(true).open(&path).map_err(SplitError::io("creating", &path))?;
        let mut filters = BufWriter::with_capacity(1 << 18, file);
        filters
            .write_all(MAGIC)
            .and_then(|()| filters.write_all(&[VERSION]))
            .map_err(SplitError::io("writing", &path))?;
        let mut schema = Schema::builder();
        let field = schema.add_bytes_field(FIELD, BytesOptions::default().set_indexed());
        Ok(Self {
            dir: dir.to_owned(),
            path,
            filters,
            offset: 8,
            block: BlockWords::default(),
            field,
            schema: schema.build(),
            index: None,
            folders: 0,
        })
    }

    /// Adds a line of the block.
    pub fn line(&mut self, line: &[u8]) {
        self.block.add(line);
    }

    /// Ends the block. Gives offset, length and CRC-32C of its filter.
    pub fn end_block(&mut self) -> Result<(u64, u32, u32), SplitError> {
        let mut document = TantivyDocument::default();
        for term in &self.block.terms {
            document.add_bytes(self.field, term);
        }
        if self.block.long {
            document.add_bytes(self.field, LONG);
        }
        let index = match self.index.as_mut() {
            Some(index) => index,
            None => {
                let index = self.begin_index()?;
                self.index.insert(index)
            }
        };
        let full = index.add_document(document).map(|()| index.mem_usage() > MAX_INDEX_MEMORY);
        if full.map_err(|source| words_error(&self.dir, source))? {
            self.end_index()?;
        }
        let filter = build_filter(&self.block.marks);
        self.filters.write_all(&filter).map_err(SplitError::io("writing", &self.path))?;
        let place = (self.offset, filter.len() as u32, crc32c::crc32c(&filter));
        self.offset += filter.len() as u64;
        self.block.clear();
        Ok(place)
    }

    fn begin_index(&mut self) -> Result<SingleSegmentIndexWriter, SplitError> {
        let folder = self.dir.join(format!("words-{}", self.folders));
        self.folders += 1;
        std::fs::create_dir(&folder).map_err(SplitError::io("creating", &folder))?;
        let settings = IndexSettings {
            docstore_compression: tantivy::store::Compressor::None,
            docstore_compress_dedicated_thread: false,
            ..IndexSettings::default()
        };
        MmapDirectory::open(&folder)
            .map_err(tantivy::TantivyError::from)
            .and_then(|directory| {
                Index::builder()
                    .schema(self.schema.clone())
                    .settings(settings)
                    .single_segment_index_writer(directory, INDEX_BUDGET)
            })
            .map_err(|source| words_error(&folder, source))
    }

    fn end_index(&mut self) -> Result<(), SplitError> {
        if let Some(index) = self.index.take() {
            index.finalize().map_err(|source| words_error(&self.dir, source))?;
        }
        Ok(())
    }

    /// Ends and syncs `filters`, ends the last index. Gives the number of `words-N`.
    pub fn finish(mut self) -> Result<u32, SplitError> {
        self.end_index()?;
        self.filters.flush().map_err(SplitError::io("writing", &self.path))?;
        self.filters.get_ref().sync_all().map_err(SplitError::io("syncing", &self.path))?;
        Ok(self.folders)
    }
}

fn words_error(path: &Path, source: tantivy::TantivyError) -> SplitError {
    SplitError::Words { path: path.to_owned(), source }
}

/// What every line that contains the needles makes true of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Clause {
    /// The filter has the fingerprint.
    Mark(u64),
    /// The block has the term.
    Term(Vec<u8>),
    /// The block has a term that contains the part, or [`LONG`].
    Part(Vec<u8>, At),
}

/// Where in a term a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    End,
    Anywhere,
}

/// The clauses of some needles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    clauses: Vec<Clause>,
    marks: Vec<u64>,
}

impl Wanted {
    pub fn new(needles: &[LineNeedle]) -> Self {
        let mut wanted = Self::default();
        needles.iter().for_each(|needle| wanted.needle(needle));
        wanted
    }

    fn needle(&mut self, needle: &LineNeedle) {
        let mut folded = Vec::new();
        fold(&needle.text, &mut folded);
        let mut found = Vec::new();
        words(&folded, |range, _| found.push(range));
        for range in found {
            let (open_left, open_right) = (range.start == 0, range.end == folded.len());
            let mut word = &folded[range];
            if needle.ignore_case && !word.is_ascii() {
                // Only ASCII is folded alike here and in the check of lines.
                continue;
            }
            // An open end may cut a character that is folded in the line: go by its ASCII part, which is open as well.
            if open_left {
                word = &word[word.iter().position(u8::is_ascii).unwrap_or(word.len())..];
            }
            if open_right {
                word = &word[..word.iter().rposition(u8::is_ascii).map_or(0, |last| last + 1)];
            }
            // Nothing of it may be left, or it may be of one character: both say too little.
            if word.len() < MIN_TERM {
                continue;
            }
            let has_digit = word.iter().any(u8::is_ascii_digit);
            if !open_left && !open_right {
                self.clauses.push(if has_digit || word.len() > MAX_TERM {
                    Clause::Mark(fingerprint(word))
                } else {
                    Clause::Term(word.to_vec())
                });
                continue;
            }
            if has_digit && word.len() >= MIN_GRAMMED {
                grams(word, |gram| self.clauses.push(Clause::Mark(gram)));
            }
            for run in letter_runs(word) {
                let at_start = run.start == 0;
                let at_end = run.end == word.len();
                let part = &word[run];
                if part.len() < MIN_PART {
                    continue;
                }
                // Open only where the run touches an open end.
                let clause = match (at_start && open_left, at_end && open_right) {
                    (false, false) if part.len() > MAX_TERM => continue,
                    (false, false) => Clause::Term(part.to_vec()),
                    (true, false) => Clause::Part(part.to_vec(), At::End),
                    (false, true) => Clause::Part(part.to_vec(), At::Start),
                    (true, true) => Clause::Part(part.to_vec(), At::Anywhere),
                };
                self.clauses.push(clause);
            }
        }
        self.clauses.sort_by_key(|c| matches!(c, Clause::Part(..)));
        self.marks =
            self.clauses.iter().filter_map(|c| if let Clause::Mark(mark) = c { Some(*mark) } else { None }).collect();
    }

    /// Whether the terms of the index can leave out blocks.
    pub fn asks_terms(&self) -> bool {
        self.clauses.len() > self.marks.len()
    }

    /// Whether filters can leave out blocks.
    pub fn asks_filters(&self) -> bool {
        !self.marks.is_empty()
    }
}

/// Open `filters` and `words-N`.
pub(super) struct Words {
    path: PathBuf,
    filters: File,
    folders: Vec<Folder>,
}

struct Folder {
    path: PathBuf,
    segment: SegmentReader,
    field: Field,
    first_block: usize,
}

impl Words {
    /// Opens what [`WordsWriter`] wrote; the caller has compared the checksums of `words-N`.
    pub fn open(dir: &Path, folders: u32) -> Result<Self, SplitError> {
        let path = dir.join("filters");
        let filters = File::open(&path).map_err(SplitError::io("opening", &path))?;
        let head = read_at(&filters, &path, 0, 8)?;
        if !head.starts_with(MAGIC) {
            return Err(SplitError::Damaged { path, block: None, reason: "it does not start as a file of filters" });
        }
        if head[7] != VERSION {
            return Err(SplitError::Version { path, found: head[7].into() });
        }
        let mut opened = Vec::new();
        let mut first_block = 0;
        for number in 0..folders {
            let folder = Folder::open(dir.join(format!("words-{number}")), first_block)?;
            first_block += folder.segment.max_doc() as usize;
            opened.push(folder);
        }
        Ok(Self { path, filters, folders: opened })
    }

    /// Clears the blocks that can't hold a wanted line, going by the terms.
    pub fn retain(
        &self,
        wanted: &Wanted,
        candidates: &mut [bool],
        cancelled: impl Fn() -> bool,
    ) -> Result<(), SplitError> {
        for folder in &self.folders {
            let range = folder.first_block..folder.first_block + folder.segment.max_doc() as usize;
            let Some(part) = candidates.get_mut(range) else {
                let reason = "it covers more blocks than there are";
                return Err(SplitError::Damaged { path: folder.path.clone(), block: None, reason });
            };
            folder.retain(wanted, part, &cancelled)?;
        }
        Ok(())
    }

    /// Whether the filter of a block has all fingerprints.
    pub fn may_have(&self, number: u32, entry: &BlockEntry, wanted: &Wanted) -> Result<bool, SplitError> {
        let filter = read_at(&self.filters, &self.path, entry.filter_offset, entry.filter_len as usize)?;
        if crc32c::crc32c(&filter) != entry.filter_crc {
            let reason = "its checksum does not fit";
            return Err(SplitError::Damaged { path: self.path.clone(), block: Some(number), reason });
        }
        Ok(wanted.marks.iter().all(|&mark| filter_has(&filter, mark)))
    }
}

impl Folder {
    fn open(path: PathBuf, first_block: usize) -> Result<Self, SplitError> {
        let open = || -> tantivy::Result<(SegmentReader, Field)> {
            let index = Index::open_in_dir(&path)?;
            let field = index.schema().get_field(FIELD)?;
            let segments = index.searchable_segments()?;
            let [segment] = segments.as_slice() else {
                return Err(tantivy::TantivyError::InternalError(format!("{} segments, 1 expected", segments.len())));
            };
            Ok((SegmentReader::open(segment)?, field))
        };
        match open() {
            Ok((segment, field)) => Ok(Self { segment, field, path, first_block }),
            Err(source) => Err(SplitError::Words { path, source }),
        }
    }

    fn retain(
        &self,
        wanted: &Wanted,
        candidates: &mut [bool],
        cancelled: &impl Fn() -> bool,
    ) -> Result<(), SplitError> {
        let failed = |source: tantivy::TantivyError| SplitError::Words { path: self.path.clone(), source };
        let inverted = self.segment.inverted_index(self.field).map_err(failed)?;
        let mut found = vec![false; candidates.len()];
        let set = |info: &tantivy::postings::TermInfo, found: &mut [bool]| -> Result<(), SplitError> {
            let mut postings = inverted
                .read_postings_from_terminfo(info, IndexRecordOption::Basic)
                .map_err(|source| failed(source.into()))?;
            let mut block = postings.doc();
            while block != TERMINATED {
                if let Some(found) = found.get_mut(block as usize) {
                    *found = true;
                }
                block = postings.advance();
            }
            Ok(())
        };
        for clause in &wanted.clauses {
            if cancelled() {
                return Err(SplitError::Cancelled);
            }
            if !candidates.contains(&true) {
                return Ok(());
            }
            found.fill(false);
            match clause {
                Clause::Mark(_) => continue,
                Clause::Term(term) => {
                    let term = Term::from_field_bytes(self.field, term);
                    if let Some(info) = inverted.get_term_info(&term).map_err(|source| failed(source.into()))? {
                        set(&info, &mut found)?;
                    }
                }
                Clause::Part(part, at) => {
                    let finder = memmem::Finder::new(part);
                    let io = |source: std::io::Error| failed(source.into());
                    let mut terms = match at {
                        At::Start => {
                            let mut range = inverted.terms().range().ge(part);
                            if let Some(end) = after_prefix(part) {
                                range = range.lt(end);
                            }
                            range.into_stream().map_err(io)?
                        }
                        At::End | At::Anywhere => inverted.terms().stream().map_err(io)?,
                    };
                    let mut seen = 0u32;
                    while let Some((term, info)) = terms.next() {
                        seen = seen.wrapping_add(1);
                        if seen.is_multiple_of(65_536) && cancelled() {
                            return Err(SplitError::Cancelled);
                        }
                        let has = match at {
                            At::Start => term.starts_with(part),
                            At::End => term.ends_with(part),
                            At::Anywhere => finder.find(term).is_some(),
                        };
                        if has {
                            set(info, &mut found)?;
                        }
                    }
                    let long = Term::from_field_bytes(self.field, LONG);
                    if let Some(info) = inverted.get_term_info(&long).map_err(|source| failed(source.into()))? {
                        set(&info, &mut found)?;
                    }
                }
            }
            candidates.iter_mut().zip(&found).for_each(|(candidate, found)| *candidate &= *found);
        }
        Ok(())
    }
}

/// The first text behind all that start with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// Finds a needle in many lines that lie one behind the other.
#[derive(Debug)]
pub(super) enum Finder {
    Exact(Box<memmem::Finder<'static>>),
    Folded(regex::bytes::Regex),
}

impl Finder {
    /// `None` for needles that every line has, and for those that no expression can be made of: the caller of the plan
    /// checks again.
    pub fn new(needle: &LineNeedle) -> Option<Self> {
        if needle.text.is_empty() {
            return None;
        }
        if !needle.ignore_case {
            return Some(Self::Exact(Box::new(memmem::Finder::new(&needle.text).into_owned())));
        }
        let text = std::str::from_utf8(&needle.text).ok()?;
        let regex = regex::bytes::RegexBuilder::new(&regex::escape(text)).case_insensitive(true).build().ok()?;
        Some(Self::Folded(regex))
    }

    /// First place at or behind `from`.
    pub fn find(&self, text: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
        let rest = text.get(from..)?;
        match self {
            Self::Exact(finder) => {
                let start = from + finder.find(rest)?;
                Some(start..start + finder.needle().len())
            }
            Self::Folded(regex) => regex.find(rest).map(|m| from + m.start()..from + m.end()),
        }
    }

    /// Whether a line has it.
    pub fn is_in(&self, line: &[u8]) -> bool {
        self.find(line, 0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(lines: &[&[u8]]) -> BlockWords {
        let mut block = BlockWords::default();
        lines.iter().for_each(|line| block.add(line));
        block
    }

    fn may_have(block: &BlockWords, wanted: &Wanted) -> bool {
        let filter = build_filter(&block.marks);
        wanted.clauses.iter().all(|clause| match clause {
            Clause::Mark(mark) => filter_has(&filter, *mark),
            Clause::Term(term) => block.terms.contains(term.as_slice()),
            Clause::Part(part, at) => {
                block.long
                    || block.terms.iter().any(|term| match at {
                        At::Start => term.starts_with(part),
                        At::End => term.ends_with(part),
                        At::Anywhere => memmem::find(term, part).is_some(),
                    })
            }
        })
    }

    fn needle(text: &[u8], ignore_case: bool) -> LineNeedle {
        LineNeedle { text: text.to_vec(), ignore_case }
    }

    #[test]
    fn needles_leave_out_blocks_without_their_words() {
        let line =
            "2026-03-01T12:00:00Z ERROR session=blk_38865049064139660 \u{212A}elvin PaymentFailed user42abc gr\u{fc}n";
        let block = block(&[line.as_bytes()]);
        for (text, ignore_case, want) in [
            // (needle, without regard to case, whether the block may have it)
            ("", false, true),
            ("ERROR", false, true),
            ("WARN", false, false),
            (" ERROR ", false, true),
            (" RROR ", false, false),
            ("RROR", false, true),
            ("RRO", false, true),
            ("entFail", false, true),
            ("entFall", false, false),
            ("session=", false, true),
            ("ession=", false, true),
            ("essio=", false, false),
            ("=blk_38865049064139660 ", false, true),
            ("=blk_38865049064139661 ", false, false),
            ("_38865049064139660", false, true),
            ("8650490641", false, true),
            ("8650491111", false, false),
            ("99", false, true),
            ("--- ", false, true),
            ("error", true, true),
            ("eRRor session", true, true),
            ("errors", true, false),
            (" kelvin ", true, true),
            (" \u{212A}ELVIN ", true, true),
            ("user42abc", false, true),
            (" user42abd ", false, false),
            ("user42zzz", false, false),
            ("gr\u{fc}n", false, true),
            ("GR\u{dc}N", true, true),
            ("gr\u{fc}ne", false, false),
        ] {
            let wanted = Wanted::new(&[needle(text.as_bytes(), ignore_case)]);
            assert_eq!(may_have(&block, &wanted), want, "{text:?} {ignore_case} {wanted:?}");
        }
    }

    #[test]
    fn words_longer_than_a_term_are_found_by_their_parts() {
        let long = format!("x {} y", "ab".repeat(100));
        let block = block(&[long.as_bytes()]);
        for (text, want) in [("abab", true), ("ba y", true), ("zz y", true), (long.as_str(), true)] {
            assert_eq!(may_have(&block, &Wanted::new(&[needle(text.as_bytes(), false)])), want, "{text}");
        }
        let other = format!(" {} ", "ab".repeat(99));
        assert!(!may_have(&block, &Wanted::new(&[needle(other.as_bytes(), false)])));
    }

    #[test]
    fn fingerprints_and_filters_are_those_of_version_1() {
        // A change here is a change of the format on disk.
        let mut all = Vec::new();
        grams(b"38865049064139660", |gram| all.push(gram));
        let marks = [1u64, 2, u64::MAX].into_iter().collect();
        let found = (fingerprint(b"38865049064139660"), all.len(), all[0], crc32c::crc32c(&build_filter(&marks)));
        assert_eq!(found, (16_199_399_018_842_293_827, 6, 2_584_096_618_404_251_903, 561_390_797));
    }

    #[test]
    fn filters_are_wrong_about_few() {
        let marks: HashSet<u64, _> = (0..10_000u64).map(|i| fingerprint(&i.to_le_bytes())).collect();
        let filter = build_filter(&marks);
        assert!(marks.iter().all(|&mark| filter_has(&filter, mark)));
        let wrong = (10_000..110_000u64).filter(|i| filter_has(&filter, fingerprint(&i.to_le_bytes()))).count();
        assert!(wrong < 2_000, "{wrong} of 100000");
    }

    /// Bytes that make words, their borders and what is folded.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[abkKsS]{1,4}",
            4 => "[0-9]{1,5}",
            3 => "[ .=_-]",
            1 => Just("\u{212A}".to_owned()),
            1 => Just("\u{17F}".to_owned()),
            1 => "[\u{e9}\u{c9}\u{4e2d}]{1,2}",
        ];
        let bytes = prop_oneof![9 => piece.prop_map(String::into_bytes), 1 => any::<u8>().prop_map(|b| vec![b])];
        proptest::collection::vec(bytes, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_block_is_left_out_that_has_the_needle(
            lines in proptest::collection::vec(text(), 1..4), from: prop::sample::Index, len in 0usize..24,
        ) {
            let line = &lines[0];
            let start = from.index(line.len() + 1);
            let part = &line[start..(start + len).min(line.len())];
            let block = block(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let wanted = Wanted::new(&[needle(part, false)]);
            prop_assert!(may_have(&block, &wanted), "{:?} in {:?}: {:?}", part, line, wanted);
        }

        #[test]
        fn no_block_is_left_out_that_has_the_needle_in_another_case(
            line in text(), needle_text in "[abkKsS0-9 \u{212A}\u{17F}\u{e9}\u{c9}]{1,3}",
        ) {
            let needle = needle(needle_text.as_bytes(), true);
            if Finder::new(&needle).expect("not empty, UTF-8").is_in(&line) {
                prop_assert!(may_have(&block(&[&line]), &Wanted::new(&[needle])));
            }
        }

        #[test]
        fn a_text_inside_of_a_word_has_only_its_grams(word in "[0-9a-f]{8,40}", from in 0usize..32, len in 8usize..20) {
            let (mut all, mut part) = (HashSet::new(), Vec::new());
            grams(word.as_bytes(), |gram| { all.insert(gram); });
            let bytes = word.as_bytes();
            let start = from.min(bytes.len() - 8);
            let inside = &bytes[start..(start + len).min(bytes.len())];
            grams(inside, |gram| part.push(gram));
            prop_assert!(!part.is_empty());
            prop_assert!(part.iter().all(|gram| all.contains(gram)));
        }
    }
}
