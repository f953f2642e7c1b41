//! Lines as container runtimes write them.
//!
//! | format | a line |
//! |---|---|
//! | CRI (containerd, CRI-O) | `2026-01-02T03:04:05.123456789Z stdout F text`; `P` instead of `F`: the next line of the stream goes on |
//! | Docker's `json-file` | `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}`; without `\n` the next one goes on |
//!
//! In: one line of the file. Out: what the container wrote, when, and to which stream. Touches nothing. Leaves joining the
//! parts to `cut.rs`. Runtimes cut what a container writes into parts of 16 KiB.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::NaiveDate;
use memchr::{memchr, memchr2};
use serde::Deserialize;

/// Where a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
    /// The line has no such thing.
    None,
}

impl Stream {
    fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Out),
            b"stderr" => Some(Self::Err),
            _ => None,
        }
    }

    /// `stdout` or `stderr`.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Out => Some("stdout"),
            Self::Err => Some("stderr"),
            Self::None => None,
        }
    }
}

/// Which runtime wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Cri,
    Docker,
    /// Told line by line.
    Any,
}

/// What a container wrote.
#[derive(Debug, PartialEq)]
pub(crate) struct Written<'a> {
    /// ns since 1970.
    pub time_ns: i64,
    pub stream: Stream,
    /// The next one of the stream goes on with it.
    pub partial: bool,
    pub text: Cow<'a, [u8]>,
    /// Where a borrowed text stands in the line.
    pub from: usize,
    /// What Docker was told to add (`--log-opt labels`, `env`, `tag`).
    pub attrs: BTreeMap<String, String>,
}

impl Runtime {
    /// Reads a line; `None`: it is not written so.
    pub fn read<'a>(self, line: &'a [u8]) -> Option<Written<'a>> {
        match self {
            Self::Cri => cri(line),
            Self::Docker => docker(line),
            Self::Any if line.first() == Some(&b'{') => docker(line),
            Self::Any => cri(line),
        }
    }
}

fn cri(line: &[u8]) -> Option<Written<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    // An empty text may have lost the space before it.
    let (tags, text) = word(rest).unwrap_or((rest, b""));
    let stream = Stream::parse(stream)?;
    // More tags may follow the first, behind colons.
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    let (time_ns, from) = (time_ns(time)?, line.len() - text.len());
    Some(Written { time_ns, stream, partial, text: Cow::Borrowed(text), from, attrs: BTreeMap::new() })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b' ', text)?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// As Docker writes it, in the order in which it does, the text without escapes but for its line end: nothing is copied.
