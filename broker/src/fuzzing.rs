//! What is fuzzed of the broker: bytes from strangers and from damaged disks, each with what must hold whatever they are.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

use millrace_fuzzing::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: crate::protocol::fuzz::frame, seeds: crate::protocol::fuzz::frame_seeds },
    Target {
        name: "scram",
        run: crate::protocol::access::fuzz::scram,
        seeds: crate::protocol::access::fuzz::scram_seeds,
    },
    Target { name: "membership", run: crate::group::fuzz::membership, seeds: crate::group::fuzz::membership_seeds },
    Target { name: "batch", run: crate::storage::fuzz::batch, seeds: crate::storage::fuzz::batch_seeds },
    Target { name: "recovery", run: crate::storage::fuzz::recovery, seeds: crate::storage::fuzz::recovery_seeds },
];

millrace_fuzzing::short_form!();
