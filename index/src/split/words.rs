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
//! | without digits, 2 to `MAX_TERM` bytes | a term of the Tantivy index |
//! | without digits, longer | a fingerprint in the filter, and the term [`LONG`] |
//! | with digits | a fingerprint in the filter; from `MIN_GRAMMED` bytes on also fingerprints of its grams |
//! | … its runs without digits, from `MIN_PART` bytes on | a term of the Tantivy index, or [`LONG`] if longer than `MAX_TERM` |
//!
//! Five of six words of real logs have digits and are hardly ever asked for one by one: in a dictionary they cost two
//! thirds of all time; a fingerprint costs ten bits and a few nanoseconds. Documents of the Tantivy indices are blocks,
//! each word once, so that the dictionary is small enough to be looked through for parts of words.
//!
//! Grams: of a word's runs of `GRAM` bytes, the one with the smallest hash out of each `WINDOW` neighbours. A text
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

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;
use millrace_log::fs::{File, FileWriter, Filesystem};
use tantivy::directory::{Directory, MmapDirectory};
use tantivy::schema::{BytesOptions, Field, IndexRecordOption, Schema};
use tantivy::{
    DocSet, Index, IndexSettings, SegmentReader, SingleSegmentIndexWriter, TERMINATED, TantivyDocument, Term,
};

use super::block_words::{BlockWords, build_filter, filter_has};
use super::error::SplitError;
use super::line_store::read_at;
use super::needles::{At, Clause, Wanted};
use super::tables::BlockEntry;
use super::tokens::LONG;
use super::words_directory::WordsDirectory;

/// Memory for terms after which the next `words-N` is begun.
const MAX_INDEX_MEMORY: usize = 96 << 20;
/// What Tantivy sizes its first table by; tests write thousands of small splits.
const INDEX_BUDGET: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };

const MAGIC: &[u8; 7] = b"MRFILTR";
const VERSION: u8 = 1;
const FIELD: &str = "words";

/// A `words-N` that is written.
struct Begun {
    directory: WordsDirectory,
    writer: SingleSegmentIndexWriter,
}

/// Writes `filters` and `words-N`.
pub(super) struct WordsWriter {
    fs: Arc<dyn Filesystem>,
    dir: PathBuf,
    path: PathBuf,
    filters: BufWriter<FileWriter>,
    offset: u64,
    block: BlockWords,
    field: Field,
    schema: Schema,
    index: Option<Begun>,
    folders: u32,
}

