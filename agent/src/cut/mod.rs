//! Cuts a window of a file's bytes into events, whatever its format: lines, lines of container runtimes, other encodings.
//!
//! In: a window that stands at a [`Mark`]. Out: a [`Cut`]: pieces that point into the window, behind which texts are put
//! that do not stand in the file as they are; where each event is in the file; what else the format says of it. Touches
//! nothing and keeps nothing: the same bytes from the same mark give the same events, so that an event read again after a
//! crash has the same position.

/// What cutting gives.
mod events;
/// Lines in another encoding.
mod encoded;
/// Lines of container runtimes.
mod container;

pub(crate) use self::container::Container;
pub(crate) use self::encoded::Encoded;
pub(crate) use self::events::Cut;
use self::events::small;
use crate::line_end::LineEnd;
use crate::pool::Window;
use crate::split::{Mark, Splitter};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::container::{Runtime, Stream};
    use crate::multiline::{Join, MultilineConfig, Preset};
    use crate::pool::Pool;
    use crate::split::Outcome;

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
        let long = format!("{}\nshort\n", "q".repeat(container::RAW_LINE + 10));
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
