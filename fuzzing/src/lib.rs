//! What is fuzzed, and its short form that every test run can afford.
//!
//! A crate that reads what strangers, other programs or damaged disks hand in has a module `fuzzing` with a list of [`Target`]s:
//! each takes any bytes and panics where a promise is broken. cargo-fuzz feeds them from `tests/fuzzing`; [`short_form!`] makes
//! ordinary tests that feed seeds, changed seeds and kept inputs.
//!
//! In: targets. Out: a panic that names target and input. Touches files in `tests/fuzzing` (by reading) and the folder in
//! `MILLRACE_CORPUS` (by writing). Compiled into tests and fuzz targets only, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

/// What a target really allocates.
pub mod memory;

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// One thing to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name in `tests/fuzzing/fuzz_targets`, unique in the workspace.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// Inputs that reach far, to begin with; the number draws another set where seeds are drawn.
    pub seeds: fn(u64) -> Vec<Vec<u8>>,
}

/// The short form as tests of a module that has `TARGETS`, over an allocator that counts what they hold.
#[macro_export]
macro_rules! short_form {
    () => {
        #[cfg(test)]
        mod short_form {
            #[global_allocator]
            static COUNTING: $crate::memory::Counting = $crate::memory::Counting;

            #[test]
            fn promises_hold_for_seeds_and_kept_inputs() {
                $crate::repeat(super::TARGETS);
            }

            #[test]
            #[ignore = "writes files for tests/fuzz"]
            fn corpus_is_written() {
                $crate::write_corpus(super::TARGETS);
            }
        }
    };
}

/// Seeds that are texts.
pub fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Feeds the target of this name.
pub fn run(targets: &[Target], name: &str, bytes: &[u8]) {
    let target = targets.iter().find(|target| target.name == name).unwrap();
    (target.run)(bytes);
}

/// The short form of `tests/fuzz`: feeds every target with its seeds, with changes of them, and with the inputs kept in
/// `tests/fuzzing/found` and `tests/fuzzing/kept`. `MILLRACE_SEED` draws other changes and repeats a failure,
/// `MILLRACE_FUZZ_ROUNDS` makes more of them.
pub fn repeat(targets: &[Target]) {
    let seed = number("MILLRACE_SEED", 7);
    let rounds = number("MILLRACE_FUZZ_ROUNDS", 4);
    let mut random = StdRng::seed_from_u64(seed);
    for target in targets {
        let seeds = (target.seeds)(seed);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (path, bytes) in kept(target.name) {
            feed(target, &bytes, &path.display().to_string());
        }
        for bytes in &seeds {
            feed(target, bytes, "a seed");
            for _ in 0..rounds {
                let other = &seeds[random.random_range(0..seeds.len())];
                feed(target, &changed(bytes, other, &mut random), &format!("MILLRACE_SEED={seed}"));
            }
        }
    }
}

/// Fills the folder that cargo-fuzz starts from: `MILLRACE_CORPUS`, a folder for each target.
pub fn write_corpus(targets: &[Target]) {
    let folder = PathBuf::from(std::env::var("MILLRACE_CORPUS").unwrap());
    for target in targets {
        let dir = folder.join(target.name);
        std::fs::create_dir_all(&dir).unwrap();
        for (n, bytes) in (target.seeds)(1).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n:04}")), bytes).unwrap();
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn feed(target: &Target, bytes: &[u8], from: &str) {
    let held = std::panic::catch_unwind(|| (target.run)(bytes));
    assert!(held.is_ok(), "{} ({from}) breaks on {:?}", target.name, String::from_utf8_lossy(bytes));
}

/// Inputs that are kept for a target: those that once broke a promise (`found`), and those that reach what seeds don't (`kept`).
fn kept(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzzing");
    let folders = ["found", "kept"].map(|folder| root.join(folder).join(name));
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// One to four small changes, as a fuzzer makes them.
fn changed(seed: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            bytes.push(random.random());
        }
        let at = random.random_range(0..bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 64));
        match random.random_range(0..9) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.random()),
            4 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            5 => {
                let end = (at + 4).min(bytes.len());
                let value: u32 = [0, 1, u32::MAX, i32::MAX as u32, random.random()][random.random_range(0..5)];
                bytes[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
            }
            6 => bytes[at] = random.random_range(b' '..=b'~'),
            7 => drop(bytes.drain(at..end)),
            _ => {
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len().min(from + 64));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_nines(bytes: &[u8]) {
        assert!(!bytes.contains(&b'9'), "a nine");
    }

    #[test]
    fn a_broken_promise_is_named_with_its_target_and_input() {
        let good = Target { name: "good", run: no_nines, seeds: |_| texts(&[""]) };
        let bad = Target { name: "bad", run: no_nines, seeds: |_| texts(&["1", "79"]) };
        run(&[good, bad], "bad", b"1");
        let panic = std::panic::catch_unwind(|| feed(&bad, b"79", "a seed")).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "bad (a seed) breaks on \"79\"");
        assert!(std::panic::catch_unwind(|| repeat(&[good, bad])).is_err());
    }

    #[test]
    fn changes_differ_and_repeat_with_their_seed() {
        let all = |seed| -> Vec<Vec<u8>> {
            let mut random = StdRng::seed_from_u64(seed);
            (0..50).map(|_| changed(b"some text", b"another one", &mut random)).collect()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }
}
