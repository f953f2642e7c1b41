//! Cuts a window of a file's bytes into events, whatever its format: lines, lines of container runtimes, other encodings.
//!
//! In: a window that stands at a [`Mark`]. Out: a [`Cut`]: pieces that point into the window, behind which texts are put
//! that do not stand in the file as they are; where each event is in the file; what else the format says of it. Touches
//! nothing and keeps nothing: the same bytes from the same mark give the same events, so that an event read again after a
//! crash has the same position.
//!
//! # Containers
//! Both streams of a container are in one file, and the parts of their long lines, or the lines of their traces, may
//! interleave. From the first line of an event that is not complete until no event of either stream is open, lines make one
//! *stretch*, which is cut as a whole: a mark never stands inside. An event has the position of its first line, and events
//! leave in the order of their positions. A stretch ends at [`STRETCH`] bytes at the latest; what waits for more of one
//! stream ends when the other has gone on for [`OTHER_STREAM`] or [`OTHER_PART`]: all of it follows from the bytes alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use encoding_rs::Encoding;
use millrace_log::record::Labels;

use crate::container::{Runtime, Stream, Written};
use crate::line_end::LineEnd;
use crate::multiline::{Join, Stage};
use crate::name::plain_name;
use crate::pool::Window;
use crate::producer::is_invalid;
use crate::split::{Mark, Mode, Outcome, Piece, Splitter};

/// Longest line of a container's file: a part of 16 KiB, escaped, and what Docker was told to add.
const RAW_LINE: usize = 160 << 10;
/// How long a stretch may be, beside what two events may hold.
const STRETCH: u64 = 64 << 10;
/// How far the other stream may go on while an event waits for more lines, ns.
const OTHER_STREAM: i64 = 1_000_000_000;
/// The same while the next part of a line is missing, which a runtime writes at once or never.
const OTHER_PART: i64 = 5_000_000_000;
/// Metadata names that attributes of Docker's may not take.
const OWN_NAMES: [&str; 3] = ["container", "encoding", "stream"];
/// Attributes of Docker's that are kept, and bytes of each value.
const ATTRIBUTES: (usize, usize) = (16, 1024);

/// The events of a window.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// They point into the window.
    pub pieces: Vec<Piece>,
    pub outcome: Outcome,
    /// Where each event begins in the file. Empty: where it stands in the window.
    pub positions: Vec<u64>,
    /// When each was written, as its format says. Empty: it does not say.
    pub times: Vec<Option<i64>>,
    /// Metadata of each; empty if none has any.
    pub metas: Vec<Option<Bytes>>,
    /// Stream of each; empty if there are none, or no label is made of them.
    pub streams: Vec<Stream>,
}

/// How a file is cut.
#[derive(Debug, Clone)]
pub(crate) enum Cutter {
    /// Lines in UTF-8, or whatever they hold.
    Lines(Splitter),
    /// Lines in another encoding.
    Encoded(Encoded),
    /// Lines of container runtimes.
    Container(Container),
}

/// Lines in another encoding.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// Of the text.
    pub splitter: Splitter,
    pub encoding: &'static Encoding,
}

/// Lines of container runtimes.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub runtime: Runtime,
    /// Longest event; its lines.
    pub splitter: Splitter,
    /// Whether the stream is told by a label; else it is metadata.
    pub label: bool,
}

impl Cutter {
    /// How many bytes a window must have so that something can always be cut from it.
    pub fn min_window(&self) -> usize {
        match self {
            Self::Lines(splitter) => splitter.min_window(),
            // UTF-16 takes two bytes for what is one of text.
            Self::Encoded(encoded) => encoded.splitter.min_window() * 2,
            Self::Container(container) => {
                usize::try_from(container.stretch()).unwrap_or(usize::MAX) + 2 * container.raw_line() + 4096
            }
        }
    }

    /// Longest line of the file.
    pub fn max_line(&self) -> usize {
        match self {
            Self::Lines(splitter) => splitter.max_line,
            Self::Encoded(encoded) => encoded.splitter.max_line * encoded.line_end().unit(),
            Self::Container(container) => container.raw_line(),
        }
    }

    /// How lines end in its files.
    pub fn line_end(&self) -> LineEnd {
        match self {
            Self::Encoded(encoded) => encoded.line_end(),
            _ => LineEnd::Byte,
        }
    }

