//! Target `loki_protobuf` of `millrace_log::fuzzing`.

#![no_main]

#[global_allocator]
static COUNTING: millrace_fuzzing::memory::Counting = millrace_fuzzing::memory::Counting;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_fuzzing::run(millrace_log::fuzzing::TARGETS, "loki_protobuf", bytes));
