//! Values that configuration is written in (durations, byte sizes, secrets) and the faults that checks report.
//!
//! In: scalars of YAML. Out: typed values, or an error that says what was expected. Touches files only where a secret
//! is read from one. Every room's `config.rs` is made of these; a fault names its key by path, and the binary, which
//! keeps the positions, turns the path into line and column.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// A span of time as written in configuration: `30s`, `1h30m`, `7d`, `250ms`. Units: ns, us, ms, s, m, h, d, w, y (365 d).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// Units of time from large to small, in nanoseconds.
const UNITS: [(&str, u64); 9] = [
    ("y", 365 * 24 * 3600 * 1_000_000_000),
    ("w", 7 * 24 * 3600 * 1_000_000_000),
    ("d", 24 * 3600 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Span {
    /// Whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Whole milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// Reads `1h30m`; units may follow in any order, a bare `0` needs none.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let fault = || ValueError::Span { text: text.chars().take(40).collect() };
        let parts = parts(text).ok_or_else(fault)?;
        let sum = |total: u64, (number, unit): (u64, usize)| {
            number.checked_mul(UNITS.get(unit)?.1).and_then(|ns| total.checked_add(ns))
        };
        parts.into_iter().try_fold(0, sum).map(|ns| Self(Duration::from_nanos(ns))).ok_or_else(fault)
    }

    /// Reads `1h30m` as Prometheus does: units y, w, d, h, m, s, ms from large to small, each once. The error is a hint.
    pub fn parse_prometheus(text: &str) -> Result<Self, String> {
        const MILLIS: usize = 6;
        let usual = || "write whole numbers with units from large to small, as in `30s`, `1h30m` or `7d`".to_owned();
        if text != "0" && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("the unit is missing: `{text}s`?"));
        }
        let parts = parts(text).ok_or_else(usual)?;
        let falling = parts.windows(2).all(|pair| pair[0].1 < pair[1].1);
        if !falling || parts.iter().any(|(_, unit)| *unit > MILLIS) {
            return Err(usual());
        }
        Self::parse(text).map_err(|_| "the duration is too long: at most 292 years".to_owned())
    }
}

/// Numbers with their units, as places in [`UNITS`]; a bare `0` has none.
fn parts(text: &str) -> Option<Vec<(u64, usize)>> {
    if text == "0" {
        return Some(Vec::new());
    }
    let mut rest = text;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        parts.push((number.parse().ok()?, UNITS.iter().position(|(name, _)| *name == unit)?));
        rest = tail;
    }
    (!parts.is_empty()).then_some(parts)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ns = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if ns == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS.into_iter().filter(|(name, _)| *name != "y" && *name != "w") {
            if ns >= unit {
                write!(f, "{}{name}", ns / unit)?;
                ns %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes as written in configuration: `64MiB`, `10GB`, `512`. Units: B, kB/KB, MB, GB, TB, KiB, MiB, GiB, TiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const SIZES: [(&str, u64); 11] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

impl ByteSize {
    /// Whole mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Reads `64MiB`.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let fault = || ValueError::ByteSize { text: text.chars().take(40).collect() };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| fault())?;
        let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(fault)?;
        number.checked_mul(*bytes).map(Self).ok_or_else(fault)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SIZES.iter().take(4).find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A password or token: a literal, or `file:PATH`, or `env:NAME`. Prints as `***`, so that it never gets into logs.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes it as written in the configuration.
    pub fn new(written: impl Into<String>) -> Self {
        Self(written.into())
    }

    /// The file that it is read from, if it is.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.0.strip_prefix("file:").map(std::path::Path::new)
    }

    /// The secret itself: reads the file (without its last line end) or the variable it names.
    pub fn reveal(&self) -> Result<String, ValueError> {
        if let Some(path) = self.0.strip_prefix("file:") {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ValueError::SecretFile { path: path.to_owned(), source })?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        match self.0.strip_prefix("env:") {
            Some(name) => std::env::var(name).map_err(|_| ValueError::SecretVariable { name: name.to_owned() }),
            None => Ok(self.0.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Why a value can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// Not a span of time.
    #[error("invalid duration `{text}`: expected a number and a unit, as in `30s`, `1h30m` or `7d`")]
    Span {
        /// The text found.
        text: String,
    },
    /// Not a number of bytes.
    #[error("invalid size `{text}`: expected a number and a unit, as in `64MiB` or `10GB`")]
    ByteSize {
        /// The text found.
        text: String,
    },
    /// The file of a secret can't be read.
    #[error("secret file {path} can't be read")]
    SecretFile {
        /// The path as written.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The variable of a secret isn't set.
    #[error("environment variable {name} holds a secret of the configuration and is not set")]
    SecretVariable {
        /// Its name.
        name: String,
    },
}

/// Strings or numbers that `parse` reads; numbers only where a unit isn't needed.
struct Scalar<T>(fn(&str) -> Result<T, ValueError>, &'static str);

impl<T> de::Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.0(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.0(&number.to_string()).map_err(E::custom)
    }
}

macro_rules! scalar {
    ($type:ident, $expecting:literal, $format:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Scalar($type::parse, $expecting))
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": ["string", "integer"], "format": $format})
            }
        }
    };
}

scalar!(Span, "a duration such as `30s` or `1h30m`", "millrace-duration");
scalar!(ByteSize, "a size such as `64MiB` or `10GB`", "millrace-bytes");

impl schemars::JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "millrace-secret"})
    }
}