    /// Memory that cutting takes beside the window, for each of its bytes.
    pub fn copies(&self) -> usize {
        usize::from(!matches!(self, Self::Lines(_)))
    }

    /// Cuts what stands in the window from `known` on, which stands at `mark`. With `flush` nothing is left for later.
    pub fn cut(&self, window: &mut Window, known: usize, mark: Mark, flush: bool) -> Cut {
        match self {
            Self::Lines(splitter) => {
                let mut cut = Cut { pieces: Vec::with_capacity((window.len() - known) / 128 + 1), ..Cut::default() };
                cut.outcome = splitter.split(&window[known..], mark, flush, &mut cut.pieces);
                for piece in &mut cut.pieces {
                    piece.start += small(known);
                }
                skip_bom(&mut cut, window, mark);
                cut
            }
            Self::Encoded(encoded) => encoded.cut(window, known, mark, flush),
            Self::Container(container) => container.cut(window, known, mark, flush),
        }
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The mark that some programs put before a text in UTF-8 is no part of its first line, which keeps its position.
fn skip_bom(cut: &mut Cut, window: &[u8], mark: Mark) {
    const BOM: &[u8] = "\u{feff}".as_bytes();
    if mark != Mark::default() {
        return;
    }
    let Some(first) = cut.pieces.first_mut() else { return };
    let start = first.start as usize;
    if window.get(start..start + first.len as usize).is_some_and(|line| line.starts_with(BOM)) {
        cut.positions = cut.pieces.iter().map(|piece| u64::from(piece.start) - start as u64).collect();
        if let Some(first) = cut.pieces.first_mut() {
            first.start += small(BOM.len());
            first.len -= small(BOM.len());
        }
    }
}

impl Encoded {
    fn line_end(&self) -> LineEnd {
        if self.encoding == encoding_rs::UTF_16LE {
            LineEnd::Utf16Le
        } else if self.encoding == encoding_rs::UTF_16BE {
            LineEnd::Utf16Be
        } else {
            LineEnd::Byte
        }
    }

    /// Puts the text behind the window and cuts it there.
    fn cut(&self, window: &mut Window, known: usize, mark: Mark, flush: bool) -> Cut {
        let line_end = self.line_end();
        let len = window.len() - known;
        let len = len - len % line_end.unit();
        let text_at = window.len();
        // Where lines begin: in the file's bytes, and in the text.
        let mut lines: Vec<(usize, usize)> = Vec::new();
        let mut broken: Vec<usize> = Vec::new();
        let mut from = 0;
        let mut text = String::new();
        while from < len {
            let raw = &window[known + from..known + len];
            let taken = line_end.after_first(raw).unwrap_or(raw.len());
            let (decoded, errors) = self.encoding.decode_without_bom_handling(&raw[..taken]);
            let decoded: &str = match decoded.strip_prefix('\u{feff}') {
                Some(rest) if from == 0 && mark == Mark::default() => rest,
                _ => &decoded,
            };
            lines.push((from, text.len()));
            if errors {
                broken.push(text.len());
            }
            text.push_str(decoded);
            from += taken;
        }
        lines.push((len, text.len()));
        let mut cut = Cut::default();
        let at_text = Mark { offset: 0, mode: mark.mode };
        let outcome = self.splitter.split(text.as_bytes(), at_text, flush, &mut cut.pieces);
        // Line starts stand in both; whatever is cut inside of a line goes on to its end.
        let raw_of = |place: usize| {
            let line = lines.partition_point(|(_, text)| *text <= place).saturating_sub(1);
            lines.get(line).map_or(0, |(raw, _)| *raw)
        };
        let end = usize::try_from(outcome.mark.offset).unwrap_or(usize::MAX);
        let taken = if end >= text.len() { len } else { raw_of(end) };
        let mut pieces = std::mem::take(&mut cut.pieces);
        let starts: Vec<usize> = pieces.iter().map(|piece| raw_of(piece.start as usize)).collect();
        let ends = starts.iter().skip(1).copied().chain([taken]);
        let mut spanned = 0;
        for ((piece, start), end) in pieces.iter_mut().zip(&starts).zip(ends) {
            // From the start of its first line to its end.
            let line = lines.partition_point(|(_, text)| *text <= piece.start as usize).saturating_sub(1);
            let first = lines.get(line).map_or(0, |(_, text)| *text);
            let end_in_text = ((piece.start + piece.len) as usize).max(first + 1);
            let before = |place: usize| broken.partition_point(|line| *line < place);
            let invalid = before(first) < before(end_in_text);
            cut.metas.push(invalid.then(|| meta(&BTreeMap::from([("encoding", "invalid")]))));
            cut.positions.push(mark.offset + *start as u64);
            // All bytes up to the next event are its own, but for what was beyond the limit.
            piece.span = if piece.cut { piece.len.min(small(end - start)) } else { small(end - start) };
            spanned += u64::from(piece.span);
            piece.start += small(text_at);
        }
        if cut.metas.iter().all(Option::is_none) {
            cut.metas.clear();
        }
        window.append(text.as_bytes());
        let outside = (taken as u64).saturating_sub(spanned);
        let (skipped, ends) = if outcome.skipped > 0 { (outside, 0) } else { (0, outside) };
        cut.outcome =
            Outcome { mark: Mark { offset: mark.offset + taken as u64, mode: outcome.mark.mode }, skipped, ends };
        cut.pieces = pieces;
        cut
    }
}

/// Metadata as a header has it.
fn meta(pairs: &BTreeMap<&str, &str>) -> Bytes {
    Labels::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).to_json().into()
}

/// Text that stands in the window, or was put together.
#[derive(Debug)]
enum Text {
    At(u32, u32),
    Own(Vec<u8>),
}

impl Text {
    fn get<'a>(&'a self, window: &'a [u8]) -> &'a [u8] {
        match self {
            Self::At(start, len) => window.get(*start as usize..(*start + *len) as usize).unwrap_or_default(),
            Self::Own(text) => text,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::At(_, len) => *len as usize,
            Self::Own(text) => text.len(),
        }
    }

