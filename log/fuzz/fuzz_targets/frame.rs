//! Feeds `millrace_log::fuzzing` target `frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_log::fuzzing::run("frame", bytes));
