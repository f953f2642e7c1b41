//! Globs, regular expressions, formats of times, sizes and spans as other programs write them, in our words.
//!
//! In: their text. Out: ours, or why there is none. Touches nothing.

use millrace_log::value::{ByteSize, Span};

/// A glob of a program whose `*` crosses folders where ours does not: a pattern that starts with one is meant anywhere.
pub fn glob_anywhere(glob: &str) -> String {
    if glob.starts_with('*') && !glob.starts_with("**/") { format!("/**/{glob}") } else { glob.to_owned() }
}

/// Braces choose in our globs; in others they are letters.
pub fn glob_without_braces(glob: &str) -> String {
    let mut out = String::with_capacity(glob.len());
    for c in glob.chars() {
        if matches!(c, '{' | '}') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A regular expression over a whole path as globs: letters, `.*`, `[^/]*`, and `(a|b)` of letters; nothing else.
pub fn globs_of_regex(regex: &str) -> Option<Vec<String>> {
    let (anchored, rest) = regex.strip_prefix('^').map_or((false, regex), |rest| (true, rest));
    let (ended, rest) = match rest.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => (true, rest),
        _ => (false, rest),
    };
    let mut glob = String::new();
    let mut chars = rest.chars().peekable();
    let mut choosing = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('.' | '-' | '_' | '/' | '+' | '$' | '^' | '(' | ')') => glob.push(c),
                'd' if chars.peek() == Some(&'+') => {
                    chars.next();
                    glob.push_str("[0-9]*");
                }
                'd' => glob.push_str("[0-9]"),
                _ => return None,
            },
            '.' if chars.peek() == Some(&'*') => {
                chars.next();
                glob.push('*');
            }
            '.' => glob.push('?'),
            '[' if rest.contains("[^/]*") => {
                let inner: String = chars.by_ref().take(4).collect();
                if inner != "^/]*" {
                    return None;
                }
                glob.push('*');
            }
            '(' if !choosing => {
                if chars.peek() == Some(&'?') {
                    chars.next();
                    (chars.next()? == ':').then_some(())?;
                }
                choosing = true;
                glob.push('{');
            }
            '|' if choosing => glob.push(','),
            ')' if choosing => {
                choosing = false;
                glob.push('}');
            }
            '*' | '+' | '?' | '[' | ']' | '{' | '}' | '(' | ')' | '|' | '^' | '$' => return None,
            c => glob.push(c),
        }
    }
    if choosing || glob.is_empty() {
        return None;
    }
    let start = match (anchored, glob.starts_with('/')) {
        (true, true) => "",
        (true, false) => return None,
        // "/debug/" anywhere: any folders stand before it.
        (false, true) => "/**",
        (false, false) => "/**/*",
    };
    let glob = format!("{start}{glob}");
    if ended {
        return Some(vec![glob]);
    }
    Some(if glob.ends_with('/') { vec![format!("{glob}**")] } else { vec![format!("{glob}*"), format!("{glob}*/**")] })
}

/// A regular expression of Go or Rust: ours if it compiles.
pub fn regex(text: &str) -> Result<String, String> {
    match regex::bytes::Regex::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            let looks = ["(?=", "(?!", "(?<=", "(?<!", "(?>"].iter().any(|part| text.contains(part));
            Err(if looks {
                "uses look-around or an atomic group, which is not supported".to_owned()
            } else {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("invalid regular expression: {last}")
            })
        }
    }
}

/// One of Ruby's (Onigmo), perhaps between slashes.
pub fn ruby_regex(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).unwrap_or(text);
    regex(&bare.replace("\\h", "[0-9a-fA-F]").replace("\\Z", "$").replace("\\/", "/"))
}

