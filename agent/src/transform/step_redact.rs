//! TransformStep `redact`: what must not leave the host is replaced in every text of an event.
//!
//! In: texts. Out: the same with card numbers, addresses, tokens or one's own patterns replaced, and how many there
//! were. Touches nothing.
//!
//! | preset | what it takes |
//! |---|---|
//! | `card` | numbers of payment cards: the lengths and beginnings that issuers use, digits in one piece or in groups by blanks or dashes, and the check digit (Luhn) right |
//! | `email` | e-mail addresses |
//! | `jwt` | JSON Web Tokens: header, claims and signature |
//! | `token` | keys of well-known services by their form (AWS, GitHub, GitLab, Slack, Stripe, Google, npm …), what follows `Bearer`, `Basic`, `password=`, `api_key:` and the like, passwords in URLs, private keys |
//! | `ip` | IPv4 and IPv6 addresses |

use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock};

use memchr::{memchr, memmem};
use regex::bytes::{Captures, Regex};

use super::config::{Preset, RedactTransform};
use super::pattern::pattern;

/// What to find and what to put in its place.
#[derive(Debug)]
pub(crate) struct Redactor {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: &'static str,
    find: Find,
    replacement: Vec<u8>,
}

#[derive(Debug)]
enum Find {
    Card,
    /// IPv4, IPv6.
    Ip(Arc<(Regex, Regex)>),
    /// Only texts with one of these bytes are looked at; the first group is what is replaced, else the whole.
    Pattern {
        only_with: &'static [u8],
        patterns: Arc<[Regex]>,
    },
}

/// Compiled once for all steps of the process: at work an expression takes megabytes.
type Known = LazyLock<Result<Arc<[Regex]>, regex::Error>>;

static KNOWN_JWT: Known = LazyLock::new(|| compile([JWT]));
static KNOWN_TOKENS: Known = LazyLock::new(|| compile(TOKENS));
static KNOWN_EMAIL: Known = LazyLock::new(|| compile([EMAIL]));
static KNOWN_IP: LazyLock<Result<Arc<(Regex, Regex)>, regex::Error>> =
    LazyLock::new(|| Ok(Arc::new((pattern(IPV4)?, pattern(IPV6)?))));

fn compile<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Arc<[Regex]>, regex::Error> {
    patterns.into_iter().map(pattern).collect()
}

impl Redactor {
    pub fn new(config: &RedactTransform) -> Result<Self, regex::Error> {
        let mut rules = Vec::new();
        let mut rule = |name: &'static str, find| {
            let replacement = config.replacement.replace("{name}", name).into_bytes();
            rules.push(Rule { name, find, replacement });
        };
        // Tokens first: what looks like an address inside of one goes with it.
        for (preset, name) in Preset::ALL {
            if !config.presets.contains(&preset) {
                continue;
            }
            let find = match preset {
                Preset::Jwt => Find::Pattern { only_with: b"eyJ", patterns: KNOWN_JWT.clone()? },
                Preset::Token => Find::Pattern { only_with: b"", patterns: KNOWN_TOKENS.clone()? },
                Preset::Email => Find::Pattern { only_with: b"@", patterns: KNOWN_EMAIL.clone()? },
                Preset::Card => Find::Card,
                Preset::Ip => Find::Ip(KNOWN_IP.clone()?),
            };
            rule(name, find);
        }
        if !config.patterns.is_empty() {
            let patterns = compile(config.patterns.iter().map(String::as_str))?;
            rule("pattern", Find::Pattern { only_with: b"", patterns });
        }
        Ok(Self { rules })
    }

    /// Names of what may be found, in the order of [`Redactor::apply`]'s counts.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rules.iter().map(|rule| rule.name)
    }

    /// The text without what must not be seen; `None` if there was nothing. `found` counts for each name.
    pub fn apply(&self, text: &[u8], found: &mut [u64]) -> Option<Vec<u8>> {
        let mut new: Option<Vec<u8>> = None;
        for (rule, found) in self.rules.iter().zip(found) {
            let now = new.as_deref().unwrap_or(text);
            if let Some(changed) = rule.apply(now, found) {
                new = Some(changed);
            }
        }
        new
    }
}

