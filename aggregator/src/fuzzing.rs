//! What is fuzzed of the aggregator: writes and searches from strangers.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

use millrace_fuzzing::Target;

use crate::elastic::fuzz;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "bulk", run: fuzz::bulk, seeds: fuzz::bulk_seeds },
    Target { name: "query_string", run: fuzz::query_string, seeds: fuzz::query_string_seeds },
    Target { name: "search_body", run: fuzz::search_body, seeds: fuzz::search_body_seeds },
];

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
