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

millrace_fuzzing::short_form!();
