//! Feeds `millrace_log::fuzzing` target `batch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_log::fuzzing::run("batch", bytes));
