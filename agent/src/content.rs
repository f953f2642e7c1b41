//! The bytes of an open file at any place: as they stand, or unpacked from gzip or zstd.
//!
//! In: a path. Out: [`Content`], whose offsets and size are those of the unpacked bytes, so that a position means the
//! same before and after a rotated file was compressed. Touches the file, reading only.
//!
//! A packed file has no size until it was unpacked once; that goes in steps ([`Content::measure`]), so that a large one
//! holds up nobody. Memory: the head, the last window and the decoder's own (a zstd frame may ask for 128 MiB).

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::fingerprint::TAIL_BYTES;
use crate::links::{self, Follow};

/// Unpacked at once while a size is being found out.
const STEP_BYTES: u64 = 4 << 20;
/// The start of a packed file that is kept: the largest `fingerprint_bytes`.
const HEAD_BYTES: usize = 64 << 10;
/// Bytes that are kept behind the place of a decoder, besides the last window.
const CHUNK: usize = 64 << 10;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// RFC 1952, one or several members.
    Gzip,
    /// RFC 8878, one or several frames.
    Zstd,
}

impl Packing {
    fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.as_bytes();
        if name.ends_with(b".gz") {
            Some(Self::Gzip)
        } else if name.ends_with(b".zst") {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    fn magic(self) -> &'static [u8] {
        match self {
            Self::Gzip => &[0x1f, 0x8b],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        }
    }
}

/// Whether a name says that the file is packed.
pub(crate) fn is_packed_name(path: &Path) -> bool {
    Packing::of_name(path).is_some()
}

/// An open file.
pub(crate) enum Content {
    /// As it stands.
    Plain(File),
    /// Unpacked as it is read.
    Packed(Box<RefCell<Packed>>),
}

/// What is known of a file's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// So many bytes.
    Known(u64),
    /// Ask again.
    Measuring,
    /// So many bytes, then the packed data breaks off: whoever packs it has not ended, or was ended.
    Torn(u64),
}

impl Content {
    /// Opens a file unless links lead to it that are not to be followed; one that has the name and the first bytes of a packed one is unpacked.
    pub fn open(path: &Path, follow: Follow) -> io::Result<(Self, Metadata)> {
        // What became a pipe since it was found must not hold up the thread.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if follow == Follow::SameOwner {
            links::check(path, &file, &metadata)?;
        }
        let Some(packing) = Packing::of_name(path) else { return Ok((Self::Plain(file), metadata)) };
        // An empty one is being packed.
        let mut magic = [0u8; 4];
        let got = fill(&file, 0, &mut magic)?;
        let expected = packing.magic();
        let start = &expected[..expected.len().min(got)];
        if !magic.starts_with(start) {
            return Ok((Self::Plain(file), metadata));
        }
        let packed = Packed { file, packing, raw: None, size: None, measure: None, head: Vec::new(), reader: None };
        Ok((Self::Packed(Box::new(RefCell::new(packed))), metadata))
    }

    /// What the system says of the file; its length is that of the packed bytes.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Plain(file) => file.metadata(),
            Self::Packed(packed) => packed.borrow().file.metadata(),
        }
    }

    /// Whether it is unpacked as it is read.
    pub const fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// The size; of a packed file the next step towards it.
    pub fn measure(&self) -> io::Result<Size> {
        match self {
            Self::Plain(file) => Ok(Size::Known(file.metadata()?.len())),
            Self::Packed(packed) => packed.borrow_mut().measure(),
        }
    }

    /// The size as far as it is known now.
    pub fn size(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(packed) => Ok(match packed.borrow().size {
                Some(Size::Known(size) | Size::Torn(size)) => size,
                _ => 0,
            }),
        }
    }

    /// Fills `bytes` from an offset; returns how many there were.
    pub fn read_into(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => fill(file, offset, bytes),
            Self::Packed(packed) => packed.borrow_mut().read_into(offset, bytes),
        }
    }

    /// Reads up to `len` bytes at an offset; fewer at the end of the file.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; len];
        let got = self.read_into(offset, &mut bytes)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The bytes before a position, [`TAIL_BYTES`] at most.
    pub fn tail_at(&self, position: u64) -> io::Result<Vec<u8>> {
        let len = position.min(TAIL_BYTES as u64);
        self.read_at(position - len, usize::try_from(len).unwrap_or(TAIL_BYTES))
    }
}

fn fill(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// A file's bytes from its start, whatever other readers do.
struct FromStart {
    file: File,
    offset: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.offset)?;
        self.offset += got as u64;
        Ok(got)
    }
}

/// Unpacks from the start to the end.
struct Unpacker {
    decoder: Box<dyn Read + Send>,
    at: u64,
}

impl Unpacker {
    /// The next bytes; fewer than asked for only at the end.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < bytes.len() {
            match self.decoder.read(&mut bytes[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read before stands.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        self.at += got as u64;
        Ok(got)
    }
}

pub(crate) struct Packed {
    file: File,
    packing: Packing,
    /// Length and time of the packed file when it was measured.
    raw: Option<(u64, i64, i64)>,
    size: Option<Size>,
    measure: Option<Unpacker>,
    head: Vec<u8>,
    reader: Option<(Unpacker, Vec<u8>)>,
}

impl Packed {
    fn unpacker(&self) -> io::Result<Unpacker> {
        let from = BufReader::with_capacity(CHUNK, FromStart { file: self.file.try_clone()?, offset: 0 });
        let decoder: Box<dyn Read + Send> = match self.packing {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(from)?),
        };
        Ok(Unpacker { decoder, at: 0 })
    }