    /// Puts more behind it.
    fn add(&mut self, window: &[u8], separator: &[u8], more: &[u8]) {
        if let Self::At(..) = self {
            *self = Self::Own(self.get(window).to_vec());
        }
        if let Self::Own(text) = self {
            text.extend_from_slice(separator);
            text.extend_from_slice(more);
        }
    }
}

/// An event, complete or not.
#[derive(Debug)]
struct Event {
    at: u64,
    text: Text,
    span: u32,
    lines: u32,
    cut: bool,
    stream: Stream,
    time_ns: Option<i64>,
    malformed: bool,
    attrs: BTreeMap<String, String>,
}

/// What is open of a stream.
#[derive(Debug, Default)]
struct Open {
    /// A line whose last part has not come.
    parts: Option<Event>,
    /// An event that may go on with the next line: what is known of it, where its last line begins, when that was written.
    event: Option<(Event, Stage, usize, i64)>,
}

impl Open {
    fn is_none(&self) -> bool {
        self.parts.is_none() && self.event.is_none()
    }
}

/// A pass over the lines of a window.
struct Pass<'w> {
    container: &'w Container,
    window: &'w [u8],
    events: Vec<Event>,
    open: [Open; 2],
    /// Bytes beyond the limit.
    skipped: u64,
}

impl Container {
    fn raw_line(&self) -> usize {
        self.splitter.max_line.max(RAW_LINE)
    }

    fn stretch(&self) -> u64 {
        2 * self.splitter.max_line as u64 + STRETCH
    }