impl Rule {
    fn apply(&self, text: &[u8], found: &mut u64) -> Option<Vec<u8>> {
        match &self.find {
            Find::Card => replace(text, cards(text), &self.replacement, found),
            Find::Ip(patterns) => {
                let (v4, v6) = &**patterns;
                // The longer form first: it may end in the shorter.
                let mut new = None;
                if memchr(b':', text).is_some() {
                    let places = v6.find_iter(text).map(|m| m.range()).filter(|r| {
                        stands_alone(text, r)
                            && text.get(r.clone()).and_then(|a| std::str::from_utf8(a).ok()).is_some_and(is_ipv6)
                    });
                    new = replace(text, places, &self.replacement, found);
                }
                let now = new.as_deref().unwrap_or(text);
                if memchr(b'.', now).is_some() {
                    let places = v4.find_iter(now).map(|m| m.range()).filter(|r| stands_alone(now, r));
                    let changed = replace(now, places, &self.replacement, found);
                    new = changed.or(new);
                }
                new
            }
            Find::Pattern { only_with, patterns } => {
                if !only_with.is_empty() && memmem::find(text, only_with).is_none() {
                    return None;
                }
                let mut new: Option<Vec<u8>> = None;
                for pattern in patterns.iter() {
                    let now = new.as_deref().unwrap_or(text);
                    let places = pattern.captures_iter(now).filter_map(|c: Captures<'_>| {
                        let whole = c.get(0)?;
                        Some(c.iter().skip(1).flatten().next().unwrap_or(whole).range())
                    });
                    if let Some(changed) = replace(now, places, &self.replacement, found) {
                        new = Some(changed);
                    }
                }
                new
            }
        }
    }
}

type Range = std::ops::Range<usize>;

fn replace(text: &[u8], places: impl Iterator<Item = Range>, with: &[u8], found: &mut u64) -> Option<Vec<u8>> {
    let mut new = Vec::new();
    let mut done = 0;
    let mut any = false;
    for place in places.filter(|place| !place.is_empty()) {
        // What an earlier turn put there is left alone.
        if place.start < done || text.get(place.clone()) == Some(with) {
            continue;
        }
        new.extend_from_slice(text.get(done..place.start).unwrap_or_default());
        new.extend_from_slice(with);
        done = place.end;
        any = true;
        *found += 1;
    }
    any.then(|| {
        new.extend_from_slice(text.get(done..).unwrap_or_default());
        new
    })
}

const EMAIL: &str = r"(?-u)[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\.[A-Za-z]{2,24}\b";
const JWT: &str = r"(?-u)\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*";
const TOKENS: [&str; 6] = [
    // By their form.
    r"(?-u)\b(?:(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35}|sk-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}|dop_v1_[a-f0-9]{64}|hf_[A-Za-z0-9]{30,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})",
    // After the scheme of a header.
    r"(?i-u)\b(?:bearer|basic)\s+([A-Za-z0-9._~+/-]{8,}=*)",
    // After the name of a secret.
    r#"(?i-u)(?:api[_-]?key|access[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|refresh[_-]?token|id[_-]?token|client[_-]?secret|password|passwd|passphrase|\bpwd|\btoken|\bsecret)\\?["']?\s*[=:]\s*\\?"([^"\\]{1,512})"#,
    r#"(?i-u)(?:api[_-]?key|access[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|refresh[_-]?token|id[_-]?token|client[_-]?secret|password|passwd|passphrase|\bpwd|\btoken|\bsecret)["']?\s*[=:]\s*'?([^\s"',;&{}\[\]\\]{1,512})"#,
    // In a URL.
    r"(?-u)\b[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s/:@]{0,255}:([^\s/@]{1,255})@",
    // A key in its armour.
    r"(?s-u)-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\z)",
];
const IPV4: &str =
    r"(?-u)(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const IPV6: &str = r"(?-u)[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*)";

fn is_ipv6(text: &str) -> bool {
    text.len() > 2 && text.parse::<Ipv6Addr>().is_ok()
}

/// Whether neither letters nor digits touch it, nor a dot with a digit behind it.
fn stands_alone(text: &[u8], place: &Range) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let before = place.start.checked_sub(1).and_then(|at| text.get(at));
    let before_that = place.start.checked_sub(2).and_then(|at| text.get(at));
    let (after, after_that) = (text.get(place.end), text.get(place.end + 1));
    let dotted = |dot: Option<&u8>, digit: Option<&u8>| dot == Some(&b'.') && digit.is_some_and(u8::is_ascii_digit);
    !before.is_some_and(word) && !after.is_some_and(word) && !dotted(before, before_that) && !dotted(after, after_that)
}

