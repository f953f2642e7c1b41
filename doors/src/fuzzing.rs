//! What is fuzzed of the checks in front of all APIs: tokens from strangers.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

use millrace_fuzzing::Target;

use crate::access::oidc::fuzz;

/// All of them.
pub const TARGETS: &[Target] = &[Target { name: "token", run: fuzz::token, seeds: fuzz::token_seeds }];

millrace_fuzzing::short_form!();
