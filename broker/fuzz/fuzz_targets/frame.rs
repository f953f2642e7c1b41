//! Feeds `millrace_broker::fuzzing` target `frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_broker::fuzzing::run("frame", bytes));
