//! Feeds `millrace_log::fuzzing` target `recovery`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_log::fuzzing::run("recovery", bytes));
