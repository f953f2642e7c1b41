//! Cuts what container runtimes write: joins the parts of long lines, for both streams of a container.
//!
//! In: a window. Out: events, with time, stream and attributes as the runtime wrote them. Touches nothing. Leaves reading
//! single lines to `container.rs`.
//!
//! # Stretches
//! Both streams of a container are in one file, and the parts of their long lines, or the lines of their traces, may
//! interleave. From the first line of an event that is not complete until no event of either stream is open, lines make one
//! *stretch*, which is cut as a whole: a mark never stands inside. An event has the position of its first line, and events
//! leave in the order of their positions. A stretch ends at [`STRETCH`] bytes at the latest; what waits for more of one
//! stream ends when the other has gone on for [`OTHER_STREAM`] or [`OTHER_PART`]: all of it follows from the bytes alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::events::{Cut, meta, small};
use crate::container::{Runtime, Stream, Written};
use crate::multiline::{Join, Stage};
use crate::name::plain_name;
use crate::pool::Window;
use crate::split::{Mark, Mode, Outcome, Piece, Splitter, is_invalid_utf8};

/// Longest line of a container's file: a part of 16 KiB, escaped, and what Docker was told to add.
pub(super) const RAW_LINE: usize = 160 << 10;
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

/// Lines of container runtimes.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub runtime: Runtime,
    /// Longest event; its lines.
    pub splitter: Splitter,
    /// Whether the stream becomes a label; else it is metadata.
    pub label: bool,
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
struct ContainerEvent {
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
struct OpenStream {
    /// A line whose last part has not come.
    parts: Option<ContainerEvent>,
    /// An event that may go on with the next line: what is known of it, where its last line begins, when that was written.
    event: Option<(ContainerEvent, Stage, usize, i64)>,
}

impl OpenStream {
    fn is_none(&self) -> bool {
        self.parts.is_none() && self.event.is_none()
    }
}

/// A pass over the lines of a window.
struct CutPass<'w> {
    container: &'w Container,
    window: &'w [u8],
    events: Vec<ContainerEvent>,
    open: [OpenStream; 2],
    /// Bytes beyond the limit.
    skipped: u64,
}

impl Container {
    /// Longest line of the file.
    pub fn raw_line(&self) -> usize {
        self.splitter.max_line.max(RAW_LINE)
    }

    /// Longest stretch.
    pub fn stretch(&self) -> u64 {
        2 * self.splitter.max_line as u64 + STRETCH
    }

    pub fn cut(&self, window: &mut Window, known: usize, mark: Mark, flush: bool) -> Cut {
        let raw = Splitter { max_line: self.raw_line(), join: None };
        let mut lines = Vec::with_capacity((window.len() - known) / 128 + 1);
        let all = raw.split(&window[known..], mark, flush, &mut lines);
        let mut pass = CutPass {
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
        let CutPass { mut events, .. } = pass;
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

    fn assemble(&self, events: Vec<ContainerEvent>, outcome: Outcome, window: &mut Window) -> Cut {
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

    fn meta(&self, event: &ContainerEvent, text: &[u8]) -> Option<Bytes> {
        let stream = event.stream.name().filter(|_| !self.label);
        if event.attrs.is_empty() && !event.malformed && stream.is_none() {
            // That a text is no UTF-8 is said for every source alike.
            return None;
        }
        let attrs = event.attrs.iter().filter(|(name, _)| !OWN_NAMES.contains(&name.as_str()));
        let mut pairs: BTreeMap<&str, &str> = attrs.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        pairs.extend(stream.map(|stream| ("stream", stream)));
        pairs.extend(event.malformed.then_some(("container", "malformed")));
        pairs.extend(is_invalid_utf8(text, event.cut).then_some(("encoding", "invalid")));
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

impl CutPass<'_> {
    fn is_open(&self) -> bool {
        self.open.iter().any(|open| !open.is_none())
    }

    /// A line that no runtime wrote stands for itself.
    fn malformed(&mut self, at: u64, line: Piece) {
        let max = small(self.container.splitter.max_line);
        if line.len > max {
            self.skipped += u64::from(line.len - max);
        }
        self.events.push(ContainerEvent {
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
            OpenStream { parts: Some(parts), .. } => parts.time_ns.map(|since| (since, OTHER_PART)),
            OpenStream { event: Some((_, _, _, since)), .. } => Some((*since, OTHER_STREAM)),
            OpenStream { .. } => None,
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
    fn goes_on(&self, join: &Join, event: &ContainerEvent, stage: Stage, last: usize, line: &[u8]) -> Option<Stage> {
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
                ContainerEvent {
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
    fn line(&mut self, own: usize, line: ContainerEvent, time_ns: i64) {
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
        let OpenStream { parts, event } = std::mem::take(&mut self.open[stream]);
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
