//! Target `scram` of `millrace_broker::fuzzing`.

#![no_main]

#[global_allocator]
static COUNTING: millrace_fuzzing::memory::Counting = millrace_fuzzing::memory::Counting;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_fuzzing::run(millrace_broker::fuzzing::TARGETS, "scram", bytes));
