//! Networks: addresses that begin alike (CIDR).
//!
//! In: text as configuration has it. Out: whether an address is in one. Touches nothing.

use std::net::IpAddr;

/// An address, or all that begin like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u128,
    bits: u32,
}

impl Network {
    /// Reads `10.0.0.7`, `10.0.0.0/24`, `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text.parse::<IpAddr>().ok()?, None),
            Some((address, bits)) => (address.parse().ok()?, Some(bits.parse::<u32>().ok()?)),
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        (bits <= width).then(|| Self { address: number(address), bits: bits + 128 - width })
    }

    /// Whether all addresses of another network are in it.
    pub fn contains(&self, other: &Self) -> bool {
        other.bits >= self.bits && (self.bits == 0 || (other.address ^ self.address).leading_zeros() >= self.bits)
    }

    /// Whether an address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        let differing = number(address) ^ self.address;
        self.bits == 0 || differing.leading_zeros() >= self.bits
    }
}

/// IPv4 addresses as they are mapped into IPv6.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_their_addresses() {
        for (network, address, want) in [
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "::ffff:10.0.0.7", true),
            ("10.0.0.7", "10.0.0.8", false),
            ("10.0.0.0/24", "10.0.0.200", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("0.0.0.0/0", "10.0.1.0", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "10.0.0.1", true),
        ] {
            assert_eq!(Network::parse(network).unwrap().has(address.parse().unwrap()), want, "{network} {address}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/x", "host"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks_have_their_parts() {
        for (network, other, want) in [
            ("169.254.0.0/16", "169.254.169.254", true),
            ("169.254.0.0/16", "169.254.0.0/16", true),
            ("169.254.0.0/16", "169.0.0.0/8", false),
            ("169.254.0.0/16", "0.0.0.0/0", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "10.0.0.0/8", true),
            ("0.0.0.0/0", "::/0", false),
        ] {
            let (network, other) = (Network::parse(network).unwrap(), Network::parse(other).unwrap());
            assert_eq!(network.contains(&other), want, "{network:?} {other:?}");
        }
    }
}