    fn cut(&self, window: &mut Window, known: usize, mark: Mark, flush: bool) -> Cut {
        let raw = Splitter { max_line: self.raw_line(), join: None };
        let mut lines = Vec::with_capacity((window.len() - known) / 128 + 1);
        let all = raw.split(&window[known..], mark, flush, &mut lines);
        let mut pass = Pass {
            container: self,
            window,
            events: Vec::with_capacity(lines.len()),
            open: Default::default(),
            skipped: 0,
        };
        // Where nothing is open: lines, events and skipped bytes before it.
        let mut safe = (0, 0, 0);
        let mut stretch_at = mark.offset;
        let mut end_before = 0;
        let mut after_cut = mark.mode == Mode::Skip;
        for (n, line) in lines.iter().enumerate() {
            let at = mark.offset + u64::from(line.start);
            if after_cut {
                pass.skipped += u64::from(line.start - end_before);
            }
            (end_before, after_cut) = (line.start + line.span, line.cut);
            let start = known + line.start as usize;
            let bytes = pass.window.get(start..start + line.len as usize).unwrap_or_default();
            let rest_of_another = n == 0 && mark.mode == Mode::Rest;
            let written = if line.cut || rest_of_another { None } else { self.runtime.read(bytes) };
            let line = Piece { start: small(start), ..*line };
            match written {
                None => pass.malformed(at, line),
                Some(written) => {
                    if pass.ends_all(&written) {
                        // What comes now begins anew: the mark may stand before it.
                        safe = (n, pass.events.len(), pass.skipped);
                        stretch_at = at;
                    }
                    pass.add(at, line, written);
                }
            }
            let end = at + u64::from(line.span);
            if !pass.is_open() || end - stretch_at > self.stretch() {
                pass.close_all();
                safe = (n + 1, pass.events.len(), pass.skipped);
                stretch_at = end;
            }
        }
        if flush {
            pass.close_all();
            safe = (lines.len(), pass.events.len(), pass.skipped);
        }
        let Pass { mut events, .. } = pass;
        events.truncate(safe.1);
        events.sort_by_key(|event| event.at);
        let mut outcome = Outcome { mark: all.mark, skipped: safe.2, ends: 0 };
        match lines.get(safe.0) {
            Some(line) => outcome.mark = Mark { offset: mark.offset + u64::from(line.start), mode: Mode::Start },
            // What was skipped behind the last line.
            None if after_cut => outcome.skipped += all.mark.offset - mark.offset - u64::from(end_before),
            None => {}
        }
        self.assemble(events, outcome, window)
    }

    fn assemble(&self, events: Vec<Event>, outcome: Outcome, window: &mut Window) -> Cut {
        let mut cut = Cut { outcome, ..Cut::default() };
        let mut metas = false;
        for event in events {
            let meta = self.meta(&event, event.text.get(window));
            metas |= meta.is_some();
            cut.metas.push(meta);
            let (start, len) = match event.text {
                Text::At(start, len) => (start, len),
                Text::Own(text) => (small(window.append(&text)), small(text.len())),
            };
            cut.pieces.push(Piece { start, len, span: event.span, lines: event.lines, cut: event.cut });
            cut.positions.push(event.at);
            cut.times.push(event.time_ns);
            if self.label {
                cut.streams.push(event.stream);
            }
        }
        if !metas {
            cut.metas.clear();
        }
        cut
    }

    fn meta(&self, event: &Event, text: &[u8]) -> Option<Bytes> {
        let stream = event.stream.name().filter(|_| !self.label);
        if event.attrs.is_empty() && !event.malformed && stream.is_none() {
            // That a text is no UTF-8 is said for every source alike.
            return None;
        }
        let attrs = event.attrs.iter().filter(|(name, _)| !OWN_NAMES.contains(&name.as_str()));
        let mut pairs: BTreeMap<&str, &str> = attrs.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        pairs.extend(stream.map(|stream| ("stream", stream)));
        pairs.extend(event.malformed.then_some(("container", "malformed")));
        pairs.extend(is_invalid(text, event.cut).then_some(("encoding", "invalid")));
        Some(meta(&pairs))
    }
}

/// What is shown of Docker's attributes: few, short, under names that metadata may have.
fn bounded(attrs: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let name = |name: &str| plain_name(&name.chars().take(64).collect::<String>(), "");
    let value = |mut value: String| {
        value.truncate(value.floor_char_boundary(ATTRIBUTES.1));
        value
    };
    let named =
        attrs.into_iter().filter(|(name, _)| !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty());
    named.take(ATTRIBUTES.0).map(|(n, v)| (name(&n), value(v))).collect()
}