fn docker_fast(line: &[u8]) -> Option<Written<'_>> {
    const HEAD: &[u8] = br#"{"log":""#;
    let rest = line.strip_prefix(HEAD)?;
    let end = memchr2(b'"', b'\\', rest)?;
    let text = rest.get(..end)?;
    let (partial, rest) = match rest.get(end..)?.strip_prefix(br#"\n"#) {
        Some(rest) => (false, rest),
        None => (true, rest.get(end..)?),
    };
    let rest = rest.strip_prefix(br#"","stream":""#)?;
    let (stream, rest) = rest.split_at_checked(6)?;
    let rest = rest.strip_prefix(br#"","time":""#)?;
    let time = rest.strip_suffix(br#""}"#)?;
    // What is no text at all is left to the reader that says so.
    std::str::from_utf8(text).ok()?;
    let (stream, time_ns) = (Stream::parse(stream)?, time_ns(time)?);
    let from = HEAD.len();
    Some(Written { time_ns, stream, partial, text: Cow::Borrowed(text), from, attrs: BTreeMap::new() })
}

fn docker(line: &[u8]) -> Option<Written<'_>> {
    // An application that writes JSON of its own is not to be taken for Docker.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
        #[serde(default)]
        attrs: BTreeMap<String, String>,
    }
    if let Some(written) = docker_fast(line) {
        return Some(written);
    }
    let Line { log, stream, time, attrs } = serde_json::from_slice(line).ok()?;
    let (stream, time_ns) = (Stream::parse(stream.as_bytes())?, time_ns(time.as_bytes())?);
    let partial = !log.ends_with('\n');
    let mut text = log.into_owned();
    if !partial {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Some(Written { time_ns, stream, partial, text: Cow::Owned(text.into_bytes()), from: 0, attrs })
}

/// RFC 3339, as runtimes write it: a calendar's date, up to nanoseconds, `Z` or an offset.
fn time_ns(text: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| {
        text.get(from..to)?
            .iter()
            .try_fold(0_i64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, what: u8| text.get(at) == Some(&what);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date =
        NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, u32::try_from(day).ok()?)?;
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        let value = fraction.iter().take(digits).fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'));
        nanos = value * 10_i64.pow(9 - u32::try_from(digits).ok()?);
        rest = fraction.get(digits..)?;
    }
    let offset = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()) => {
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let seconds = two(h1, h2) * 3600 + two(m1, m2) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let days = i64::from(date.signed_duration_since(NaiveDate::default()).num_days() as i32);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: &str = "2026-01-02T03:04:05.123456789Z";
    const NS: i64 = 1_767_323_045_123_456_789;

    #[test]
    fn lines_of_both_kinds_are_read() {
        use Stream::{Err, Out};
        type Want<'a> = Option<(Stream, bool, &'a str)>;
        let cases: &[(&str, Want<'_>)] = &[
            ("T stdout F text of it", Some((Out, false, "text of it"))),
            ("T stderr P part ", Some((Err, true, "part "))),
            ("T stdout F:more:tags x", Some((Out, false, "x"))),
            ("T stdout P:x y", Some((Out, true, "y"))),
            ("T stdout F ", Some((Out, false, ""))),
            ("T stdout F", Some((Out, false, ""))),
            ("T stdout X text", None),
            ("T stdin F text", None),
            ("2026-01-02 stdout F text", None),
            ("no container", None),
            ("", None),
            (r#"{"log":"text\n","stream":"stdout","time":"T"}"#, Some((Out, false, "text"))),
            (r#"{"log":"part","stream":"stderr","time":"T"}"#, Some((Err, true, "part"))),
            (r#"{"log":"\n","stream":"stdout","time":"T"}"#, Some((Out, false, ""))),
            (r#"{"log":"","stream":"stdout","time":"T"}"#, Some((Out, true, ""))),
            (r#"{"log":"a \"b\" é é\t\n","stream":"stdout","time":"T"}"#, Some((Out, false, "a \"b\" é é\t"))),
            (r#"{"log":"dos\r\n","stream":"stdout","time":"T"}"#, Some((Out, false, "dos"))),
            (r#"{"stream":"stdout","time":"T","log":"x\n"}"#, Some((Out, false, "x"))),
            (r#"{"log":"x\n","stream":"stdout","attrs":{"a":"b"},"time":"T"}"#, Some((Out, false, "x"))),
            (r#"{"log":"x\n","stream":"stdout","time":"yesterday"}"#, None),
            (r#"{"log":"x\n","stream":"stdout"}"#, None),
            (r#"{"log":"x"#, None),
        ];
        for (line, want) in cases {
            let line = line.replace('T', T);
            let got = Runtime::Any.read(line.as_bytes());
            let shown = got.as_ref().map(|w| (w.stream, w.partial, std::str::from_utf8(&w.text).unwrap()));
            assert_eq!(shown, *want, "{line}");
            assert!(got.is_none_or(|written| written.time_ns == NS), "{line}");
        }
        let line = format!(r#"{{"log":"x\n","stream":"stdout","attrs":{{"a":"b"}},"time":"{T}"}}"#);
        let attrs = Runtime::Docker.read(line.as_bytes()).unwrap().attrs;
        assert_eq!(attrs.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "b".to_owned())]);
        assert_eq!(Runtime::Cri.read(line.as_bytes()), None);
        assert_eq!(Runtime::Docker.read(format!("{T} stdout F x").as_bytes()), None);
    }

    #[test]
    fn times_are_what_the_calendar_says() {
        for text in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.1Z",
            "2024-02-29T23:59:59.999999999+02:00",
            "1969-12-31T23:59:59.5-07:30",
        ] {
            let want = chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_nanos_opt();
            assert_eq!(time_ns(text.as_bytes()), want, "{text}");
        }
        for text in
            ["2026-02-30T03:04:05Z", "2026-01-02T24:04:05Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z", "x"]
        {
            assert_eq!(time_ns(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn docker_is_read_as_json_is(text in "(\\PC|\\t|\"|\\\\){0,20}", ends: bool) {
            let log = if ends { format!("{text}\n") } else { text.clone() };
            let line = serde_json::json!({"log": log, "stream": "stderr", "time": T}).to_string();
            let got = Runtime::Any.read(line.as_bytes()).unwrap();
            prop_assert_eq!((got.text.as_ref(), got.partial, got.time_ns), (text.as_bytes(), !ends, NS));
        }

        #[test]
        fn nothing_makes_it_fail(line in proptest::collection::vec(any::<u8>(), 0..80), head in any::<bool>()) {
            let line = if head { [T.as_bytes(), b" stdout F ", &line].concat() } else { line };
            let read = Runtime::Any.read(&line);
            prop_assert!(!head || read.is_some_and(|written| line.ends_with(&written.text)));
        }
    }
}
