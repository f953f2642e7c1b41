//! `ip("…")`: an address, a range `a-b` or a prefix `a/24`, in lines and in labels.

use std::net::IpAddr;

/// What addresses are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Matcher {
    /// This one.
    One(IpAddr),
    /// From one to the other, both included.
    Range(IpAddr, IpAddr),
    /// Those whose first bits are equal.
    Prefix(IpAddr, u32),
}

impl Matcher {
    /// Reads `10.0.0.1`, `10.0.0.1-10.0.0.9`, `10.0.0.0/8`.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let wrong = || format!("ip: invalid pattern: {}", crate::syntax::quantity::quote(pattern));
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        if let Some((from, to)) = pattern.split_once('-') {
            let (from, to) = (address(from)?, address(to)?);
            if from.is_ipv4() != to.is_ipv4() || from > to {
                return Err(wrong());
            }
            return Ok(Self::Range(from, to));
        }
        if let Some((network, bits)) = pattern.split_once('/') {
            let network = address(network)?;
            let bits: u32 = bits.parse().map_err(|_| wrong())?;
            let width = if network.is_ipv4() { 32 } else { 128 };
            return if bits <= width { Ok(Self::Prefix(network, bits)) } else { Err(wrong()) };
        }
        address(pattern).map(Self::One)
    }

    /// Whether an address is one of them.
    pub fn matches(&self, address: IpAddr) -> bool {
        match self {
            Self::One(one) => *one == address,
            Self::Range(from, to) => from.is_ipv4() == address.is_ipv4() && (*from..=*to).contains(&address),
            Self::Prefix(network, bits) => match (network, address) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                    u32::from(*a) & mask == u32::from(b) & mask
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                    u128::from(*a) & mask == u128::from(b) & mask
                }
                _ => false,
            },
        }
    }

    /// Whether the text is one of them.
    pub fn is(&self, text: &str) -> bool {
        text.parse().is_ok_and(|address| self.matches(address))
    }

    /// Whether one of them stands somewhere in the text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
            let charset: fn(&u8) -> bool = if looks_like_v4(rest) {
                |b| b.is_ascii_digit() || *b == b'.'
            } else if looks_like_v6(rest) {
                |b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')
            } else {
                at += 1;
                continue;
            };
            let length = rest.iter().take_while(|b| charset(b)).count().max(1);
            let found = rest.get(..length).and_then(|run| std::str::from_utf8(run).ok());
            if found.is_some_and(|run| self.is(run)) {
                return true;
            }
            at += length;
        }
        false
    }
}

/// A dot comes within three characters of a digit.
fn looks_like_v4(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit) && text.get(1..text.len().min(4)).is_some_and(|t| t.contains(&b'.'))
}

/// `::`, or a colon within four characters of a hexadecimal digit.
fn looks_like_v6(text: &[u8]) -> bool {
    text.starts_with(b"::")
        || (text.first().is_some_and(u8::is_ascii_hexdigit)
            && text.get(1..text.len().min(5)).is_some_and(|t| t.contains(&b':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_lines() {
        for (pattern, line, want) in [
            ("10.0.0.1", "from 10.0.0.1:5432 to", true),
            ("10.0.0.1", "from 10.0.0.11", false),
            ("10.0.0.0/8", "x=10.2.3.4,", true),
            ("10.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.1-10.0.0.9", "10.0.0.10 10.0.0.9", true),
            ("2001:db8::/32", "[2001:db8::1]", true),
            ("fe80::/10", "fe80::1%eth0", true),
            ("::1", "at ::1 now", true),
            ("10.0.0.0/8", "192.168.0.1", false),
        ] {
            assert_eq!(Matcher::new(pattern).unwrap().is_in(line.as_bytes()), want, "{pattern} {line}");
        }
        for wrong in ["300.0.0.1", "10.0.0.0/99", "x", "", "10.0.0.9-10.0.0.1"] {
            assert!(Matcher::new(wrong).is_err(), "{wrong}");
        }
    }
}