impl Pass<'_> {
    fn is_open(&self) -> bool {
        self.open.iter().any(|open| !open.is_none())
    }

    /// A line that no runtime wrote stands for itself.
    fn malformed(&mut self, at: u64, line: Piece) {
        let max = small(self.container.splitter.max_line);
        if line.len > max {
            self.skipped += u64::from(line.len - max);
        }
        self.events.push(Event {
            at,
            text: Text::At(line.start, line.len.min(max)),
            span: line.span - line.len.saturating_sub(max),
            lines: 1,
            cut: line.cut || line.len > max,
            stream: Stream::None,
            time_ns: None,
            malformed: true,
            attrs: BTreeMap::new(),
        });
    }

    /// Whether a line that comes now ends everything that is open, without being part of it; then that is ended.
    fn ends_all(&mut self, written: &Written<'_>) -> bool {
        let (own, other) = if written.stream == Stream::Err { (1, 0) } else { (0, 1) };
        let waits_since = match &self.open[other] {
            Open { parts: Some(parts), .. } => parts.time_ns.map(|since| (since, OTHER_PART)),
            Open { event: Some((_, _, _, since)), .. } => Some((*since, OTHER_STREAM)),
            Open { .. } => None,
        };
        if waits_since.is_some_and(|(since, limit)| written.time_ns.saturating_sub(since) > limit) {
            self.close(other);
        }
        let max = self.container.splitter.max_line;
        if let Some(parts) = &mut self.open[own].parts
            && parts.text.len() + written.text.len() > max
        {
            // What is too long for one event goes on in another.
            parts.cut = true;
            self.close(own);
        }
        if self.open[own].parts.is_some() || written.partial {
            // The first part of a line does not tell yet.
            return !self.is_open();
        }
        if let (Some(join), Some((event, stage, last, _))) = (&self.container.splitter.join, &self.open[own].event)
            && self.goes_on(join, event, *stage, *last, &written.text).is_none()
        {
            self.close(own);
        }
        !self.is_open()
    }

    /// The stage of an event that `line` goes on with; `None` if it begins another.
    fn goes_on(&self, join: &Join, event: &Event, stage: Stage, last: usize, line: &[u8]) -> Option<Stage> {
        let text = event.text.get(self.window);
        let has_room = !event.cut
            && text.len() + 1 + line.len() <= self.container.splitter.max_line
            && event.lines < join.max_lines;
        has_room.then(|| join.next(stage, text.get(last..).unwrap_or_default(), line)).flatten()
    }

    /// Puts a line to what is open of its stream.
    fn add(&mut self, at: u64, line: Piece, written: Written<'_>) {
        let max = self.container.splitter.max_line;
        let own = usize::from(written.stream == Stream::Err);
        let whole = match self.open[own].parts.take() {
            Some(mut parts) => {
                parts.text.add(self.window, b"", &written.text);
                parts.span += line.span;
                parts.lines += 1;
                parts
            }
            None => {
                let over = small(written.text.len().saturating_sub(max));
                self.skipped += u64::from(over);
                let text = match written.text {
                    Cow::Borrowed(text) => Text::At(line.start + small(written.from), small(text.len().min(max))),
                    Cow::Owned(mut text) => {
                        text.truncate(max);
                        Text::Own(text)
                    }
                };
                Event {
                    at,
                    cut: over > 0,
                    text,
                    span: line.span.saturating_sub(over),
                    lines: 1,
                    stream: written.stream,
                    time_ns: Some(written.time_ns),
                    malformed: false,
                    attrs: bounded(written.attrs),
                }
            }
        };
        if written.partial {
            self.open[own].parts = Some(whole);
        } else {
            self.line(own, whole, written.time_ns);
        }
    }

    /// A whole line of a stream: an event, or more of one.
    fn line(&mut self, own: usize, line: Event, time_ns: i64) {
        let Some(join) = &self.container.splitter.join else {
            self.events.push(line);
            return;
        };
        if let Some((mut event, stage, last, _)) = self.open[own].event.take() {
            let text = line.text.get(self.window);
            if !line.cut
                && let Some(stage) = self.goes_on(join, &event, stage, last, text)
            {
                let last = event.text.len() + 1;
                event.text.add(self.window, b"\n", text);
                event.span += line.span;
                event.lines += line.lines;
                self.open[own].event = Some((event, stage, last, time_ns));
                return;
            }
            self.events.push(event);
        }
        if line.cut {
            self.events.push(line);
        } else {
            let stage = join.begin(line.text.get(self.window));
            self.open[own].event = Some((line, stage, 0, time_ns));
        }
    }

    fn close(&mut self, stream: usize) {
        let Open { parts, event } = std::mem::take(&mut self.open[stream]);
        self.events.extend(event.map(|(event, ..)| event));
        if let Some(parts) = parts {
            self.events.push(parts);
        }
    }

    fn close_all(&mut self) {
        self.close(0);
        self.close(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{MultilineConfig, Preset};
    use crate::pool::Pool;

    /// An event: position, text (`…` where cut), stream, metadata.
    type Seen = (u64, String, Stream, String);

    fn container(max_line: usize, join: Option<MultilineConfig>) -> Cutter {
        let join = join.map(|config| Join::new(&config).unwrap());
        let splitter = Splitter { max_line, join };
        Cutter::Container(Container { runtime: Runtime::Any, splitter, label: true })
    }

    fn continued() -> MultilineConfig {
        MultilineConfig { r#continue: Some(r"^\s".into()), max_lines: 4, ..MultilineConfig::default() }
    }

    /// Cuts a part of a file and checks that every byte is accounted for.
    fn cut(cutter: &Cutter, file: &[u8], mark: Mark, to: usize, flush: bool) -> (Vec<Seen>, Mark) {
        const KNOWN: usize = 3;
        let pool = Pool::new(1 << 20, 1 << 20);
        let from = usize::try_from(mark.offset).unwrap();
        let mut window = pool.window(KNOWN + to - from);
        window[KNOWN..].copy_from_slice(&file[from..to]);
        let cut = cutter.cut(&mut window, KNOWN, mark, flush);
        let spans: u64 = cut.pieces.iter().map(|piece| u64::from(piece.span)).sum();
        let Outcome { mark: end, skipped, ends } = cut.outcome;
        assert_eq!(spans + skipped + ends, end.offset - mark.offset, "every byte is accounted for: {cut:?}");
        let seen = cut.pieces.iter().enumerate().map(|(n, piece)| {
            let text = &window[piece.start as usize..(piece.start + piece.len) as usize];
            let position = cut.positions.get(n).copied();
            let position = position.unwrap_or_else(|| mark.offset + u64::from(piece.start) - KNOWN as u64);
            let text = format!("{}{}", String::from_utf8_lossy(text), if piece.cut { "…" } else { "" });
            let meta = cut.metas.get(n).cloned().flatten().unwrap_or_default();
            let stream = cut.streams.get(n).copied().unwrap_or(Stream::None);
            (position, text, stream, String::from_utf8_lossy(&meta).into_owned())
        });
        (seen.collect(), end)
    }

    fn at_once(cutter: &Cutter, file: &[u8], flush: bool) -> (Vec<Seen>, Mark) {
        cut(cutter, file, Mark::default(), file.len(), flush)
    }

    fn texts(seen: &[Seen]) -> Vec<&str> {
        seen.iter().map(|(_, text, ..)| text.as_str()).collect()
    }

    /// CRI lines: `second stream tag text`, stream `o` or `e`.
    fn cri(lines: &[(u32, &str, &str, &str)]) -> String {
        let line = |(second, stream, tag, text): &(u32, &str, &str, &str)| {
            let stream = if *stream == "o" { "stdout" } else { "stderr" };
            format!("2026-01-02T03:04:{second:02}Z {stream} {tag} {text}\n")
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn parts_of_both_streams_are_joined() {
        let file = cri(&[
            (1, "o", "F", "whole"),
            (1, "o", "P", "a1 "),
            (1, "e", "P", "b1 "),
            (1, "o", "P", "a2 "),
            (1, "e", "F", "b2"),
            (1, "e", "F", "c"),
            (1, "o", "F", "a3"),
            (1, "o", "F", ""),
        ]) + "no container\n"
            + &cri(&[(2, "o", "P", "open")]);
        let (seen, mark) = at_once(&container(1000, None), file.as_bytes(), false);
        assert_eq!(texts(&seen), ["whole", "a1 a2 a3", "b1 b2", "c", "", "no container"]);
        assert!(seen.is_sorted_by_key(|(position, ..)| *position), "{seen:?}");
        let streams: Vec<Stream> = seen.iter().map(|(_, _, stream, _)| *stream).collect();
        use Stream::{Err, Out};
        assert_eq!(streams, [Out, Out, Err, Err, Out, Stream::None]);
        assert_eq!(seen[5].3, r#"{"container":"malformed"}"#);
        assert!(seen[..5].iter().all(|seen| seen.3.is_empty()));
        assert_eq!(mark.offset as usize, file.find("2026-01-02T03:04:02Z").unwrap(), "what is open is read again");
        let (seen, mark) = at_once(&container(1000, None), file.as_bytes(), true);
        assert_eq!((texts(&seen)[6], mark.offset), ("open", file.len() as u64));
    }

    #[test]
    fn lines_of_an_event_are_joined_for_each_stream() {
        let file = cri(&[
            (1, "o", "F", "boom"),
            (1, "e", "F", "warning"),
            (1, "o", "P", "  at"),
            (1, "o", "F", " x"),
            (1, "e", "F", "  of e"),
            (1, "o", "F", "next"),
            (2, "e", "F", "last"),
            (9, "e", "F", "later"),
        ]);
        let (seen, _) = at_once(&container(1000, Some(continued())), file.as_bytes(), false);
        assert_eq!(texts(&seen), ["boom\n  at x", "warning\n  of e", "next", "last"]);
        let (seen, _) = at_once(&container(1000, Some(continued())), file.as_bytes(), true);
        assert_eq!(texts(&seen), ["boom\n  at x", "warning\n  of e", "next", "last", "later"]);
        let java = MultilineConfig { preset: Some(Preset::Java), ..MultilineConfig::default() };
        let file = cri(&[
            (1, "o", "F", "java.lang.IllegalStateException: x"),
            (1, "o", "F", "\tat a.B.c(D.java:1)"),
            (1, "o", "F", "after"),
        ]);
        let (seen, _) = at_once(&container(1000, Some(java)), file.as_bytes(), true);
        assert_eq!(texts(&seen), ["java.lang.IllegalStateException: x\n\tat a.B.c(D.java:1)", "after"]);
    }

    #[test]
    fn what_is_too_long_goes_on_in_another_event() {
        let (x, y) = ("x".repeat(6), "y".repeat(6));
        let file = cri(&[(1, "o", "P", &x), (1, "o", "P", &y), (1, "o", "F", "end"), (1, "o", "F", &"z".repeat(12))]);
        let (seen, _) = at_once(&container(10, None), file.as_bytes(), false);
        assert_eq!(texts(&seen), ["xxxxxx…", "yyyyyyend", "zzzzzzzzzz…"]);
        let long = format!("{}\nshort\n", "q".repeat(RAW_LINE + 10));
        let (seen, mark) = at_once(&container(10, None), long.as_bytes(), false);
        assert_eq!((texts(&seen), mark.offset), (vec!["qqqqqqqqqq…", "short"], long.len() as u64));
    }

    #[test]
    fn a_stretch_has_an_end() {
        // One stream never ends its line, the other goes on and on.
        let many: Vec<(u32, &str, &str, &str)> =
            std::iter::once((1, "o", "P", "open")).chain((0..4000).map(|_| (1, "e", "F", "more"))).collect();
        let file = cri(&many);
        let cutter = container(100, None);
        assert!(file.len() < cutter.min_window(), "a window has room for it");
        let (seen, mark) = at_once(&cutter, file.as_bytes(), false);
        assert!(seen.len() > 1000 && seen[0].1 == "open", "{}", seen.len());
        assert_eq!(mark.offset, file.len() as u64);
    }

    #[test]
    fn docker_says_more() {
        let line = |log: &str, more: &str| {
            format!("{{\"log\":\"{log}\",\"stream\":\"stderr\"{more},\"time\":\"2026-01-02T03:04:05.5Z\"}}\n")
        };
        let file =
            line("part ", "") + &line("end\\n", "") + &line("x\\n", r#","attrs":{"tag":"a","stream":"no","é!":"b"}"#);
        let mut cutter = container(100, None);
        let (seen, _) = at_once(&cutter, file.as_bytes(), false);
        assert_eq!(texts(&seen), ["part end", "x"]);
        assert_eq!((seen[0].3.as_str(), seen[1].3.as_str()), ("", r#"{"__":"b","tag":"a"}"#));
        if let Cutter::Container(container) = &mut cutter {
            container.label = false;
        }
        let (seen, _) = at_once(&cutter, file.as_bytes(), false);
        assert_eq!((seen[0].3.as_str(), seen[0].2), (r#"{"stream":"stderr"}"#, Stream::None));
    }

    #[test]
    fn other_encodings_become_utf_8() {
        let lines = |encoding, max_line, join: bool| {
            let join = join.then(|| Join::new(&continued()).unwrap());
            Cutter::Encoded(Encoded { splitter: Splitter { max_line, join }, encoding })
        };
        let text = "\u{feff}grün\r\nਊ Ċ\n 𝄞\nlast";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (encoding, file) in [(encoding_rs::UTF_16LE, &le), (encoding_rs::UTF_16BE, &be)] {
            let (seen, mark) = at_once(&lines(encoding, 100, false), file, false);
            let positions: Vec<u64> = seen.iter().map(|(position, ..)| *position).collect();
            assert_eq!((texts(&seen), positions), (vec!["grün", "ਊ Ċ", " 𝄞"], vec![0, 14, 22]));
            assert_eq!(mark.offset, 30);
            let (seen, _) = at_once(&lines(encoding, 100, true), file, true);
            assert_eq!(texts(&seen), ["grün", "ਊ Ċ\n 𝄞", "last"]);
            let (seen, mark) = at_once(&lines(encoding, 3, false), file, true);
            assert_eq!((texts(&seen)[3], mark.offset), ("las…", file.len() as u64));
        }
        let (seen, _) = at_once(&lines(encoding_rs::WINDOWS_1252, 100, false), b"gr\xfcn \x80\nx\n", false);
        assert_eq!((texts(&seen), seen[1].0), (vec!["grün €", "x"], 7));
        // Half of a pair of surrogates.
        let broken: Vec<u8> =
            [0x61, 0xd834, 0x0a, 0x62, 0x0a].iter().flat_map(|unit: &u16| unit.to_le_bytes()).collect();
        let (seen, _) = at_once(&lines(encoding_rs::UTF_16LE, 100, false), &broken, false);
        assert_eq!(
            (texts(&seen), seen[0].3.as_str(), seen[1].3.as_str()),
            (vec!["a\u{fffd}", "b"], r#"{"encoding":"invalid"}"#, "")
        );
    }

    #[test]
    fn a_mark_before_a_text_is_no_part_of_it() {
        let cutter = Cutter::Lines(Splitter { max_line: 100, join: None });
        let (seen, _) = at_once(&cutter, "\u{feff}one\ntwo\n".as_bytes(), false);
        assert_eq!(
            seen.iter().map(|(at, text, ..)| (*at, text.as_str())).collect::<Vec<_>>(),
            [(0, "one"), (7, "two")]
        );
    }

    /// Cuts by windows that end anywhere, each going on at the mark of the one before.
    fn by_windows(cutter: &Cutter, file: &[u8], steps: &[usize]) -> (Vec<Seen>, Mark) {
        let (mut mark, mut have, mut all) = (Mark::default(), 0, Vec::new());
        for step in steps.iter().chain([&file.len()]) {
            have = (have + step).min(file.len());
            let (seen, next) = cut(cutter, file, mark, have, have == file.len());
            all.extend(seen);
            mark = next;
        }
        (all, mark)
    }

    proptest! {
        #[test]
        fn windows_do_not_change_events_of_containers(
            lines in prop::collection::vec(
                (0u32..4, prop_oneof![Just("o"), Just("e")], prop_oneof![Just("P"), Just("F"), Just("X")], "[ a-c]{0,9}"), 0..40),
            steps in prop::collection::vec(1usize..200, 0..30),
            join: bool,
        ) {
            let mut second = 0;
            let lines: Vec<(u32, &str, &str, &str)> = lines.iter().map(|(later, stream, tag, text)| {
                second = (second + later / 2).min(59);
                (second, *stream, *tag, text.as_str())
            }).collect();
            let file = cri(&lines);
            let cutter = container(16, join.then(continued));
            let want = at_once(&cutter, file.as_bytes(), true);
            prop_assert!(want.0.is_sorted_by_key(|(position, ..)| *position));
            prop_assert_eq!(by_windows(&cutter, file.as_bytes(), &steps), want);
        }

        #[test]
        fn windows_do_not_change_events_of_encodings(
            text in "([ aĊਊ]{0,9}(\r)?\n){0,20}[ab]{0,5}", steps in prop::collection::vec(1usize..40, 0..30), join: bool,
        ) {
            let file: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            let join = join.then(|| Join::new(&continued()).unwrap());
            let cutter = Cutter::Encoded(Encoded {
                splitter: Splitter { max_line: 12, join }, encoding: encoding_rs::UTF_16BE,
            });
            prop_assert_eq!(by_windows(&cutter, &file, &steps), at_once(&cutter, &file, true));
        }
    }
}