/// One thing wrong in a configuration, where it stands as a path of keys (`agent.sources[0].include`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key, from the room's own section.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Line and column inside of the key's text, from 1, where it is a program.
    pub inside: Option<(usize, usize)>,
}

/// All faults of a check, so that one run shows them all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    prefix: String,
    list: Vec<Fault>,
}

impl Faults {
    /// Notes one fault of a key below the present path.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        let path = join(&self.prefix, key);
        self.list.push(Fault { path, message: message.into(), inside: None });
    }

    /// Notes one fault inside of a key's text, at a line and column of it.
    pub fn add_inside(&mut self, key: &str, line: usize, column: usize, message: impl Into<String>) {
        let path = join(&self.prefix, key);
        self.list.push(Fault { path, message: message.into(), inside: Some((line, column)) });
    }

    /// Runs a check one level deeper; keys are names, or `[3]` for places in lists.
    pub fn within(&mut self, key: &str, check: impl FnOnce(&mut Self)) {
        let inner = join(&self.prefix, key);
        let outer = std::mem::replace(&mut self.prefix, inner);
        check(self);
        self.prefix = outer;
    }

    /// Notes a number below the least allowed.
    pub fn at_least(&mut self, key: &str, found: impl TryInto<i64>, least: i64) {
        let found = found.try_into().unwrap_or(i64::MAX);
        if found < least {
            self.add(key, format!("is {found}, at least {least} is needed"));
        }
    }

    /// Notes a time of zero.
    pub fn not_zero(&mut self, key: &str, span: Span) {
        if span.0.is_zero() {
            self.add(key, "must not be zero");
        }
    }

    /// Notes what is no address of a web server.
    pub fn http_url(&mut self, key: &str, url: &str) {
        let good = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !good {
            self.add(key, format!("invalid URL `{url}`: write it as `http://host:port`"));
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All faults in the order found.
    pub fn into_vec(self) -> Vec<Fault> {
        self.list
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() || key.starts_with('[') || key.is_empty() {
        format!("{prefix}{key}")
    } else {
        format!("{prefix}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        for (text, want) in [
            ("30s", Some(30_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("7d", Some(604_800_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("99999999999y", None),
            ("1s ", None),
        ] {
            assert_eq!(Span::parse(text).ok().map(|s| s.0.as_nanos()), want, "{text}");
        }
        for (ns, want) in
            [(0, "0s"), (5_400_000_000_000, "1h30m"), (1_500_000_000, "1s500ms"), (604_800_000_000_000, "7d")]
        {
            assert_eq!(Span(Duration::from_nanos(ns)).to_string(), want);
        }
        assert_eq!(
            Span::parse("5").expect_err("no unit").to_string(),
            "invalid duration `5`: expected a number and a unit, as in `30s`, `1h30m` or `7d`"
        );
    }

    #[test]
    fn durations_of_prometheus_are_read() {
        for (text, want) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1y2w3d4h5m6s7ms", Some(33_019_506_007)),
            ("5", None),
            ("1.5s", None),
            ("5m5m", None),
            ("5s1m", None),
            ("-1s", None),
            ("", None),
            ("1 m", None),
            ("999999999999999y", None),
        ] {
            assert_eq!(Span::parse_prometheus(text).ok().map(|span| span.0.as_millis()), want, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, want) in [
            ("64MiB", Some(64 << 20)),
            ("10GB", Some(10_000_000_000)),
            ("512", Some(512)),
            ("1 KiB", Some(1024)),
            ("1.5GB", None),
            ("MiB", None),
            ("", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(ByteSize::parse(text).ok().map(|s| s.0), want, "{text}");
        }
        for (bytes, want) in [(64 << 20, "64MiB"), (1000, "1000B"), (1 << 40, "1TiB"), (0, "0B")] {
            assert_eq!(ByteSize(bytes).to_string(), want);
        }
    }

    #[test]
    fn secrets_never_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {}", serde_json::to_string(&secret).expect("a string")),
            "*** *** \"***\""
        );
        assert_eq!(secret.reveal().expect("literal"), "hunter2");
        assert!(Secret::new("file:/nowhere").reveal().expect_err("missing").to_string().contains("/nowhere"));
    }

    #[test]
    fn faults_carry_the_path_of_their_key() {
        let mut faults = Faults::default();
        faults.within("agent", |f| f.within("sources", |f| f.within("[1]", |f| f.add("include", "is empty"))));
        assert_eq!(faults.into_vec()[0].path, "agent.sources[1].include");
    }
}