/// Keeps one named group of a regular expression under the name `time`; the others lose theirs.
pub fn time_group(text: &str, group: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.find("(?") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let escaped = before.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        let named = from.strip_prefix("(?P<").or_else(|| from.strip_prefix("(?<"));
        match named.and_then(|inner| inner.split_once('>')) {
            Some((name, after)) if !escaped && !name.starts_with(['=', '!']) => {
                let ours = name == group;
                out.push_str(if ours { "(?P<time>" } else { "(?:" });
                found |= ours;
                rest = after;
            }
            _ => {
                out.push_str("(?");
                rest = from.strip_prefix("(?").unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    (found && regex(&out).is_ok()).then_some(out)
}

/// Names of the groups of a regular expression.
pub fn groups(text: &str) -> Vec<String> {
    regex::bytes::Regex::new(text)
        .map(|regex| regex.capture_names().flatten().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Elements of Go's layouts, longest first, and what strftime calls them.
const GO: [(&str, &str); 39] = [
    ("January", "%B"),
    ("Monday", "%A"),
    ("Z07:00:00", "%::z"),
    ("-07:00:00", "%::z"),
    (".000000000", ".%9f"),
    (",000000000", ",%9f"),
    (".999999999", "%.f"),
    (",999999999", ",%f"),
    (".000000", ".%6f"),
    (",000000", ",%6f"),
    (".999999", "%.f"),
    ("Z07:00", "%#z"),
    ("-07:00", "%:z"),
    ("Z0700", "%#z"),
    ("-0700", "%z"),
    ("2006", "%Y"),
    (".000", ".%3f"),
    (",000", ",%3f"),
    (".999", "%.f"),
    ("Jan", "%b"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("002", "%j"),
    ("-07", "%#z"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("_2", "%e"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
    ("5", "%-S"),
];

/// A layout of Go's `time`, or one of its names, as a format of ours.
pub fn go_layout(layout: &str) -> Result<String, String> {
    let named = match layout {
        "RFC3339" | "RFC3339Nano" | "2006-01-02T15:04:05Z07:00" | "2006-01-02T15:04:05.999999999Z07:00" => "rfc3339",
        "Unix" | "UNIX" => "unix",
        "UnixMs" | "UNIX_MS" => "unix_ms",
        "UnixUs" => "unix_us",
        "UnixNs" => "unix_ns",
        "ANSIC" => "%a %b %e %H:%M:%S %Y",
        "UnixDate" => "%a %b %e %H:%M:%S %Z %Y",
        "RubyDate" => "%a %b %d %H:%M:%S %z %Y",
        "RFC822" => "%d %b %y %H:%M %Z",
        "RFC822Z" => "%d %b %y %H:%M %z",
        "RFC850" => "%A, %d-%b-%y %H:%M:%S %Z",
        "RFC1123" => "%a, %d %b %Y %H:%M:%S %Z",
        "RFC1123Z" => "%a, %d %b %Y %H:%M:%S %z",
        _ => "",
    };
    if !named.is_empty() {
        return checked(named.to_owned());
    }
    let mut out = String::new();
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        if let Some((element, ours)) = GO.iter().find(|(element, _)| rest.starts_with(element)) {
            out.push_str(ours);
            rest = rest.strip_prefix(element).unwrap_or_default();
            continue;
        }
        if first == '%' {
            out.push('%');
        }
        out.push(first);
        rest = rest.strip_prefix(first).unwrap_or_default();
    }
    checked(out)
}

/// A format of strptime as C libraries read it, with `%L` for fractions of a second.
pub fn strptime(format: &str) -> Result<String, String> {
    match format {
        "%s" | "%s.%L" | "%s.%N" => return Ok("unix".to_owned()),
        "%Y-%m-%dT%H:%M:%S.%L%z"
        | "%Y-%m-%dT%H:%M:%S%z"
        | "%Y-%m-%dT%H:%M:%S.%LZ"
        | "%Y-%m-%dT%H:%M:%SZ"
        | "%Y-%m-%dT%H:%M:%S.%NZ"
        | "%Y-%m-%dT%H:%M:%S.%L%:z" => return Ok("rfc3339".to_owned()),
        _ => {}
    }
    let format = format.replace(".%L", "%.f").replace(".%N", "%.f").replace("%L", "%3f").replace("%N", "%9f");
    checked(format.replace("%z", "%#z"))
}

fn checked(format: String) -> Result<String, String> {
    if format.contains("%Z") {
        // chrono reads the letters and forgets them.
        return Err("has the name of a time zone, which means different things in different places".to_owned());
    }
    millrace_agent::timestamp::check_format(&format).map(|()| format)
}

/// A time zone as an offset: `UTC`, `+0200`; the names of others have none that holds all year.
pub fn offset(zone: &str) -> Option<String> {
    match zone {
        "" | "UTC" | "Etc/UTC" | "GMT" | "Z" => Some("UTC".to_owned()),
        zone => millrace_agent::timestamp::offset(zone).map(|_| zone.to_owned()),
    }
}

/// A span as Go or a plain number of seconds writes it, in ours.
pub fn span(text: &str, unit_ms: f64) -> Option<String> {
    let text = text.trim();
    if let Ok(span) = Span::parse(text) {
        return (!text.bytes().all(|b| b.is_ascii_digit())).then(|| span.to_string()).or_else(|| of_ms(0.0));
    }
    if let Ok(number) = text.parse::<f64>() {
        return of_ms(number * unit_ms);
    }
    let digits = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ')?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" | "msec" => 1.0,
        "s" | "sec" | "seconds" | "second" => 1000.0,
        "m" | "min" | "minutes" => 60_000.0,
        "h" | "hours" | "hour" => 3_600_000.0,
        "d" | "days" | "day" | "D" => 86_400_000.0,
        _ => return None,
    };
    of_ms(number.trim().parse::<f64>().ok()? * unit_ms)
}

fn of_ms(ms: f64) -> Option<String> {
    if !(0.0..=1e15).contains(&ms) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded above
    let ms = ms.round() as u64;
    Some(Span::millis(ms).to_string())
}

/// A number of bytes: `10MB`, `32k`, `1_000`, `256kb`. K and M count in 1024, as the programs do.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "").to_ascii_lowercase();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A share as one in a whole number.
pub fn one_in(share: f64) -> Option<u64> {
    let rate = 1.0 / share;
    let whole = rate.round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded in the condition
    ((rate - whole).abs() < 1e-6 && (1.0..=1e9).contains(&whole)).then_some(whole as u64)
}

/// The same as we write it.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_go() {
        for (layout, want) in [
            ("RFC3339Nano", Some("rfc3339")),
            ("UnixMs", Some("unix_ms")),
            ("2006-01-02 15:04:05", Some("%Y-%m-%d %H:%M:%S")),
            ("2006-01-02 15:04:05.000", Some("%Y-%m-%d %H:%M:%S.%3f")),
            ("2006-01-02 15:04:05,000 -0700", Some("%Y-%m-%d %H:%M:%S,%3f %z")),
            ("02/Jan/2006:15:04:05 -0700", Some("%d/%b/%Y:%H:%M:%S %z")),
            ("2006-01-02T15:04:05.999999Z07:00", Some("%Y-%m-%dT%H:%M:%S%.f%#z")),
            ("Jan _2 15:04:05", Some("%b %e %H:%M:%S")),
            ("3:04PM 1/2/06", Some("%-I:%M%p %-m/%-d/%y")),
            ("RFC1123", None),
            ("Mon Jan _2 15:04:05 MST 2006", None),
        ] {
            assert_eq!(go_layout(layout).ok().as_deref(), want, "{layout}");
        }
    }

    #[test]
    fn formats_of_strptime() {
        for (format, want) in [
            ("%d/%b/%Y:%H:%M:%S %z", Some("%d/%b/%Y:%H:%M:%S %#z")),
            ("%Y-%m-%dT%H:%M:%S.%LZ", Some("rfc3339")),
            ("%Y-%m-%d %H:%M:%S.%L", Some("%Y-%m-%d %H:%M:%S%.f")),
            ("%Y-%m-%d %H:%M:%S,%L", Some("%Y-%m-%d %H:%M:%S,%3f")),
            ("%s", Some("unix")),
            ("%Q", None),
        ] {
            assert_eq!(strptime(format).ok().as_deref(), want, "{format}");
        }
    }

    /// What our formats read is what the others would have read.
    #[test]
    fn converted_formats_read_times() {
        use millrace_agent::config::TimestampConfig;
        use millrace_agent::timestamp::TimeReader;
        for (format, line, want_ms) in [
            (go_layout("2006-01-02 15:04:05.000"), "2026-01-01 00:00:01.250 x", 1_767_225_601_250),
            (go_layout("2006-01-02T15:04:05.999999Z07:00"), "2026-01-01T00:00:01.25Z x", 1_767_225_601_250),
            (go_layout("3:04PM 1/2/2006"), "1:05AM 1/1/2026 x", 1_767_229_500_000),
            (strptime("%d/%b/%Y:%H:%M:%S %z"), "01/Jan/2026:02:00:00 +0200 x", 1_767_225_600_000),
            (strptime("%Y-%m-%d %H:%M:%S.%L"), "2026-01-01 00:00:00.5 x", 1_767_225_600_500),
        ] {
            let config = TimestampConfig { format: format.unwrap(), ..TimestampConfig::default() };
            let found = TimeReader::new(&config).unwrap().read(line.as_bytes(), 0);
            assert_eq!(found, Some(want_ms * 1_000_000), "{config:?} {line}");
        }
    }

    #[test]
    fn expressions_over_paths() {
        for (regex, want) in [
            (r"\.gz$", Some(vec!["/**/*.gz"])),
            (r"\.(gz|zip)$", Some(vec!["/**/*.{gz,zip}"])),
            (r"^/var/log/app/debug\.log$", Some(vec!["/var/log/app/debug.log"])),
            (r"^/var/log/.*\.old$", Some(vec!["/var/log/*.old"])),
            ("/archive/", Some(vec!["/**/archive/**"])),
            ("debug", Some(vec!["/**/*debug*", "/**/*debug*/**"])),
            (r"\.\d+$", Some(vec!["/**/*.[0-9]*"])),
            (r"a{2}$", None),
            (r"(?i)x", None),
            ("", None),
        ] {
            let found = globs_of_regex(regex);
            assert_eq!(found, want.map(|list| list.into_iter().map(str::to_owned).collect()), "{regex}");
        }
    }

    #[test]
    fn groups_become_the_time() {
        let text = r"^(?P<ip>\S+) \[(?<ts>[^\]]+)\] \(?x";
        assert_eq!(time_group(text, "ts").as_deref(), Some(r"^(?:\S+) \[(?P<time>[^\]]+)\] \(?x"));
        assert_eq!(time_group(text, "other"), None);
        assert_eq!(groups(text), ["ip", "ts"]);
        assert!(ruby_regex(r"/^(?!foo)/").unwrap_err().contains("uses look-around"));
        assert_eq!(ruby_regex(r"/^(?<time>\h+\/)$/").unwrap(), r"^(?<time>[0-9a-fA-F]+/)$");
    }

    #[test]
    fn spans_and_sizes() {
        for (text, unit, want) in [
            ("3s", 1000.0, Some("3s")),
            ("1h30m", 1000.0, Some("1h30m")),
            ("1.5s", 1000.0, Some("1s500ms")),
            ("60", 1000.0, Some("1m")),
            ("250", 1.0, Some("250ms")),
            ("0", 1.0, Some("0s")),
            ("5 minutes", 1000.0, Some("5m")),
            ("soon", 1.0, None),
        ] {
            assert_eq!(span(text, unit).as_deref(), want, "{text}");
        }
        for (text, want) in [("10MB", Some(10 << 20)), ("32k", Some(32 << 10)), ("1_000", Some(1000)), ("x", None)] {
            assert_eq!(bytes(text), want, "{text}");
        }
        assert_eq!((size(10 << 20), size(1000)), ("10MiB".to_owned(), "1000B".to_owned()));
    }

    #[test]
    fn globs() {
        assert_eq!(glob_anywhere("*.gz"), "/**/*.gz");
        assert_eq!(glob_anywhere("/var/log/*.gz"), "/var/log/*.gz");
        assert_eq!(glob_without_braces("/a/{b}*"), "/a/\\{b\\}*");
    }
}
