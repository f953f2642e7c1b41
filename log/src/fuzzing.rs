//! What is fuzzed of the words that all share: records of topics and batches of brokers, pushes by HTTP.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

use millrace_fuzzing::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "record", run: crate::record::fuzz::record, seeds: crate::record::fuzz::record_seeds },
    Target { name: "fetched", run: crate::native::fuzz::fetched, seeds: crate::native::fuzz::fetched_seeds },
    Target { name: "loki_json", run: crate::push::fuzz::loki_json, seeds: crate::push::fuzz::loki_json_seeds },
    Target {
        name: "loki_protobuf",
        run: crate::push::fuzz::loki_protobuf,
        seeds: crate::push::fuzz::loki_protobuf_seeds,
    },
];

millrace_fuzzing::short_form!();