    fn measure(&mut self) -> io::Result<Size> {
        let metadata = self.file.metadata()?;
        let raw = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if self.raw != Some(raw) {
            self.raw = Some(raw);
            (self.size, self.measure, self.reader) = (None, None, None);
            self.head.clear();
        }
        if let Some(size) = self.size {
            return Ok(size);
        }
        let mut unpacker = match self.measure.take() {
            Some(unpacker) => unpacker,
            None => self.unpacker()?,
        };
        let mut buffer = vec![0u8; CHUNK];
        let until = unpacker.at + STEP_BYTES;
        while unpacker.at < until {
            let at = unpacker.at;
            match unpacker.decoder.read(&mut buffer) {
                Ok(0) => return Ok(*self.size.insert(Size::Known(at))),
                Ok(n) => {
                    let room = HEAD_BYTES.saturating_sub(self.head.len()).min(n);
                    self.head.extend_from_slice(&buffer[..room]);
                    unpacker.at += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(*self.size.insert(Size::Torn(at)));
                }
                Err(error) => {
                    // Damaged here: what stands before can be read.
                    tracing::warn!(%error, at, "compressed file is damaged, reading it up to there");
                    return Ok(*self.size.insert(Size::Torn(at)));
                }
            }
        }
        self.measure = Some(unpacker);
        Ok(Size::Measuring)
    }

    fn read_into(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let end = match self.size {
            Some(Size::Known(size) | Size::Torn(size)) => size,
            _ => return Ok(0),
        };
        let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = &mut bytes[..wanted];
        if let Some(head) = usize::try_from(offset).ok().and_then(|from| self.head.get(from..from + wanted)) {
            bytes.copy_from_slice(head);
            return Ok(wanted);
        }
        let (mut unpacker, mut kept) = match self.reader.take() {
            Some((unpacker, kept)) if offset >= unpacker.at - kept.len() as u64 => (unpacker, kept),
            _ => (self.unpacker()?, Vec::new()),
        };
        // Up to the offset, keeping nothing.
        if offset > unpacker.at {
            kept.clear();
            let mut buffer = vec![0u8; CHUNK];
            while offset > unpacker.at {
                let step = usize::try_from(offset - unpacker.at).unwrap_or(CHUNK).min(CHUNK);
                if unpacker.read(&mut buffer[..step])? < step {
                    return Ok(0);
                }
            }
        }
        let kept_at = unpacker.at - kept.len() as u64;
        kept.drain(..usize::try_from(offset - kept_at).unwrap_or(0).min(kept.len()));
        let have = kept.len();
        if have < wanted {
            kept.resize(wanted, 0);
            let got = unpacker.read(&mut kept[have..])?;
            kept.truncate(have + got);
        }
        let got = wanted.min(kept.len());
        bytes[..got].copy_from_slice(&kept[..got]);
        self.reader = Some((unpacker, kept));
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn text() -> Vec<u8> {
        (0..200_000).flat_map(|n: u32| format!("line {n}\n").into_bytes()).collect()
    }

    fn gz(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        out
    }

    fn measured(content: &Content) -> Size {
        loop {
            match content.measure().unwrap() {
                Size::Measuring => {}
                size => return size,
            }
        }
    }

    #[test]
    fn packed_files_read_like_plain_ones_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let text = text();
        let (a, b) = text.split_at(1_000_000);
        let zst = [zstd::bulk::compress(a, 1).unwrap(), zstd::bulk::compress(b, 1).unwrap()].concat();
        for (name, bytes, packed) in [
            ("a.log.1.gz", gz(&[a, b]), true),
            ("a.log.1.zst", zst, true),
            ("a.log.1", text.clone(), false),
            // A name alone makes no packed file.
            ("b.log.gz", text.clone(), false),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let (content, _) = Content::open(&path, Follow::SameOwner).unwrap();
            assert_eq!(content.is_packed(), packed, "{name}");
            assert_eq!(measured(&content), Size::Known(text.len() as u64), "{name}");
            for (offset, len) in [
                (0, 10),
                (500, 70_000),
                (70_244, 70_000),
                (70_300, 5),
                (10, 90_000),
                (text.len() - 3, 10),
                (1_999_000, 4),
            ] {
                let want = &text[offset..(offset + len).min(text.len())];
                assert_eq!(content.read_at(offset as u64, len).unwrap(), want, "{name} {offset} {len}");
            }
            assert_eq!(content.tail_at(300).unwrap(), &text[44..300], "{name}");
        }
    }

    #[test]
    fn half_written_file_is_torn_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log.1.gz");
        let whole = gz(&[&text()]);
        std::fs::write(&path, b"").unwrap();
        let (content, _) = Content::open(&path, Follow::SameOwner).unwrap();
        assert!(content.is_packed());
        assert_eq!(measured(&content), Size::Torn(0));
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(measured(&content), Size::Torn(n) if n > 0));
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(measured(&content), Size::Known(text().len() as u64));
    }

    #[test]
    fn damaged_file_is_read_up_to_the_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log.1.gz");
        let text = text();
        let mut bytes = gz(&[&text]);
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        let (content, _) = Content::open(&path, Follow::SameOwner).unwrap();
        let Size::Torn(size) = measured(&content) else { panic!("not torn") };
        assert!(size < text.len() as u64);
        assert_eq!(content.read_at(0, 1000).unwrap(), text[..1000]);
    }
}
