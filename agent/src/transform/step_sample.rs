//! TransformStep `sample`: one event in so many is kept.
//!
//! In: a key, or the place of an event in its source. Out: whether it is kept. Touches nothing, remembers nothing: the
//! same event is kept by every agent and after every restart.

/// Whether a seed is among the one in `rate` that are kept.
pub(crate) fn is_kept(seed: u64, rate: u64) -> bool {
    mixed(seed).is_multiple_of(rate.max(1))
}

/// A number of a key: FNV-1a, which every version of this program computes alike.
pub(crate) fn seed_of(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads neighbouring numbers (the finalizer of SplitMix64).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_in_so_many_is_kept_however_keys_look() {
        for rate in [1, 2, 10, 100] {
            for (what, seeds) in [
                ("offsets", (0..100_000u64).map(|i| i * 128).collect::<Vec<_>>()),
                ("keys", (0..100_000u64).map(|i| seed_of(format!("trace-{i}").as_bytes())).collect()),
            ] {
                let kept = seeds.iter().filter(|seed| is_kept(**seed, rate)).count() as f64;
                let want = 100_000.0 / rate as f64;
                assert!((kept - want).abs() < want * 0.1 + 1.0, "{what}, 1 in {rate}: {kept} kept");
            }
        }
    }

    #[test]
    fn choices_do_not_change_between_versions() {
        let kept: Vec<u64> = (0..60).filter(|seed| is_kept(*seed, 10)).collect();
        assert_eq!(kept, KEPT);
        assert_eq!(seed_of(b"abc"), 0xe71f_a219_0541_574b);
    }

    const KEPT: [u64; 6] = [2, 18, 29, 30, 31, 43];
}