/// Places of card numbers.
fn cards(text: &[u8]) -> impl Iterator<Item = Range> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text.get(at..)?.iter().position(u8::is_ascii_digit)?;
            let touches = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let begins = start.checked_sub(1).and_then(|b| text.get(b)).is_none_or(|b| !touches(b));
            let (end, next) = run_of_digits(text, start);
            at = next;
            if begins && let Some(range) = card_in(text, start, end) {
                at = range.end;
                return Some(range);
            }
        }
    })
}

/// The end of digits with single blanks or dashes between them, and where to look on.
fn run_of_digits(text: &[u8], start: usize) -> (usize, usize) {
    let (mut end, mut at) = (start, start);
    let mut first_gap = None;
    while let Some(byte) = text.get(at) {
        if byte.is_ascii_digit() {
            end = at + 1;
        } else if matches!(byte, b' ' | b'-') && end == at && text.get(at + 1).is_some_and(u8::is_ascii_digit) {
            first_gap.get_or_insert(at);
        } else {
            break;
        }
        at += 1;
        // Longer than any card with its gaps: the next group may begin one.
        if at - start > 19 + 18 {
            break;
        }
    }
    (end, first_gap.unwrap_or(end).max(start + 1))
}

/// The longest card number that begins here and ends at the end of a group.
fn card_in(text: &[u8], start: usize, end: usize) -> Option<Range> {
    let touches = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let mut digits = [0u8; 19];
    let mut count = 0;
    let mut best = None;
    for (at, byte) in text.iter().enumerate().take(end).skip(start) {
        if !byte.is_ascii_digit() {
            continue;
        }
        if count == digits.len() {
            break;
        }
        digits[count] = byte - b'0';
        count += 1;
        let whole = text.get(at + 1).is_none_or(|b| !touches(b));
        if whole && is_card(&digits[..count]) {
            best = Some(start..at + 1);
        }
    }
    best
}

