//! What is fuzzed of the checks in front of all APIs: tokens from strangers.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

use millrace_fuzzing::Target;

use crate::access::oidc::fuzz;

/// All of them.
pub const TARGETS: &[Target] = &[Target { name: "token", run: fuzz::token, seeds: fuzz::token_seeds }];

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static COUNTING: millrace_fuzzing::memory::Counting = millrace_fuzzing::memory::Counting;

    #[test]
    fn promises_hold_for_seeds_and_kept_inputs() {
        millrace_fuzzing::repeat(TARGETS);
    }

    #[test]
    #[ignore = "writes files for tests/fuzz"]
    fn corpus_is_written() {
        millrace_fuzzing::write_corpus(TARGETS);
    }
}
