//! What is fuzzed: bytes from strangers and from damaged disks, each with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `broker/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds and changed seeds in every test run. Touches memory only. Compiled with the feature `fuzzing` and in
//! tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

/// One thing to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name in `broker/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// Inputs that reach far, to begin with; the number draws another set.
    pub seeds: fn(u64) -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: crate::protocol::fuzz::frame, seeds: crate::protocol::fuzz::frame_seeds },
    Target { name: "batch", run: crate::storage::fuzz::batch, seeds: crate::storage::fuzz::batch_seeds },
    Target { name: "recovery", run: crate::storage::fuzz::recovery, seeds: crate::storage::fuzz::recovery_seeds },
];

/// Feeds the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    (target.run)(bytes);
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// One to four small changes, as a fuzzer makes them.
    fn change(seed: &[u8], random: &mut StdRng) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..random.random_range(1..=4) {
            if bytes.is_empty() {
                bytes.push(random.random());
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..6) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, random.random()),
                4 => {
                    let end = random.random_range(at..=bytes.len().min(at + 64));
                    let copied = bytes[at..end].to_vec();
                    bytes.splice(at..at, copied);
                }
                _ => {
                    let end = (at + 4).min(bytes.len());
                    let value: u32 = [0, 1, u32::MAX, i32::MAX as u32, random.random()][random.random_range(0..5)];
                    bytes[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
                }
            }
        }
        bytes
    }

    /// A short form of `tests/fuzz` that every test run can afford. `MILLRACE_SEED` repeats a failure.
    #[test]
    fn promises_hold_for_seeds_and_changed_seeds() {
        let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
        let rounds: usize = std::env::var("MILLRACE_FUZZ_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
        let mut random = StdRng::seed_from_u64(seed);
        for target in TARGETS {
            for bytes in (target.seeds)(seed) {
                (target.run)(&bytes);
                for _ in 0..rounds {
                    let changed = change(&bytes, &mut random);
                    let held = std::panic::catch_unwind(|| (target.run)(&changed));
                    assert!(held.is_ok(), "{} (seed {seed}) breaks on {changed:?}", target.name);
                }
            }
        }
    }

    /// Fills the folder that cargo-fuzz starts from: `MILLRACE_CORPUS=folder cargo test -p millrace-log corpus -- --ignored`.
    #[test]
    #[ignore = "writes files for tests/fuzz"]
    fn corpus_is_written() {
        let folder = std::path::PathBuf::from(std::env::var("MILLRACE_CORPUS").unwrap());
        for target in TARGETS {
            let dir = folder.join(target.name);
            std::fs::create_dir_all(&dir).unwrap();
            for (n, bytes) in (target.seeds)(1).into_iter().enumerate() {
                std::fs::write(dir.join(format!("seed-{n:04}")), bytes).unwrap();
            }
        }
    }

    /// Inputs that once broke a promise: `broker/fuzz/found/TARGET/NAME`.
    #[test]
    fn what_was_found_stays_mended() {
        let found = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/found");
        for target in TARGETS {
            let Ok(files) = std::fs::read_dir(found.join(target.name)) else { continue };
            for file in files {
                (target.run)(&std::fs::read(file.unwrap().path()).unwrap());
            }
        }
    }
}