/// Beginnings and lengths that issuers use (ISO/IEC 7812), and Luhn's check digit.
fn is_card(digits: &[u8]) -> bool {
    let front = |n: usize| digits.iter().take(n).fold(0u32, |sum, d| sum * 10 + u32::from(*d));
    let (two, three, four) = (front(2), front(3), front(4));
    let known = match digits.len() {
        13 => two / 10 == 4,
        14 => matches!(two, 36 | 38 | 39) || (300..=305).contains(&three),
        15 => matches!(two, 34 | 37),
        16 => {
            two / 10 == 4
                || (51..=55).contains(&two)
                || (2221..=2720).contains(&four)
                || (3528..=3589).contains(&four)
                || matches!(two, 60 | 62 | 64 | 65 | 30 | 36 | 38)
                || matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763)
        }
        17 | 18 => two == 62 || matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763),
        19 => {
            two / 10 == 4
                || matches!(two, 62 | 60 | 64 | 65)
                || matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763)
        }
        _ => false,
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(*d);
            match (i % 2, d) {
                (0, d) => d,
                (_, d) if d > 4 => d * 2 - 9,
                (_, d) => d * 2,
            }
        })
        .sum();
    known && sum.is_multiple_of(10) && digits.iter().any(|d| *d != digits[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(presets: &[Preset], patterns: &[&str]) -> Redactor {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        Redactor::new(&RedactTransform { presets: presets.to_vec(), patterns, ..RedactTransform::default() }).unwrap()
    }

    fn redact(redactor: &Redactor, text: &str) -> String {
        let mut found = vec![0; redactor.rules.len()];
        redactor.apply(text.as_bytes(), &mut found).map_or_else(|| text.to_owned(), |t| String::from_utf8(t).unwrap())
    }

    #[test]
    fn each_preset_takes_what_it_is_for_and_leaves_the_rest() {
        for (preset, cases) in [
            (
                Preset::Card,
                &[
                    ("paid with 4111111111111111 ok", "paid with [card] ok"),
                    ("4111 1111 1111 1111, 5500-0000-0000-0004", "[card], [card]"),
                    ("amex 378282246310005.", "amex [card]."),
                    ("diners 30569309025904 jcb 3530111333300000", "diners [card] jcb [card]"),
                    (r#"{"pan":"6011111111111117"}"#, r#"{"pan":"[card]"}"#),
                    // Wrong check digit, times, ids, parts of longer numbers.
                    ("4111111111111112", "4111111111111112"),
                    ("at 1772366400000000001", "at 1772366400000000001"),
                    ("id 41111111111111110000", "id 41111111111111110000"),
                    ("x4111111111111111 4111111111111111y", "x4111111111111111 4111111111111111y"),
                    ("order 12 4111111111111111", "order 12 [card]"),
                    ("0000000000000000", "0000000000000000"),
                ][..],
            ),
            (
                Preset::Email,
                &[
                    ("from ann.b+c@mail.example.org to", "from [email] to"),
                    ("<a@b.io>,<c@d.co>", "<[email]>,<[email]>"),
                    ("no@where, @handle, a@b", "no@where, @handle, a@b"),
                ],
            ),
            (
                Preset::Jwt,
                &[
                    (
                        "t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P done",
                        "t=[jwt] done",
                    ),
                    ("eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJIUzI1NiJ9"),
                ],
            ),
            (
                Preset::Token,
                &[
                    ("key AKIAIOSFODNN7EXAMPLE used", "key [token] used"),
                    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[token]"),
                    ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [token]"),
                    ("authorization: basic dXNlcjpwYXNz==", "authorization: basic [token]"),
                    ("password=hunter2&x=1", "password=[token]&x=1"),
                    (r#"{"api_key":"a b c","n":1}"#, r#"{"api_key":"[token]","n":1}"#),
                    (r#"msg="{\"password\":\"hunter2\"}""#, r#"msg="{\"password\":\"[token]\"}""#),
                    ("client_secret: 's3cr3t'", "client_secret: '[token]'"),
                    ("postgres://app:pw1@db:5432/x", "postgres://app:[token]@db:5432/x"),
                    ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nnext", "[token]\nnext"),
                    ("tokens left: 3, secretary: Bob", "tokens left: 3, secretary: Bob"),
                    ("http://a:8080/x@y", "http://a:8080/x@y"),
                ],
            ),
            (
                Preset::Ip,
                &[
                    ("client 10.0.0.17:443 up", "client [ip]:443 up"),
                    ("[2001:db8::1]:443 and fe80::1%eth0 and ::1", "[[ip]]:443 and [ip]%eth0 and [ip]"),
                    ("version 1.2.3 build 1.2.3.4.5 at 12:34:56", "version 1.2.3 build 1.2.3.4.5 at 12:34:56"),
                    ("std::vector 256.1.1.1 a::b", "std::vector 256.1.1.1 [ip]"),
                    ("::ffff:10.0.0.1", "[ip]"),
                ],
            ),
        ] {
            let redactor = redactor(&[preset], &[]);
            for (text, want) in cases {
                assert_eq!(redact(&redactor, text), *want, "{preset:?}: {text}");
            }
        }
    }

    #[test]
    fn own_patterns_replace_their_first_group_or_all() {
        let r = redactor(&[], &[r"\bEMP-\d{4}\b", r"iban=(\w+)"]);
        assert_eq!(redact(&r, "EMP-1234 iban=DE89 x"), "[pattern] iban=[pattern] x");
        let mut found = [0];
        r.apply(b"EMP-1234 EMP-9999", &mut found);
        assert_eq!((found, r.names().collect::<Vec<_>>()), ([2], vec!["pattern"]));
    }

    proptest! {
        #[test]
        fn nothing_that_was_found_is_found_again(text in "(\\PC{0,12}|4111[ -]?1111[ -]?1111[ -]?1111|a@b\\.io|token=x1|10\\.0\\.0\\.1| ){0,12}") {
            let all: Vec<Preset> = Preset::ALL.iter().map(|(p, _)| *p).collect();
            let r = redactor(&all, &[]);
            let once = redact(&r, &text);
            prop_assert_eq!(redact(&r, &once), once.clone());
        }

        #[test]
        fn any_bytes_are_taken(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let all: Vec<Preset> = Preset::ALL.iter().map(|(p, _)| *p).collect();
            let r = redactor(&all, &["(?s)."]);
            let mut found = vec![0; 6];
            let new = r.apply(&text, &mut found);
            prop_assert_eq!(new.is_some(), found.iter().any(|n| *n > 0));
        }

        #[test]
        fn every_number_with_a_right_check_digit_of_an_issuer_is_a_card(middle in 0u64..10_000_000_000_000u64) {
            let body = format!("41{middle:013}");
            let sum: u32 = body.bytes().rev().enumerate().map(|(i, b)| {
                let d = u32::from(b - b'0');
                if i % 2 == 0 { if d > 4 { d * 2 - 9 } else { d * 2 } } else { d }
            }).sum();
            let number = format!("{body}{}", (10 - sum % 10) % 10);
            let r = redactor(&[Preset::Card], &[]);
            prop_assert_eq!(redact(&r, &format!("a {number} b")), "a [card] b");
        }
    }
}
