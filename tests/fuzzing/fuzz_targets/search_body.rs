//! Feeds `millrace_aggregator::elastic::fuzzing::search_body`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_aggregator::elastic::fuzzing::search_body(bytes));
