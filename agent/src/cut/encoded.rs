//! Cuts text in another encoding (UTF-16, Windows-1252): it is decoded behind the window and cut there.
//!
//! In: a window. Out: events in UTF-8, with the positions of their bytes in the file. Touches nothing.

use std::collections::BTreeMap;

use encoding_rs::Encoding;

use super::events::{Cut, meta, small};
use crate::line_end::LineEnd;
use crate::pool::Window;
use crate::split::{Mark, Outcome, Splitter};

/// Lines in another encoding.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// Of the text.
    pub splitter: Splitter,
    pub encoding: &'static Encoding,
}

impl Encoded {
    pub fn line_end(&self) -> LineEnd {
        if self.encoding == encoding_rs::UTF_16LE {
            LineEnd::Utf16Le
        } else if self.encoding == encoding_rs::UTF_16BE {
            LineEnd::Utf16Be
        } else {
            LineEnd::Byte
        }
    }

    /// Puts the text behind the window and cuts it there.
    pub fn cut(&self, window: &mut Window, known: usize, mark: Mark, flush: bool) -> Cut {
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