impl WordsWriter {
    /// Begins `filters` in the split's folder.
    pub fn create(fs: &Arc<dyn Filesystem>, dir: &Path) -> Result<Self, SplitError> {
        let path = dir.join("filters");
        let file = fs.create_new(&path).map_err(SplitError::io("creating", &path))?;
        let mut filters = BufWriter::with_capacity(1 << 18, FileWriter::new(file));
        filters
            .write_all(MAGIC)
            .and_then(|()| filters.write_all(&[VERSION]))
            .map_err(SplitError::io("writing", &path))?;
        let mut schema = Schema::builder();
        let field = schema.add_bytes_field(FIELD, BytesOptions::default().set_indexed());
        Ok(Self {
            fs: Arc::clone(fs),
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
        index.writer.add_document(document).map_err(|error| index.directory.error(error))?;
        if index.writer.mem_usage() > MAX_INDEX_MEMORY {
            self.end_index()?;
        }
        let filter = build_filter(&self.block.marks);
        self.filters.write_all(&filter).map_err(SplitError::io("writing", &self.path))?;
        let place = (self.offset, filter.len() as u32, crc32c::crc32c(&filter));
        self.offset += filter.len() as u64;
        self.block.clear();
        Ok(place)
    }

    fn begin_index(&mut self) -> Result<Begun, SplitError> {
        let folder = self.dir.join(format!("words-{}", self.folders));
        self.folders += 1;
        self.fs.create_dir(&folder).map_err(SplitError::io("creating", &folder))?;
        let settings = IndexSettings {
            docstore_compression: tantivy::store::Compressor::None,
            docstore_compress_dedicated_thread: false,
            ..IndexSettings::default()
        };
        let directory = WordsDirectory::new(&self.fs, &folder);
        let builder = Index::builder().schema(self.schema.clone()).settings(settings);
        match builder.single_segment_index_writer(directory.clone(), INDEX_BUDGET) {
            Ok(writer) => Ok(Begun { directory, writer }),
            Err(error) => Err(directory.error(error)),
        }
    }

    fn end_index(&mut self) -> Result<(), SplitError> {
        if let Some(index) = self.index.take() {
            index.writer.finalize().map_err(|error| index.directory.error(error))?;
        }
        Ok(())
    }

    /// Ends and syncs `filters`, ends the last index. Gives the number of `words-N`.
    pub fn finish(mut self) -> Result<u32, SplitError> {
        self.end_index()?;
        self.filters.flush().map_err(SplitError::io("writing", &self.path))?;
        self.filters.get_ref().file().sync_data().map_err(SplitError::io("syncing", &self.path))?;
        Ok(self.folders)
    }
}

/// Open `filters` and `words-N`.
pub(super) struct Words {
    path: PathBuf,
    filters: Arc<dyn File>,
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
    pub fn open(fs: &Arc<dyn Filesystem>, dir: &Path, folders: u32) -> Result<Self, SplitError> {
        let path = dir.join("filters");
        let filters = fs.open_read(&path).map_err(SplitError::io("opening", &path))?;
        let head = read_at(&*filters, &path, 0, 8)?;
        if !head.starts_with(MAGIC) {
            return Err(SplitError::Damaged { path, block: None, reason: "it does not start as a file of filters" });
        }
        if head[7] != VERSION {
            return Err(SplitError::Version { path, found: head[7].into() });
        }
        let mut opened = Vec::new();
        let mut first_block = 0;
        for number in 0..folders {
            let folder = Folder::open(fs, dir.join(format!("words-{number}")), first_block)?;
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
        check: impl Fn() -> Result<(), SplitError>,
    ) -> Result<(), SplitError> {
        for folder in &self.folders {
            let range = folder.first_block..folder.first_block + folder.segment.max_doc() as usize;
            let Some(part) = candidates.get_mut(range) else {
                let reason = "it covers more blocks than there are";
                return Err(SplitError::Damaged { path: folder.path.clone(), block: None, reason });
            };
            folder.retain(wanted, part, &check)?;
        }
        Ok(())
    }

    /// Whether the filter of a block has all fingerprints.
    pub fn may_have(&self, number: u32, entry: &BlockEntry, wanted: &Wanted) -> Result<bool, SplitError> {
        let filter = read_at(&*self.filters, &self.path, entry.filter_offset, entry.filter_len as usize)?;
        if crc32c::crc32c(&filter) != entry.filter_crc {
            let reason = "its checksum does not fit";
            return Err(SplitError::Damaged { path: self.path.clone(), block: Some(number), reason });
        }
        Ok(wanted.marks.iter().all(|&mark| filter_has(&filter, mark)))
    }
}

impl Folder {
    fn open(fs: &Arc<dyn Filesystem>, path: PathBuf, first_block: usize) -> Result<Self, SplitError> {
        let open = || -> tantivy::Result<(SegmentReader, Field)> {
            let directory: Box<dyn Directory> = match fs.system_path(&path) {
                Some(path) => Box::new(MmapDirectory::open(path)?),
                None => Box::new(WordsDirectory::new(fs, &path)),
            };
            let index = Index::open(directory)?;
            let field = index.schema().get_field(FIELD)?;
            let segments = index.searchable_segments()?;
            let [segment] = segments.as_slice() else {
                return Err(tantivy::TantivyError::InternalError(format!("{} segments, 1 expected", segments.len())));
            };
            Ok((SegmentReader::open(segment)?, field))
        };
        match open() {
            Ok((segment, field)) => Ok(Self { segment, field, path, first_block }),
            Err(source) => Err(SplitError::words(&path, source)),
        }
    }

    fn retain(
        &self,
        wanted: &Wanted,
        candidates: &mut [bool],
        check: &impl Fn() -> Result<(), SplitError>,
    ) -> Result<(), SplitError> {
        let failed = |source: tantivy::TantivyError| SplitError::words(&self.path, source);
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
            check()?;
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
                    let io = |source: io::Error| failed(source.into());
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
                        if seen.is_multiple_of(65_536) {
                            check()?;
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::split::needles::Finder;
    use crate::split::tokens::{fingerprint, grams};
    use millrace_logql::storage::LineNeedle;
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
